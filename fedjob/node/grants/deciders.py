"""Deciders: the people who decide at a node, by a name that was typed or as a provider vouches for them."""

from __future__ import annotations

import getpass
import re

from fedjob.common.errors import SpecError
from fedjob.common.types import check_given

DECIDER_CHARS = 80
"""Most characters of the name of who decides that are kept."""

_SIGNED = re.compile(r" <(https?://[^\s<>]+#[^\s<>]+)>")


class SignedDecider(str):
    """Who decided, as a provider knows them: `NAME <https://PROVIDER#SUBJECT>`. Nobody types this."""

    __slots__ = ()


def is_signed(by: str) -> bool:
    """Tell whether a text reads as the name of a decider whom a provider knows."""
    return "://" in by or _SIGNED.search(by) is not None


def names_of(by: str) -> str:
    """Return the names of deciders alone, without how a provider knows them: what others than the owner see."""
    return _SIGNED.sub("", by)


def is_same_decider(one: str, other: str) -> bool:
    """Tell whether two names stand for one person.

    Of two people whom a provider knows their subjects say so, whatever they are called. A name that was typed may be
    that of somebody who has signed in, and is taken for it.
    """
    subjects = [found[1] for found in map(_SIGNED.search, (one, other)) if found]
    if len(subjects) == 2:
        return subjects[0] == subjects[1]
    return names_of(one).casefold().split() == names_of(other).casefold().split()


def decider(by: str | None) -> str:
    """Return the name of who decides: the one that was given, else that of the user of this system.

    Raises:
        SpecError: it is empty, holds signs that no name has, or reads as if a provider vouched for it.
    """
    if isinstance(by, SignedDecider):
        return str(by)
    who = check_given(getpass.getuser() if by is None else by, "a value of --by")[:DECIDER_CHARS]
    if not who.isprintable():
        raise SpecError(f"--by is a person's name, in letters that can be read, not {who!r}")
    if is_signed(who):
        raise SpecError(
            f"--by is a person's name; {who!r} reads as a sign-in at a provider, which nobody types"
        )
    return who
