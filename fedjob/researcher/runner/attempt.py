"""The record of one attempt at a job: its states, its events, its slot of the home, and requests to end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fedjob.common.config import load_config
from fedjob.common.errors import FedjobError, JobFailed, JobStopped, NoSpace
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.federation.base import Gates
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.runner.interrupter import Interrupter
from fedjob.researcher.runner.slots import Ticket
from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.breakpoints import list_breakpoints
from fedjob.researcher.storage.event import MAX_REMARKS, JobEvent, remark_of
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.record import JobRecord, load_record, utc_now, working_folder
from fedjob.researcher.storage.spec import JobSpec
from fedjob.researcher.storage.transitions import moved, route

REFUSALS = ("rejected", "revoked")
"""Reasons that mean that an owner refused the job."""

SLOT_S = 0.25
"""Time between two looks whether a slot of the home is free."""

MakeHooks = Callable[[Callable[[str], object]], Sequence[Hook]]
"""Return the hooks of an attempt, given the function that adds a note to its events."""

Release = Callable[[str], object]
"""End the job at its nodes, given its outcome."""


def no_nodes(outcome: str) -> None:
    """Release no node: none has been reached."""


class AttemptRecord(Gates):
    """The record and the events of an attempt while it runs; its maker holds the lock of the job's folder.

    Args:
        position: where the attempt begins.

    Attributes:
        position: the last committed round, with what was gathered since; ends and states are recorded at it.
        events: the job's log; each event goes to the hooks, too.
        remarks: texts of the notes that belong to the result, such as that there was no GPU; each once.
        unsaved: why the last state could not be written; None where it was.
    """

    def __init__(self, folder: JobFolder, spec: JobSpec, position: Position, make_hooks: MakeHooks) -> None:
        self.folder = folder
        self.spec = spec
        self.position = position
        before = load_record(folder.record)
        # an epoch that grows with time too: a breakpoint moved to a new home must outdo the old runner
        epoch = max(before.epoch + 1, int(time.time()))
        self.record: JobRecord = replace(before, epoch=epoch, rounds=spec.rounds)
        self.unsaved: Exception | None = None
        self._max_jobs = load_config(ResearcherConfig, folder.path.parent.parent).max_jobs
        self._ticket: Ticket | None = None
        self.hooks = tuple(make_hooks(self.note))
        self.remarks: dict[str, None] = {}
        self.events = EventLog(folder.events, spec.id, (self._inform_hooks,))
        self._interrupter = Interrupter(folder)

    def begin(self, *, detached: bool = False) -> None:
        """Take over the record: a new attempt, or one that waited when its runner was gone.

        Args:
            detached: this process does nothing but run the job.
        """
        if self.record.state in ACTIVE:
            self.enter(State.LOST, "runner_died", "the process that ran it is gone")
        self.record = replace(self.record, detached=detached)
        if self.record.state in PENDING:
            self.record.save(self.folder.record)
            return
        self.record = replace(self.record, submitted_from=self.record.submitted_from or working_folder())
        self.enter(State.WAITING)

    def note(self, text: str) -> None:
        """Add a note to the job's events."""
        self.events.add("note", text=text)

    # -- gates ------------------------------------------------------------------

    def enter(self, state: State, reason: str = "", detail: str = "") -> None:
        """Put the job into a state: write the record and add an event.

        Raises:
            IllegalTransition: it can't follow the one that the job is in.
        """
        self.record = moved(self.record, state, now=utc_now(), reason=reason, detail=detail)
        self.record.save(self.folder.record)
        self.events.add(
            "state", round_=self.position.round, state=self.record.state, reason=reason, detail=detail[:500]
        )

    def update(self, **changes: Any) -> None:
        """Change other fields of the record."""
        self.record = replace(self.record, **changes)
        self.record.save(self.folder.record)

    def await_slot(self) -> None:
        """Wait until this job is one of those that may run on this home; at once if it is already.

        Raises:
            JobStopped: somebody asked for its end meanwhile.
        """
        if self._ticket is None:
            home = self.folder.path.parent.parent
            self._ticket = Ticket(home, self.spec.id, self.record.submitted)
        if self._ticket.runs:
            return
        self.check()
        if not self._ticket.take(self._max_jobs):
            self.note("queued: as many jobs run on this home as its max_jobs allows")
            while not self._ticket.take(self._max_jobs):
                time.sleep(SLOT_S)
                self.check()

    def leave_slot(self) -> None:
        """Let another job of this home run while this one can't."""
        if self._ticket is not None:
            self._ticket.close()
            self._ticket = None

    def check(self) -> None:
        """Raise what ends the job, if somebody asked for its end.

        Raises:
            JobStopped: cancelled before it began, or killed.
        """
        verb = inbox.asked(self.folder)
        if verb == inbox.KILL or (verb == inbox.CANCEL and self.record.state in PENDING):
            raise JobStopped(verb)
        if verb:
            inbox.clear(self.folder, verb)  # it has begun: too late to cancel

    # -- the end ----------------------------------------------------------------

    def reason_of(self, error: BaseException) -> str:
        """Return the machine-readable reason that an error ends the job for."""
        if isinstance(error, KeyboardInterrupt):
            return "killed" if inbox.asked(self.folder) == inbox.KILL else "interrupted"
        return str(getattr(error, "reason", "exception"))

    def end(self, outcome: str, reason: str = "", detail: str = "", release: Release = no_nodes) -> None:
        """Enter the states up to the job's end; the nodes are released before the last one."""
        self._interrupter.close()
        inbox.clear(self.folder)
        *before, last = route(self.record.state, outcome)
        for state in before:
            self._try_to_enter(state, reason, detail)
        release(last)
        if self.record.state not in HISTORY:
            self._try_to_enter(last, reason, detail)
        for hook in self.hooks:
            hook.end(last)

    def fail(self, error: BaseException, reason: str, release: Release = no_nodes) -> BaseException:
        """End the job because of `error`; return what to raise."""
        if isinstance(error, (KeyboardInterrupt, JobStopped)):
            outcome = "killed"
        else:
            outcome = "rejected" if getattr(error, "reason", "") in REFUSALS else "failed"
        self.end(outcome, reason, str(error), release)
        if isinstance(error, KeyboardInterrupt):
            begin = (
                self._resume_hint() or f". Begin it again with Job.open({str(self.folder.path)!r}).restart()"
            )
            error.add_note(f"{self.folder.path.name} was interrupted and is {self.record.state}{begin}")
        if isinstance(error, JobFailed):
            error.outcome = self.record.state
            return error
        if not isinstance(error, FedjobError):
            return error
        return JobFailed(f"{error}{self._resume_hint()}", reason=reason, outcome=self.record.state)

    def close(self) -> None:
        """Give the slot back and close the log; the record is not changed."""
        self._interrupter.close()
        with suppress(OSError):  # a full disk: what could not be written before can't be now
            self.events.close()
        self.leave_slot()

    def _try_to_enter(self, state: State, reason: str, detail: str) -> None:
        """Enter a state at the job's end; on a full disk the nodes are released all the same."""
        try:
            self.enter(state, reason, detail)
        except (OSError, NoSpace) as error:
            # the record stays behind: whoever reads it will call the job lost
            self.unsaved = error

    def _inform_hooks(self, event: JobEvent) -> None:
        if (text := remark_of(event)) and len(self.remarks) < MAX_REMARKS:
            self.remarks.setdefault(text)
        for hook in self.hooks:
            hook.event(event)

    def _resume_hint(self) -> str:
        kept = list_breakpoints(self.folder.breakpoints)
        return (
            f". Go on from round {int(kept[-1].name[6:])} with Job.resume({str(kept[-1])!r})" if kept else ""
        )
