"""The memory that a worker holds with everything that it started: no limit of a single process bounds that."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

_COUNTED = (b"Pss_Anon:", b"Pss_Shmem:")
"""Its share of private and of shared memory; what comes from files on disk is the machine's to drop."""

_AT_MOST = (b"RssAnon:", b"RssShmem:")
"""The same with all that it shares with others, which is never less, and which the kernel does not have to look for."""


def memory_of(roots: Collection[int], *, over: int = 0) -> dict[int, int]:
    """Return for each process how many bytes it and all its descendants hold; for one that is gone, 0.

    Memory that several share, such as what a fork has in common with its parent, is counted once.

    Args:
        over: where even with all that is shared there is no more than this many bytes, that is returned, which costs
            a tenth; else what they hold exactly.
    """
    held = dict.fromkeys(roots, 0)
    if held:
        families: dict[int, list[int]] = {root: [] for root in roots}
        parents = _parents()
        for pid in parents:
            root = _root_of(pid, parents, held)
            if root is not None:
                families[root].append(pid)
        for root, family in families.items():
            held[root] = sum(_bytes_in(f"/proc/{pid}/status", _AT_MOST) for pid in family) if over else 0
            if held[root] > over or not over:
                held[root] = sum(_bytes_in(f"/proc/{pid}/smaps_rollup", _COUNTED) for pid in family)
    return held


def _parents() -> dict[int, int]:
    """Return process id -> that of its parent, of all that are there."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it ended meanwhile
    return found


def _root_of(pid: int, parents: Mapping[int, int], roots: Collection[int]) -> int | None:
    seen = set()
    while pid not in roots:
        if pid in seen or pid not in parents:
            return None
        seen.add(pid)
        pid = parents[pid]
    return pid


def _bytes_in(path: str, counted: tuple[bytes, ...]) -> int:
    """Return the sum of some lines of a file of kB; 0 where its process is gone."""
    try:
        with open(path, "rb") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith(counted))
    except (OSError, ValueError, IndexError):
        return 0
