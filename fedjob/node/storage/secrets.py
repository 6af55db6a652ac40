"""The secrets of a node's owner, which single plans may use but never send: passwords and keys, by dataset.

They lie in `secrets.json` in the node's home, which only its owner can read. A task gets those that its grant
names; they go to its worker process over a pipe, and are written nowhere else. What of them turns up in a log, a
result or an event is taken out or kept back. That guards against accidents: an owner reads what a plan does with
them before allowing it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import write_atomic

MIN_CHARS = 8
"""A shorter secret would be found in innocent text, and taken out of it."""

HIDDEN = "[secret]"


class Secrets:
    """A node's secrets.

    Args:
        path: of the file; there need be none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, dict[str, str]]:
        """Return dataset -> name -> value.

        Raises:
            ConfigError: the file is not as it was written.
        """
        try:
            plain = json.loads(self._path.read_bytes())
            return {str(d): {str(n): str(v) for n, v in own.items()} for d, own in plain.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{self._path} can't be read ({error}): remove it and set the secrets again"
            ) from error

    def values(self) -> list[str]:
        """Return every secret, the longest first: what is hidden wherever it turns up."""
        found = {value for own in self.all().values() for value in own.values()}
        return sorted(found, key=len, reverse=True)

    def of(self, dataset: str, names: Collection[str]) -> dict[str, str]:
        """Return those of a dataset that a grant names."""
        return {name: value for name, value in self.all().get(dataset, {}).items() if name in names}

    def set(self, dataset: str, name: str, value: str) -> None:
        """Keep a secret.

        Raises:
            SpecError: it is too short to be found again in a log.
        """
        if len(value) < MIN_CHARS:
            raise SpecError(f"a secret has {MIN_CHARS} characters or more, this one {len(value)}")
        kept = self.all()
        kept.setdefault(dataset, {})[name] = value
        self._save(kept)

    def remove(self, dataset: str, name: str) -> None:
        """Forget a secret.

        Raises:
            SpecError: there is none of that name.
        """
        kept = self.all()
        if kept.get(dataset, {}).pop(name, None) is None:
            raise SpecError(
                f"dataset {dataset} has no secret {name!r}: `fedjob node secrets list` shows which it has"
            )
        self._save({dataset: own for dataset, own in kept.items() if own})

    def _save(self, kept: dict[str, dict[str, str]]) -> None:
        write_atomic(self._path, json.dumps(kept, indent=2).encode())


def hide(text: str, values: Iterable[str]) -> str:
    """Return a text without the secrets in it."""
    for value in values:
        text = text.replace(value, HIDDEN)
    return text


def holds_secret(data: bytes, values: Iterable[str]) -> bool:
    """Tell whether bytes hold a secret, written as text is in messages and in arrays."""
    return any(value.encode(code) in data for value in values for code in ("utf-8", "utf-16-le", "utf-32-le"))


def hide_in_file(path: Path, values: Collection[str]) -> None:
    """Take secrets out of a log that is complete."""
    try:
        found = path.read_bytes()
        if any(value.encode() in found for value in values):
            path.write_bytes(hide(found.decode("utf-8", "replace"), values).encode())
    except FileNotFoundError:
        return
