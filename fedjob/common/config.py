"""Settings of a home: defaults, then `config.toml`, then `FEDJOB_*` variables, then options.

A role's settings are a frozen dataclass of bools, ints, floats and strings; it is
loaded once and passed in, never kept in a global. A field may carry
`metadata={"choices": (...), "at_least": n, "check": function}`, which is checked for values of
every source; the function raises `ConfigError`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedjob.common.errors import ConfigError
from fedjob.common.files import write_atomic

T = TypeVar("T")

Scalar = bool | int | float | str

CONFIG_NAME = "config.toml"
_PREFIX = "FEDJOB_"
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")


def load_config(
    kind: type[T],
    home: Path,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Scalar | None] | None = None,
) -> T:
    """Return the settings of `home`.

    Args:
        kind: a frozen dataclass whose fields all have defaults.
        environ: environment variables; by default the process's.
        options: values from a command line; None for an option that was not given.

    Raises:
        ConfigError: a key is unknown (the nearest is named) or a value does not fit.
    """
    found = read_settings(kind, home, environ=environ, options=options)
    for fault in found.faults:
        raise ConfigError(fault.text)
    return kind(**found.values)


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that can't be read.

    Args:
        key: its name, which may be one that nobody knows; empty for the whole file.
        text: what was expected and what was found.
    """

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class FoundSettings:
    """The settings that a home gives, and those that can't be read.

    Args:
        values: those that can, by name.
    """

    values: dict[str, Scalar]
    faults: tuple[Fault, ...]


def read_settings(
    kind: type[Any],
    home: Path,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Scalar | None] | None = None,
) -> FoundSettings:
    """Return the settings of `home` one by one, with every fault; for the arguments see `load_config`."""
    try:
        written = read_config(home)
    except ConfigError as error:
        return FoundSettings({}, (Fault("", str(error)),))
    return check_settings(kind, written, str(home / CONFIG_NAME), environ=environ, options=options)


def check_settings(
    kind: type[Any],
    written: Mapping[str, Any],
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Scalar | None] | None = None,
) -> FoundSettings:
    """Return settings one by one, with every fault.

    Args:
        written: the content of the file.
        path: of the file, for messages.
    """
    known = {f.name: f for f in fields(kind)}
    given: list[tuple[str, Any, str, bool]] = [(key, value, path, False) for key, value in written.items()]
    for variable, text in (os.environ if environ is None else environ).items():
        key = variable.removeprefix(_PREFIX).lower()
        if variable.startswith(_PREFIX) and key in known:
            given.append((key, text, variable, True))
    given += [(key, o, f"option {key}", False) for key, o in (options or {}).items() if o is not None]
    values: dict[str, Scalar] = {}
    faults: list[Fault] = []
    for key, value, where, is_text in given:
        values.pop(key, None)  # a wrong value that would win is no reason to use the one that it hides
        try:
            field = _known(known, key, where)
            parsed = parse_value(kind, key, value, where=where) if is_text else value
            values[key] = _checked(kind, field, parsed, where)
        except ConfigError as error:
            faults.append(Fault(key, str(error)))
    return FoundSettings(values, tuple(faults))


def read_config(home: Path) -> dict[str, Any]:
    """Return the content of `config.toml` in `home`; empty if there is no such file."""
    path = home / CONFIG_NAME
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not readable as TOML: {error}") from error


def set_config(kind: type[Any], home: Path, key: str, text: str) -> Scalar:
    """Set one key in `config.toml`, durably; return its value. Comments in the file are not kept.

    Raises:
        ConfigError: the key is unknown or the value does not fit; the file is unchanged.
    """
    value = parse_value(kind, key, text, where="the command")
    write_config(home, {**read_config(home), key: value})
    return value


def write_config(home: Path, values: Mapping[str, Scalar]) -> None:
    """Replace `config.toml` in `home`, durably. Comments in the file are not kept."""
    lines = [f"{name} = {_toml(values[name])}\n" for name in sorted(values)]
    write_atomic(home / CONFIG_NAME, "".join(lines).encode())


def parse_value(kind: type[Any], key: str, text: str, *, where: str) -> Scalar:
    """Return a key's value from text.

    Raises:
        ConfigError: the key is unknown, or the text is no value of its type.
    """
    field = _known({f.name: f for f in fields(kind)}, key, where)
    wanted = get_type_hints(kind)[key]
    value: Scalar = text
    try:
        if wanted is bool:
            if text.lower() not in (*_TRUE, *_FALSE):
                raise ValueError
            value = text.lower() in _TRUE
        elif wanted in (int, float):
            value = wanted(text)
    except ValueError as error:
        expected = _expected(kind, field)
        raise ConfigError(f"{_place(where, field)}: expected {expected}, found {text[:80]!r}") from error
    return _checked(kind, field, value, where)


def _known(known: Mapping[str, Field[Any]], key: str, where: str) -> Field[Any]:
    if key in known:
        return known[key]
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{where}: there is no setting {key[:80]!r}; {hint}Known: {', '.join(sorted(known))}")


def _checked(kind: type[Any], field: Field[Any], value: Any, where: str) -> Scalar:
    wanted = get_type_hints(kind)[field.name]
    if wanted is float and type(value) is int:
        value = float(value)
    choices = field.metadata.get("choices")
    at_least = field.metadata.get("at_least")
    fits = type(value) is wanted and (choices is None or value in choices)
    if not fits or (at_least is not None and not value >= at_least):
        raise ConfigError(
            f"{_place(where, field)}: expected {_expected(kind, field)}, found {str(value)[:80]!r}"
        )
    if check := field.metadata.get("check"):
        try:
            check(value)
        except ConfigError as error:
            text = str(error).removeprefix(f"{field.name}: ")
            raise ConfigError(f"{_place(where, field)}: {text}") from error
    return value  # type: ignore[no-any-return]


def _place(where: str, field: Field[Any]) -> str:
    """Return where a value stands: the place and the setting, without naming the setting twice."""
    return where if field.name in where.lower().split("/")[-1] else f"{where}: {field.name}"


def _expected(kind: type[Any], field: Field[Any]) -> str:
    if choices := field.metadata.get("choices"):
        return " or ".join(str(choice) for choice in choices)
    wanted = get_type_hints(kind)[field.name]
    if wanted is bool:
        return "on or off"
    text = {int: "a whole number", float: "a number", str: "text"}[wanted]
    at_least = field.metadata.get("at_least")
    return text if at_least is None else f"{text} of {at_least} or more"


def _toml(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    return repr(value)
