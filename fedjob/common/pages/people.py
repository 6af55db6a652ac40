"""A person who has signed in to a page elsewhere, and what a page needs of the place where they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePerson:
    """A person whom a provider knows.

    Args:
        id: the provider and its name for the person, which stays, `https://PROVIDER#SUBJECT`.
        name: as people say it; the person may have chosen it.
        facts: by which a list may admit the person.
    """

    id: str
    name: str
    facts: frozenset[str]


@dataclass(frozen=True, slots=True)
class DoorAttempt:
    """A sign-in that has begun.

    Args:
        url: to which the browser goes.
        secret: that the browser keeps meanwhile.
    """

    url: str
    secret: str


class PageDoor(Protocol):
    """A provider at which people sign in to a page."""

    @property
    def label(self) -> str:
        """The provider, as people know it."""

    @property
    def origin(self) -> str:
        """The page's own address to which the provider sends browsers back."""

    def begin(self) -> DoorAttempt:
        """Begin a sign-in; raises a FedjobError where the provider does not answer."""

    def finish(self, secret: str, answer: Mapping[str, str]) -> PagePerson:
        """Return who signed in; raises a FedjobError where nobody did, or nobody who may enter."""

    def admits(self, person: PagePerson) -> bool:
        """Tell whether a person may be here now."""

    def way_out(self) -> str:
        """Return the address at which a person signs out at the provider, too; empty for none."""
