"""A job's folder on disk: the one place that knows a file name.

<home>/jobs/<job id>/
    spec.mpk  plan.py  plans/  seal  record.json  events.jsonl  audit_heads.jsonl  traffic.csv  lock
    breakpoints/round_0007/
    artifacts/                files that the job sends along
    models/                   links to files of models that nodes have, too
    brought.zip               the data that the researcher brings, packed
    simulated/                of a simulation: data that were given as objects, and each node's row numbers
    replies/                  the bodies of the nodes' replies, a file for each ask
    spool/round_0007/         contributions, totals and the journal of replies
    result/
    past_results/             results of earlier ends, where the job went on after one
    inbox/                    verbs that other processes leave for the one that runs the job
    runner.log                the output of a detached runner
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.codec import unpack
from fedjob.common.errors import ConfigError, DecodeError, JobError
from fedjob.common.files import fsync_dir, is_locked, make_folder, open_locked, remove_folder
from fedjob.common.types import check_job_id

LOCK_S = 0.5
"""Seconds for which a lock that another process holds is tried."""

LET_GO_S = 10.0
"""Seconds that a runner may take to let go of a job whose end it has written."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Names of everything that a job keeps.

    Args:
        path: `<home>/jobs/<job id>`.
    """

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.mpk"

    @property
    def plan(self) -> Path:
        return self.path / "plan.py"

    def plan_of(self, hash_: str) -> Path:
        """The text of one node's plan, where there is a plan per node."""
        return self.path / "plans" / f"{hash_}.py"

    @property
    def seal(self) -> Path:
        """The signature of the home that the job was submitted from."""
        return self.path / "seal"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def audit_heads(self) -> Path:
        """The heads of the nodes' audit chains that came with their replies."""
        return self.path / "audit_heads.jsonl"

    @property
    def traffic(self) -> Path:
        """Counts of the messages and objects that were exchanged."""
        return self.path / "traffic.csv"

    @property
    def initial_params(self) -> Path:
        return self.path / "initial.safetensors"

    @property
    def breakpoints(self) -> Path:
        return self.path / "breakpoints"

    @property
    def elsewhere(self) -> Path:
        """The list of the breakpoints that lie outside of this folder."""
        return self.path / "elsewhere.mpk"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def past_results(self) -> Path:
        """The results of earlier ends, a folder for each, for those who still hold one."""
        return self.path / "past_results"

    @property
    def brought(self) -> Path:
        """The archive of the data that the researcher brings."""
        return self.path / "brought.zip"

    def artifact_of(self, name: str) -> Path:
        """A file that the job sends along for its plan."""
        return self.path / "artifacts" / name

    def model_of(self, name: str) -> Path:
        """A link to this side's file of a model that nodes have, too."""
        return self.path / "models" / name

    @property
    def unpacked(self) -> Path:
        """The unpacked data that a local job brings."""
        return self.path / ".fedjob_brought"

    @property
    def simulated(self) -> Path:
        """The data of simulated nodes that were given as objects, and the row numbers of each node."""
        return self.path / "simulated"

    @property
    def cost(self) -> Path:
        """The bytes that the job moves and holds at each node, as its owners are told: node -> name -> bytes."""
        return self.path / "cost.mpk"

    @property
    def optimizer(self) -> Path:
        """The bytes that the plan's optimizer holds at a node: `state`, `step`; nothing where that is not known."""
        return self.path / "optimizer.mpk"

    @property
    def replies(self) -> Path:
        """The exact bodies of the nodes' replies, a file for each ask."""
        return self.path / "replies"

    def reply(self, round_: int, step: str) -> Path:
        return self.replies / f"round_{round_:04d}_{step}.mpk"

    @property
    def local(self) -> Path:
        """The folder in which a local job keeps what a node would keep."""
        return self.path / "local"

    @property
    def held(self) -> Path:
        """The files that unfinished tasks of earlier rounds are computed from, by sha256."""
        return self.path / "held"

    @property
    def lock(self) -> Path:
        """Whoever holds it writes the record; it holds the holder's process id."""
        return self.path / "lock"

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def log(self) -> Path:
        return self.path / "runner.log"

    def breakpoint(self, round_: int) -> Path:
        return self.breakpoints / f"round_{round_:04d}"

    def spool(self, round_: int) -> Path:
        return self.path / "spool" / f"round_{round_:04d}"

    def create(self) -> None:
        """Make the folder, durably.

        Raises:
            ConfigError: it can't be made.
        """
        try:
            for folder in (self.path, self.breakpoints, self.result, self.path / "spool"):
                make_folder(folder)
            fsync_dir(self.path)
            fsync_dir(self.path.parent)
        except OSError as error:
            raise ConfigError(
                f"can't make the job's folder {self.path}: {error.strerror or error}"
            ) from error

    def make_spool(self, round_: int) -> Path:
        """Return the spool folder of a round, made if need be."""
        folder = self.spool(round_)
        make_folder(folder)
        return folder

    def contributions(self, round_: int, step: str, node: str) -> list[Path]:
        """Return the files, of those still there, one of which holds a node's tensors of an ask."""
        spool = self.spool(round_)
        found = [spool / f"{step}_{node}.safetensors", *spool.glob(f"local_{node}_*/params.safetensors")]
        return [path for path in found if path.exists()]

    @staticmethod
    def opened_name(step: str, node: str) -> str:
        """The name, in a round's spool, of a node's tensors of an ask where they travelled compressed."""
        return f"opened_{step}_{node}.safetensors"

    def counted(self, round_: int, step: str, node: str) -> list[Path]:
        """Return the files, of those still there, one of which holds a node's tensors of an ask as they counted."""
        opened = self.spool(round_) / self.opened_name(step, node)
        return [opened] if opened.exists() else self.contributions(round_, step, node)

    def drop_spool(self, before_round: int) -> None:
        """Remove the spools of rounds before that one."""
        for folder in (self.path / "spool").glob("round_*"):
            if int(folder.name.removeprefix("round_")) < before_round:
                remove_folder(folder)

    @contextmanager
    def locked(self, wait_s: float = LOCK_S) -> Iterator[None]:
        """Hold the right to write this job's record; a killed holder loses it at once.

        Args:
            wait_s: others hold it for a moment to look whether anybody runs the job.

        Raises:
            JobError: another process holds it.
        """
        descriptor = self.take(wait_s)
        try:
            yield
        finally:
            os.close(descriptor)

    def take(self, wait_s: float = LOCK_S) -> int:
        """Take the lock and return its descriptor; a child that inherits it holds it from then on.

        Raises:
            JobError: another process holds it.
        """
        descriptor = open_locked(self.lock, wait_s=wait_s)
        if descriptor is None:
            raise JobError(
                f"{self.path.name} is being run by process {self.holder() or 'another process'}: "
                "wait for it or end it first"
            )
        sign(descriptor)
        return descriptor

    def is_held(self) -> bool:
        """True if a process runs this job, or writes its record, right now."""
        return is_locked(self.lock)

    def holder(self) -> int:
        """Return the id of the process that last took the lock, 0 for none."""
        try:
            return int(self.lock.read_text())
        except (OSError, ValueError):
            return 0


def sign(descriptor: int, pid: int | None = None) -> None:
    """Write the id of the process that holds a lock into it; None for this process."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid() if pid is None else pid}\n".encode(), 0)


def job_folder(home: Path, job_id: str) -> JobFolder:
    """Return the folder of a job in a home; it need not exist."""
    return JobFolder(home / "jobs" / check_job_id(job_id))


def read_cost(folder: JobFolder) -> dict[str, dict[str, int]]:
    """Return what `folder.cost` says, node -> name -> bytes; nothing where it is not known."""
    try:
        cost: dict[str, dict[str, int]] = unpack(folder.cost.read_bytes())
    except (OSError, DecodeError):
        return {}
    return cost


def read_optimizer(folder: JobFolder) -> dict[str, int] | None:
    """Return what `folder.optimizer` says; None where the memory of the plan's optimizer is not known."""
    try:
        found: dict[str, int] = unpack(folder.optimizer.read_bytes())
    except (OSError, DecodeError):
        return None
    return found or None
