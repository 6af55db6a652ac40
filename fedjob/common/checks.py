"""The checks of plain values: ranges that numbers must lie in, choices, and text that is safe to print."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fedjob.common.errors import SpecError, WrongArguments

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")
P = ParamSpec("P")

MAX_PATH_BYTES = 4096

_MAX_ARGUMENTS = 20
"""Most arguments of a class that an error lists."""

MAX_NAMED = 5
"""Most names that a sentence lists."""

MAX_IN_ROW = 20
"""Most names in a row of a table that is about them, and most lines that say something of one each."""

MAX_SHOWN = 120
"""Most characters of a value that an error quotes."""


def check_positive(what: str, value: Any) -> None:
    """Check a finite number above 0.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not value > 0:
        raise SpecError(f"{what} is a number above 0, not {shown(value)}")


def check_not_negative(what: str, value: Any) -> None:
    """Check a finite number of 0 or more.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not value >= 0:
        raise SpecError(f"{what} is a number of 0 or more, not {shown(value)}")


def check_decay(what: str, value: Any) -> None:
    """Check a number from 0 to below 1.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not 0 <= value < 1:
        raise SpecError(f"{what} is a number from 0 to below 1, not {shown(value)}")


def check_share(what: str, value: Any) -> None:
    """Check a number above 0 and at most 1.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise SpecError(f"{what} is a number above 0 and at most 1, not {shown(value)}")


def check_count(what: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise SpecError(f"{what} is a whole number of {least} or more, not {shown(value)}")
    return int(value)


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check one of a few words.

    Raises:
        SpecError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise SpecError(f"{what} is {' or '.join(repr(choice) for choice in choices)}, not {shown(value)}")


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no bool."""
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def is_list(value: Any) -> bool:
    """Tell whether a value can be read as a list: a sequence, a set, or what is read once, and no text or bytes."""
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return False
    return isinstance(value, (Sequence, Set, Iterator))


def python_numbers(value: Any) -> Any:
    """Return a value with the numbers and arrays of numpy in it as Python's own, however deep they lie.

    Raises:
        SpecError: it holds itself, or is nested too deeply.
    """
    try:
        return _python_numbers(value)
    except RecursionError as error:
        raise SpecError(f"this {type(value).__name__} holds itself, or is nested too deeply") from error


def _python_numbers(value: Any) -> Any:
    if type(value) is dict:
        return {_python_numbers(key): _python_numbers(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_python_numbers(item) for item in value)
    dtype = getattr(value, "dtype", None)
    if type(value).__module__ == "numpy" and getattr(dtype, "kind", "") in "biufU":
        return value.tolist()
    return value


def check_kinds(part: Any) -> None:
    """Check the fields of a dataclass against their annotations; numbers of numpy become Python's own.

    Kinds that are checked: bool, int (of 64 bits), float, str, and tuples of these, which may be given as any
    sequence; each with None where the annotation has it. One name is left as it is where several can be
    given, and so is what has another annotation.

    Args:
        part: a component, frozen or not, at the beginning of its `__post_init__`.

    Raises:
        SpecError: a field holds something else; it is named.
    """
    for entry in fields(part):
        kind = str(entry.type).removesuffix(" | None")
        if not entry.init or kind not in _KINDS:
            continue
        value = getattr(part, entry.name)
        if value is None and kind != entry.type:
            continue
        words, convert = _KINDS[kind]
        try:
            found = convert(value)
        except (TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
            optional = " or None" if kind != entry.type else ""
            raise SpecError(
                f"{type(part).__name__}({entry.name}=...) is {words}{optional}, not {shown(value)}"
            ) from error
        object.__setattr__(part, entry.name, found)


def _to_bool(value: Any) -> bool:
    value = python_numbers(value)
    if type(value) is not bool:
        raise TypeError
    return value


def _to_int(value: Any) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or not -(2**63) <= int(value) < 2**63
    ):
        raise TypeError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    found = float(value)
    given: Any = value
    return given if type(given) is int else found


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a character can't be written
    return str(value)


def _to_texts(value: Any) -> tuple[str, ...] | str:
    return _to_text(value) if isinstance(value, str) else _to_items(value, _to_text)


def _to_items(value: Any, convert: Callable[[Any], T]) -> tuple[T, ...]:
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)):
        raise TypeError
    return tuple(convert(item) for item in python_numbers(value))


def _to_numbers(value: Any) -> tuple[float, ...]:
    return _to_items(value, _to_float)


_KINDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "bool": ("True or False", _to_bool),
    "int": ("a whole number", _to_int),
    "float": ("a number", _to_float),
    "str": ("text", _to_text),
    "tuple[str, ...]": ("a list of names", _to_texts),
    "tuple[float, ...]": ("a list of numbers", _to_numbers),
    "tuple[float, float]": ("two numbers", _to_numbers),
    "tuple[tuple[float, ...], ...]": (
        "a list of lists of numbers",
        lambda value: _to_items(value, _to_numbers),
    ),
}
"""Annotation -> what it is in words, and what makes it of a value or raises."""


def shown(value: Any) -> str:
    """Return a value for an error: in one line, shortened, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # it holds itself, is too long a number, or its class can't show it
        text = f"this {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def some_of(names: Iterable[str], most: int = MAX_NAMED, *, between: str = ", ") -> str:
    """Return names for a sentence, however many there are: the first ones, and how many more there are."""
    found = list(names)
    more = len(found) - most
    return between.join(found[:most]) + (f" and {more} more" if more > 0 else "")


def check_path(what: str, value: Any) -> Path:
    """Return a path, with `~` as the user's own folder.

    Raises:
        SpecError: no path, or one that no file system takes.
    """
    try:
        if not isinstance(value, (str, os.PathLike)) or value == "":
            raise TypeError
        path = Path(value)
        if not 0 < len(os.fsencode(path)) <= MAX_PATH_BYTES or "\0" in str(path):
            raise ValueError
        return path.expanduser()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError(f"{what} is the path of a file or folder, not {shown(value)}") from error


def printable(text: str) -> str:
    """Return a text that can't steer a terminal: what is no printable character becomes a space.

    Whatever another party wrote goes through this before it is printed.
    """
    return "".join(c if c.isprintable() else " " for c in text)


# -- arguments of methods ------------------------------------------------------------


def checked(call: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function against its annotations, as far as these are plain; see `_ARGUMENTS`.

    Numbers of numpy arrive as Python's own.

    Raises:
        SpecError: one is of another kind; it is named.
        WrongArguments: one is missing, or there is none of that name; the nearest is named.
    """
    signature = inspect.signature(call)
    kinds = {
        name: _WAIT if plain == "float" and name.endswith("_s") else _ARGUMENTS[plain]
        for name, parameter in signature.parameters.items()
        if isinstance(plain := parameter.annotation, str) and plain in _ARGUMENTS
    }

    @functools.wraps(call)
    def with_checks(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            raise WrongArguments(wrong_call(call.__name__, signature, args, kwargs)) from None
        for name, value in given.arguments.items():
            if name in kinds:
                expected, convert = kinds[name]
                try:
                    given.arguments[name] = convert(value)
                except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                    raise SpecError(f"{name} is {expected}, not {shown(value)}") from error
        return call(*given.args, **given.kwargs)

    return with_checks


def named_call(call: Callable[P, R]) -> Callable[P, R]:
    """Have a function name the nearest of its arguments where it is called with one that it does not have.

    Raises:
        WrongArguments: by the function: an argument is missing, or there is none of that name.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def with_names(*args: P.args, **kwargs: P.kwargs) -> R:
        if words := wrong_call(call.__name__, signature, args, kwargs):
            raise WrongArguments(words)
        return call(*args, **kwargs)

    return with_names


def named_arguments(cls: type[C]) -> type[C]:
    """Have a class name the nearest of its arguments where it is made with one that it does not have.

    Raises:
        WrongArguments: by its constructor: an argument is missing, or there is none of that name.
    """
    begin = vars(cls).get("__init__")
    if not isinstance(begin, types.FunctionType) or hasattr(begin, "__wrapped__"):
        return cls
    signature = inspect.signature(begin)

    @functools.wraps(begin)
    def with_names(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            begin(self, *args, **kwargs)
        except TypeError:
            if words := wrong_call(cls.__name__, signature, (self, *args), kwargs):
                raise WrongArguments(words) from None
            raise

    cls.__init__ = with_names  # type: ignore[method-assign]
    return cls


def wrong_call(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Return what is wrong with a call that a signature does not fit, with the nearest name; empty where it fits.

    Args:
        name: of what was called.
        args: with the object of a method, which is not counted.
    """
    parameters = [each for key, each in signature.parameters.items() if key not in ("self", "cls")]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in () if takes_any else kwargs:
        if key not in named:
            near = get_close_matches(key, named, 1)
            known = f"it has {', '.join(named)}" if named else "it has none"
            known = (
                known
                if len(named) <= _MAX_ARGUMENTS
                else f"see help({name}) for the {len(named)} that it has"
            )
            return f"{name} has no argument {key!r}: {f'did you mean {near[0]!r}?' if near else known}"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)
        by_name = [f"{each.name}=..." for each in parameters if each.kind is each.KEYWORD_ONLY]
        if by_name and "too many positional" in str(error):
            return f"{name}({takes}): {error}; these are written with their names: {some_of(by_name)}"
        return f"{name}({takes}): {error}"
    return ""


def checked_methods(cls: type[C]) -> type[C]:
    """Check the arguments of every public method that a class defines; see `checked`."""
    for name, method in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isinstance(method, types.FunctionType):
            setattr(cls, name, checked(method))
        elif isinstance(method, classmethod):
            setattr(cls, name, classmethod(checked(method.__func__)))
    return cls


def _to_seconds(value: Any) -> float:
    number = _to_float(python_numbers(value))
    if math.isnan(number):
        raise ValueError
    return number


def _to_wait(value: Any) -> float:
    number = _to_float(python_numbers(value))
    if not 0 <= number < math.inf:
        raise ValueError
    return number


def _to_path(value: Any) -> Any:
    try:
        check_path("path", value)
    except SpecError as error:
        raise ValueError from error
    return value


def _path_or_map(value: Any) -> Any:
    return value if isinstance(value, Mapping) else _to_path(value)


def _list_of_texts(value: Any) -> list[str]:
    return list(_to_items(value, _to_text))


def _path_or_round(value: Any) -> Any:
    return _to_int(value) if isinstance(value, numbers.Integral) else _to_path(value)


_PLAIN_ARGUMENTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "bool": ("True or False", _to_bool),
    "int": ("a whole number", lambda value: _to_int(python_numbers(value))),
    "float": ("a number", _to_seconds),
    "str": ("a text", _to_text),
    "str | Path": ("the path of a file or folder", _to_path),
    "str | Path | Mapping[str, Any]": ("a path or a map", _path_or_map),
    "str | Path | int": ("a path or a whole number", _path_or_round),
    "list[str]": ("a list of texts", _list_of_texts),
    "Iterable[str]": ("a list of texts", _list_of_texts),
    "str | Sequence[str]": ("a text or a list of texts", _to_texts),
}


def _or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


_ARGUMENTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **_PLAIN_ARGUMENTS,
    **{
        f"{plain} | None": (f"{expected}, or None", _or_none(convert))
        for plain, (expected, convert) in _PLAIN_ARGUMENTS.items()
    },
}
"""Annotation -> what is expected, and the function that returns a value of that kind or raises."""
_WAIT = ("a finite number of seconds, 0 or more", _to_wait)
"""Those of an argument that is how long to wait, in place of those of any number: every wait has an end."""
