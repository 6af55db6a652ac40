"""The topics that each party may use, as Mosquitto's ACL file and as the embedded broker's check.

Every topic ends in the name of its sender, and the broker lets each user write only
topics that end in its own name; it lets each read only what is addressed to it.
"""

from __future__ import annotations

from collections.abc import Iterable

READ = ("fedjob/1/to/%u/#", "fedjob/1/all/from/+", "fedjob/1/presence/+")
BROADCASTS = ("fedjob/1/all/", "fedjob/1/presence/")
"""Beginnings of the topics whose messages go to many."""

HUB_USER = "_hub"
"""The hub's own name at its broker; no party can have it."""

WRITE = ("fedjob/1/to/+/+/from/%u", "fedjob/1/all/from/%u", "fedjob/1/presence/%u")
_RIGHTS = [*(("read", topic) for topic in READ), *(("write", topic) for topic in WRITE)]


def presence_of(party: str) -> str:
    """Return the topic of a party's presence, the only one whose last message the broker keeps."""
    return f"fedjob/1/presence/{party}"


def acl_file(parties: Iterable[str] | None = None) -> str:
    """Return Mosquitto's ACL file.

    Args:
        parties: those that may do anything, by name, so that one that is not among them has no rights however it logs in;
            None for the same file for every federation, where logins alone decide.
    """
    if parties is None:
        lines = [
            "# %u is the user's name, which is the party's. Patterns throughout: `topic` lines before any",
            "# `user` line are for anonymous clients. Mosquitto warns of the patterns without %u; they are meant.",
        ]
        lines += [f"pattern {right} {topic}" for right, topic in _RIGHTS]
        return "\n".join(lines) + "\n"
    lines = ["# The parties as they are now: the hub writes this file after each change."]
    for party in sorted(parties):
        lines += ["", f"user {party}"]
        lines += [f"topic {right} {topic.replace('%u', party)}" for right, topic in _RIGHTS]
    return "\n".join(lines) + "\n"


def password_file(hashes: Iterable[tuple[str, str]]) -> str:
    """Return Mosquitto's password file from pairs of user and hash."""
    return "".join(f"{user}:{hashed}\n" for user, hashed in sorted(hashes))


def may_read(user: str, topic_filter: str) -> bool:
    """Return whether this user may read every topic that `topic_filter` matches."""
    return any(_covers(rule.replace("%u", user), topic_filter) for rule in READ)


def may_write(user: str, topic: str) -> bool:
    """Return whether this user may publish to that topic."""
    return any(_covers(rule.replace("%u", user), topic) for rule in WRITE)


def addressee_of(topic: str) -> str:
    """Return the party that a message with this topic goes to; empty where it goes to no single one."""
    words = topic.split("/")
    return words[3] if len(words) > 4 and words[:3] == ["fedjob", "1", "to"] else ""


def _covers(rule: str, topic: str) -> bool:
    """Return whether a rule matches everything that `topic`, a name or a filter, matches."""
    wanted, found = rule.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(found) or found[place] == "#":
            return False
        if level != "+" and level != found[place]:
            return False
    return len(wanted) == len(found)
