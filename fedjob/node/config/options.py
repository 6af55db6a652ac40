"""Lists of options, as a node's owner writes them into one setting: `name=value, name=value`."""

from __future__ import annotations

from fedjob.common.errors import ConfigError


def read_options(text: str) -> dict[str, str]:
    """Read `name=value, name=value`.

    Raises:
        ConfigError: it does not read so.
    """
    options = {}
    for piece in filter(str.strip, text.split(",")):
        name, equals, value = piece.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"expected 'name=value, name=value', found {piece[:80]!r}")
        options[name.strip()] = value.strip()
    return options
