"""The list of those who may enter the owner's page with a sign-in at an OpenID provider."""

from __future__ import annotations

from fedjob.common.errors import ConfigError

KINDS = ("sub", "email", "group")


def read_people(text: str) -> frozenset[str]:
    """Return the entries `sub=ID`, `email=ADDRESS` and `group=NAME` of a list with commas between them.

    Raises:
        ConfigError: an entry is none of these, or looks like a pattern.
    """
    found = set()
    for entry in text.split(","):
        kind, mark, value = (part.strip() for part in entry.partition("="))
        if not (kind or mark or value):
            continue
        if kind not in KINDS or not value or not value.isprintable():
            raise ConfigError(
                f"expected sub=ID, email=ADDRESS or group=NAME with commas between them, found {entry.strip()[:80]!r}"
            )
        if set(value) & set("*?") or (kind == "email" and "@" not in value.strip("@")):
            raise ConfigError(
                f"{entry.strip()[:80]!r} names no single person or group: the list has no patterns; give a group"
            )
        found.add(fact(kind, value))
    return frozenset(found)


def fact(kind: str, value: str) -> str:
    """Return what is known of a person as it stands in a list.

    Letters of an address count alike in both cases if they are ASCII; others look like them and are none.
    """
    same = value.lower() if kind == "email" and value.isascii() else value
    return f"{kind}={same}"
