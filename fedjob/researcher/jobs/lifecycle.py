"""The part of a job that begins and ends it: submit, wait, cancel, stop, kill, restart, delete."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedjob.common.checks import check_count
from fedjob.common.errors import (
    JobError,
    NoSuchJob,
    NotFinished,
    NotPermitted,
    RepositoryError,
    SpecError,
    SubmitError,
    TransportError,
)
from fedjob.common.lifecycle import HISTORY, PENDING, State
from fedjob.researcher.definition.job_definition import travels
from fedjob.researcher.jobs.deletion import delete_job
from fedjob.researcher.jobs.view import JobView
from fedjob.researcher.monitoring.display import attended
from fedjob.researcher.runner.control import cancel, kill, stop
from fedjob.researcher.runner.launch import start_runner
from fedjob.researcher.runner.submission import check_connected, hand_over
from fedjob.researcher.runner.wait import wait_through
from fedjob.researcher.storage.breakpoints import adopt, find_breakpoint, list_breakpoints, load_breakpoint
from fedjob.researcher.storage.folder import LET_GO_S
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.transitions import notice, walk

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.spec import JobSpec


class Living(JobView):
    """A job's verbs. All of them work from any process on the job's home."""

    @abstractmethod
    def reach(self) -> Connection | None:
        """Find the job's datasets; return the session, None for a local job."""

    @abstractmethod
    def _at_home(self) -> Connection | None:
        """Return the session, connected if need be, None for a local job; the folder lies in its home then."""

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path, *, session: Connection | None = None) -> Self:
        """Return the job that is kept in a folder."""

    # -- begin ----------------------------------------------------------------------

    def submit(self, *, token: str | None = None) -> Self:
        """Hand the job over to a process of its own and return at once; the job outlives this process.

        Args:
            token: names this submission for good, 1 to 128 of `A-Z a-z 0-9 . _ : -`: submitted again
                with the same content, it is the same job, whatever happened in between.

        Returns:
            This job; or the one that the token belongs to already.

        Raises:
            SubmitError: hub or broker can't be reached: the job stays a draft.
            TokenConflict: the token was used for other content.
            TokenDeleted: the token's job was deleted.
            NoDatasets: nothing matches `data`.
            SpecError: a hook of this job can't travel to another process.
        """
        stay = [hook for hook in self._hooks if not travels(hook)]
        if stay:
            raise SpecError(
                f"the hook {type(stay[0]).__name__} lives in this process only, so job.submit() can't take it "
                "along: use job.run(), or one of fedjob's own hooks"
            )
        try:
            self._at_home()
        except (TransportError, RepositoryError, NotPermitted) as error:
            refused = SubmitError(f"the job was not submitted and stays a draft: {error}")
            refused.reason = error.reason
            raise refused from error
        folder = hand_over(self._folder, token or "", self._prepare)
        self._position = None
        return self if folder == self._folder else self.open(folder.path, session=self._session)

    def _prepare(self, folder: JobFolder) -> JobFolder:
        """Find the data of a draft and see to it that the broker is there."""
        job = self if folder == self._folder else self.open(folder.path, session=self._session)
        if (session := job._at_home()) is not None:
            check_connected(session.endpoint.connected, session.membership.broker_url)
        job.reach()
        return job._folder

    def run_on(self, lock: int) -> Any:
        """Run a submitted job in this process, which holds its lock; what a detached runner does.

        Args:
            lock: the descriptor of the job's lock.
        """
        record = self.record
        if record.attempt > 1 or self._breakpoints():
            begin = self._folder.breakpoints / record.begin if record.begin else self._folder.path
            found = find_breakpoint(begin)
            position = replace(found.position, stop="") if record.further else found.position
            self._position, self._extras = adopt(found.position, position, self._folder, found.extras)
        return self._run(lock=lock)

    @abstractmethod
    def _run(self, extra_hooks: tuple[Hook, ...] = (), lock: int | None = None) -> Any:
        """Run in this process; `lock`: the descriptor of the job's lock, where it has it already."""

    @property
    def record(self) -> JobRecord:
        """The growing half of the job, as it is on disk; a dead runner is noticed.

        Raises:
            NoSuchJob: the job was deleted.
        """
        if not self._folder.spec.exists():
            raise NoSuchJob(f"job {self._spec.id} is not there any more: was it deleted?")
        return load_record(self._folder.record) if self._runner is not None else notice(self._folder)

    # -- wait -----------------------------------------------------------------------

    def wait(
        self,
        timeout_s: float | None = None,
        silent: bool = False,
        for_grants: bool = True,
        on_interrupt: str = "ask",
    ) -> Self:
        """Return this job once it is completed. It needs no connection: the job's folder is enough.

        Args:
            timeout_s: seconds to wait at most; None waits as long as it takes.
            silent: do not print the job's events on stderr.
            for_grants: False returns as soon as it is known that an owner has to decide.
            on_interrupt: what Ctrl+C does: `ask` in a terminal whether to stop the job, and leave it
                running anywhere else; `leave` it running; or `kill` it.

        Raises:
            JobFailed: it ended otherwise; carries outcome and reason.
            WaitTimeout: time is up; the job goes on.
            KeyboardInterrupt: this process was interrupted, and the job left running.
        """
        wait_through(
            self._folder,
            lambda: attended(self, silent),
            timeout_s=timeout_s,
            for_grants=for_grants,
            on_interrupt=on_interrupt,
        )
        self._spec = load_spec(self._folder.spec)
        return self

    # -- end --------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Withdraw the job while it waits or is queued.

        Returns:
            Whether it was withdrawn; False leaves a job that has begun, or ended, as it is.
        """
        return cancel(self._folder)

    def stop(self) -> bool:
        """Have the job end between two rounds, as completed: what there is by then is its result.

        Returns:
            Whether it will; False for a job that has not begun, which is cancelled, and for one that has ended.
        """
        return stop(self._folder)

    def kill(self) -> bool:
        """End the job wherever it stands.

        Returns:
            Whether this ended it; False for a draft and for a job that had ended before.
        """
        return kill(self._folder)

    # -- again ------------------------------------------------------------------------

    def restart(self, breakpoint: str | Path | int | None = None, rounds: int | None = None) -> Self:
        """Begin the next attempt at a job that has ended: same id, from its last breakpoint.

        Nodes answer work again that they finished. The events of earlier attempts are kept.

        Args:
            breakpoint: one of `job.breakpoints`, or its round; None for the newest.
            rounds: a new total.

        Raises:
            NotFinished: the job runs.
            BreakpointMissing, BreakpointCorrupt: it can't be used.
            SubmitError: no runner can be started.
        """
        record = self.record
        if record.state in PENDING and not self._folder.is_held():
            start_runner(self._folder)  # it lost nothing: its runner died before it began
            return self
        if record.state == State.DRAFT:
            raise JobError(f"job {self._spec.id} is a draft: submit it")
        if record.state not in HISTORY:
            raise NotFinished(
                f"job {self._spec.id} is {record.state}: kill it, or wait for it, then restart it"
            )
        begin = "" if breakpoint is None else self._the_breakpoint(breakpoint).name
        lock = self._folder.take(LET_GO_S)
        try:
            spec = self._next_attempt(begin, rounds)
        except BaseException:
            os.close(lock)
            raise
        self._spec, self._position = spec, None
        start_runner(self._folder, lock)
        return self

    def _next_attempt(self, begin: str, rounds: int | None) -> JobSpec:
        """Write what the next attempt begins with, for the holder of the lock."""
        record = load_record(self._folder.record)
        spec = load_spec(self._folder.spec)
        if rounds is not None:
            spec = replace(spec, rounds=check_count("rounds", rounds, 1))
            last = int(begin[6:]) if begin else max([0, *map(_round_of, self._breakpoints())])
            if rounds < last:
                raise SpecError(f"the breakpoint is of round {last}; rounds={rounds} lies before it")
            spec.save(self._folder.spec)
        record = replace(record, begin=begin, rounds=spec.rounds, further=rounds is not None)
        walk(self._folder, record, [State.WAITING])
        return spec

    def _the_breakpoint(self, given: str | Path | int) -> Path:
        path = self._folder.breakpoint(given) if isinstance(given, int) else Path(given).expanduser()
        if not path.is_absolute() and not path.exists():
            path = self._folder.breakpoints / path.name
        path = path.resolve()
        if path.parent != self._folder.breakpoints.resolve():
            raise SpecError(
                f"{path} is no breakpoint of job {self._spec.id}: give one of job.breakpoints, or use Job.resume"
            )
        load_breakpoint(path)
        return path

    def _breakpoints(self) -> list[Path]:
        return list_breakpoints(self._folder.breakpoints)

    def delete(self) -> None:
        """Delete the job: its folder, its objects at the hub, what nodes keep for it.

        Raises:
            NotFinished: it has not ended; kill it first.
            TransportError, RepositoryError: the hub can't be reached; nothing was deleted.
        """
        if not self._folder.spec.exists():
            raise NoSuchJob(f"job {self._spec.id} is not there any more: it was deleted before")
        delete_job(self._folder, self._connected)

    def _connected(self) -> Connection:
        session = self._at_home()
        if session is None:
            raise JobError("a local job has no session")
        check_connected(session.endpoint.connected, session.membership.broker_url)
        return session


def _round_of(path: Path) -> int:
    return int(path.name.removeprefix("round_"))
