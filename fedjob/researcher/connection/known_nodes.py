"""The keys of the nodes that this home has met, so that a hub that lies about a key is found out.

`known_nodes` in the home holds a line for each, its name and its public key. A node is
met when a job first uses it; from then on only that key is its key, for every session
of this home. A researcher who does not trust the hub even then compares the keys with the
nodes' owners, writes the lines by hand, and sets `strict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedjob.common.errors import ConfigError, NotPermitted
from fedjob.common.files import lock, write_atomic

FILE_NAME = "known_nodes"
MAX_BYTES = 1 << 20
SHOWN = 16
"""Digits of a key that a message shows."""


class KnownNodes:
    """A home's file of known nodes."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE_NAME

    def load(self) -> dict[str, str]:
        """Return node -> public key in hex.

        Raises:
            ConfigError: a line is not a name and a key.
        """
        try:
            text = self.path.read_bytes()[:MAX_BYTES].decode()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} can't be read: {error}") from error
        known = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or not _is_key(words[1]):
                raise ConfigError(
                    f"{self.path}, line {number}: expected a node and its key of 64 hex digits, found {line[:80]!r}"
                )
            known[words[0]] = words[1]
        return known

    def meet(self, keys: Mapping[str, str], *, strict: bool = False) -> list[str]:
        """Compare the keys of nodes that a job uses with the known ones, and keep those of new nodes.

        Args:
            keys: node -> public key in hex, as the hub has it now.
            strict: a node that is not known is refused.

        Returns:
            The new nodes.

        Raises:
            NotPermitted: a node has another key than before, or is not known; the message says what to do.
        """
        with lock(self.path.with_name(f".{FILE_NAME}.lock")):
            known = self.load()
            if changed := [node for node, key in sorted(keys.items()) if known.get(node, key) != key]:
                raise NotPermitted(self._changed(changed[0], known, keys))
            new = sorted(set(keys) - set(known))
            if new and strict:
                listed = ", ".join(f"{node} {keys[node]}" for node in new)
                raise NotPermitted(
                    f"this home is strict and does not know {listed}: compare with `fedjob node status` there, "
                    f"then add the line to {self.path}"
                )
            if new:
                before = self.path.read_bytes() if self.path.exists() else b""
                lines = "".join(f"{node} {keys[node]}\n" for node in new)
                gap = b"\n" if before and not before.endswith(b"\n") else b""
                write_atomic(self.path, before + gap + lines.encode())
            return new

    def _changed(self, node: str, known: Mapping[str, str], keys: Mapping[str, str]) -> str:
        return (
            f"node {node} has another key than before: {keys[node][:SHOWN]}... instead of {known[node][:SHOWN]}.... "
            f"Somebody may pretend to be it: ask its owner what `fedjob node status` shows; if it is theirs, "
            f"remove its line from {self.path}"
        )


def _is_key(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
