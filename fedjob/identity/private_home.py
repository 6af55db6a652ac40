"""The privacy of a home on disk: nothing in it may be read, written or looked into by another user of the machine.

fedjob makes its files so from the start. A home may have been made by hand before, copied by a program that gives
modes of its own, or opened by somebody; whoever starts in it takes the rights back, or names what is not theirs.
Only what has a name of fedjob's is looked at: a home may be a folder of the user's, with files that others should read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.files import OF_OTHERS

SHOWN = 3

_DATABASES = ("hub.sqlite", "jobs.sqlite", "node.sqlite")
NAMES_IN_HOMES = frozenset(
    [
        *("config.toml", "enrolment.json", "hub-authority.pem", "keys", "membership.mpk"),
        *("jobs", "known_nodes", "login.json", "mocks", "slots", "submit.lock", "tombstones", "tried_plans"),
        *(
            "brought",
            "hooks",
            "lock",
            "logs",
            "outputs",
            "page_password.json",
            "roster.json",
            "releases",
            "scratch",
            "secrets.json",
            "models.json",
            "spool",
            "state",
        ),
        *(
            "broker",
            "client-authority",
            "hub.lock",
            "incoming",
            "loopback-secret",
            "metrics_token",
            "objects",
            "running.json",
            "storage",
        ),
        *("fedjob-backup.json", "states", "unreleased", ".fedjob_scratch"),
        *(f"{name}{end}" for name in _DATABASES for end in ("", "-wal", "-shm", "-journal")),
    ]
)
"""What fedjob makes at the first level of homes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHome:
    """The files and folders of a home that others could use.

    Args:
        mended: those whose rights were taken back.
        left: those that another user owns, or that can't be changed.
    """

    mended: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.mended:
            parts.append(
                f"{_names(self.mended)} could be read by other users of this machine and no longer can"
            )
        if self.left:
            parts.append(
                f"{_names(self.left)} can be read by other users of this machine: run `chmod -R go-rwx` on it, as "
                "its owner"
            )
        return "; ".join(parts)


def close_home(home: Path, *, whole: bool = False) -> OpenHome:
    """Take the rights of the group and of others from what fedjob keeps in a home, and from the home if it holds no more.

    A home that nobody else can enter is looked at no deeper than its first level, so that starting in it costs the
    same however much it holds.

    Args:
        whole: look at everything.

    Returns:
        What was open. The user's own home directory and the root of the disk are not changed and count as left.
    """
    if not home.is_dir():  # a file or a device, such as /dev/null, is no home: its rights are not fedjob's
        return OpenHome()
    try:
        was_open = bool(home.stat().st_mode & OF_OTHERS)
        found = list(_open_in(home, deep=whole or was_open))
    except OSError:
        return OpenHome()
    mended: list[Path] = []
    left: list[Path] = []
    is_shared_place = home == home.parent or home.resolve() == Path.home().resolve()
    for path, mode in found:
        done = False
        if not (is_shared_place and path == home):
            with suppress(OSError):
                path.chmod(mode & ~OF_OTHERS)
                done = True
        (mended if done else left).append(path)
    return OpenHome(mended=tuple(mended), left=tuple(left))


def _open_in(home: Path, *, deep: bool) -> Iterator[tuple[Path, int]]:
    """Yield what of fedjob's has a bit for others, and its mode; the folder itself last, so that a kill leaves it open."""
    folders, seen, has_others = [home], [], False
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            try:
                mode = entry.stat(follow_symlinks=False).st_mode
            except OSError:
                continue
            if stat.S_ISLNK(mode):
                continue
            path = Path(entry.path)
            if folder == home and not _is_ours(entry.name):
                has_others = True
                continue
            if stat.S_IMODE(mode) & OF_OTHERS:
                seen.append((path, stat.S_IMODE(mode)))
            if deep and stat.S_ISDIR(mode):
                folders.append(path)
    yield from seen
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & OF_OTHERS and not has_others:
        yield home, mode


def _is_ours(name: str) -> bool:
    return name in NAMES_IN_HOMES or (name.startswith(".") and name.endswith(".tmp"))


def _names(paths: tuple[Path, ...]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(str(path) for path in reversed(paths[-SHOWN:])) + more
