"""The description of one worker's sandbox, as the daemon gives it to the fork server: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

NAMESPACES, LANDLOCK, CONTAINER, NONE = "namespaces", "landlock", "container", "none"
KINDS = (NAMESPACES, LANDLOCK, CONTAINER, NONE)
"""The kinds of sandbox; in a container that a launcher started, a worker gives up what else it has."""

INBOX, WORK = "/inbox", "/worker"
"""The places of a task's inputs, and of all that a worker may write, inside namespaces."""

OUTPUT_NAME, SCRATCH_NAME, TEMPORARY_NAME, SHARED_NAME = "output", "scratch", "tmp", "shm"
"""The folders in the place that a worker may write to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosure:
    """One worker's sandbox.

    Args:
        kind: one of `KINDS`.
        folder: of this worker, at the node: its `inbox` has a task's inputs, `root` is a place to mount at, and
            `work` is what it may write to where it sees the node's own files.
        hidden: the node's home, of which nothing is to be seen.
        data: files and folders of the one dataset, read-only.
        work_bytes: that it may have on its own file system: scratch, output and shared memory together.
        file_bytes: of one file that it writes.
        processes: that it may have, threads counted.
        gpus: the devices that it may use; with none, it sees no device files of any.
    """

    kind: str
    folder: str
    hidden: str
    data: tuple[str, ...] = ()
    work_bytes: int = 1 << 30
    file_bytes: int = 1 << 30
    processes: int = 256
    gpus: tuple[int, ...] = field(default=())

    @property
    def inbox(self) -> str:
        """Where the worker finds the inputs of its tasks."""
        return INBOX if self.kind == NAMESPACES else f"{self.folder}/inbox"

    @property
    def work(self) -> str:
        """Where the worker may write."""
        return WORK if self.kind == NAMESPACES else f"{self.folder}/work"
