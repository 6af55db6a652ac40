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
from dataclasses import Field, fields
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
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Scalar] = {}
    path = home / CONFIG_NAME
    for key, value in read_config(home).items():
        values[key] = _checked(kind, _known(known, key, str(path)), value, str(path))
    for variable, text in (os.environ if environ is None else environ).items():
        key = variable.removeprefix(_PREFIX).lower()
        if variable.startswith(_PREFIX) and key in known:
            values[key] = parse_value(kind, key, text, where=variable)
    for key, option in (options or {}).items():
        if option is not None:
            values[key] = _checked(kind, _known(known, key, "an option"), option, f"option {key}")
    return kind(**values)


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
    known = {f.name: f for f in fields(kind)}
    value = parse_value(kind, _known(known, key, "the command").name, text, where=key)
    values = {**read_config(home), key: value}
    lines = [f"{name} = {_toml(values[name])}\n" for name in sorted(values)]
    write_atomic(home / CONFIG_NAME, "".join(lines).encode())
    return value


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
        raise ConfigError(f"{where}: expected {_expected(kind, field)}, found {text[:80]!r}") from error
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
            f"{where}: {field.name}: expected {_expected(kind, field)}, found {str(value)[:80]!r}"
        )
    if check := field.metadata.get("check"):
        check(value)
    return value  # type: ignore[no-any-return]


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
