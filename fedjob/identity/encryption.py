"""The setting `encryption` of a home, and what it means in a federation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedjob.identity.roster import Roster

Encryption = Literal["auto", "on", "off"]
CHOICES: tuple[Encryption, ...] = ("auto", "on", "off")


def is_encrypted(setting: str, roster: Roster) -> bool:
    """Return whether messages and objects are encrypted for their readers, and plain ones refused.

    The hub has no say in it: `auto` goes by what this home pinned from its invitation.
    """
    return setting == "on" or (setting == "auto" and roster.is_pinned)


def encryption_text(setting: str, *, encrypted: bool) -> str:
    """Return what holds, and why, in words."""
    why = "" if setting != "auto" else " (the roster is pinned)" if encrypted else " (no roster is pinned)"
    what = "for the readers alone" if encrypted else "the hub's owner can read everything"
    return f"{'on' if encrypted else 'off'}{why}: {what}"
