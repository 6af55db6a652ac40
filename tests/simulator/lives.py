"""The lives of jobs whose runners are killed anywhere: at every state, at gates, in restarts, between two writes.

The folder, its lock, its record, its events and the look at it are the real ones. A runner is a
script of the states that a job goes through, which holds the job's lock as a process would; a kill drops
the lock, at any boundary between two writes.
"""

from __future__ import annotations

import os
import random
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedjob.common.errors import JobError
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.common.types import new_job_id
from fedjob.researcher.runner import revival
from fedjob.researcher.runner.control import cancel, kill
from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.event import is_job_state
from fedjob.researcher.storage.event_log import EventLog, read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord, load_record, utc_now
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.researcher.storage.submissions import seal_job
from fedjob.researcher.storage.transitions import moved, route, walk
from tests.simulator.world import Violation

NUM_STEPS = 40
NUM_ROUNDS = 3


class _Killed(Exception):
    """The runner's process is gone."""


@dataclass
class Process:
    """A runner, which takes one step at a time.

    Args:
        lock: descriptor of the job's lock.
        crash_in: boundaries until it is killed; None for never.
    """

    folder: JobFolder
    lock: int
    detached: bool
    crash_in: int | None = None
    alive: bool = True
    rounds: int = 0

    def step(self, draw: random.Random) -> None:
        """Do what a runner does next."""
        try:
            self._step(draw)
        except _Killed:
            self.die()

    def die(self) -> None:
        """Lose the lock, as a killed process does."""
        if self.alive:
            self.alive = False
            os.close(self.lock)

    def _step(self, draw: random.Random) -> None:
        record = load_record(self.folder.record)
        if record.state in HISTORY or record.state == State.DRAFT:
            self._enter(State.WAITING)
            return
        if verb := inbox.asked(self.folder):
            if verb == inbox.KILL or record.state in PENDING:
                for state in route(record.state, "killed"):
                    self._enter(state, "killed")
                self.die()
                return
            inbox.clear(self.folder, verb)
        state = State(record.state)
        if state == State.WAITING:
            self._enter(State.QUEUED)
        elif state == State.QUEUED:
            self._enter(draw.choice([State.STARTING, State.STARTING, State.WAITING]))
        elif state == State.STARTING:
            self._enter(State.RUNNING)
        elif self.rounds < NUM_ROUNDS:
            self.rounds += 1
        else:
            self._enter(State.COMPLETED)
            self.die()

    def _enter(self, state: State, reason: str = "") -> None:
        self._boundary()
        record = moved(load_record(self.folder.record), state, now=utc_now(), reason=reason)
        replace(record, detached=self.detached).save(self.folder.record)
        self._boundary()
        with EventLog(self.folder.events, self.folder.path.name) as events:
            events.add("state", state=record.state, reason=reason)
        self._boundary()

    def _boundary(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise _Killed


@dataclass
class Life:
    """One job, and everything that is done to it in a schedule."""

    home: Path
    draw: random.Random
    bugs: frozenset[str] = frozenset()
    processes: list[Process] = field(default_factory=list)
    num_killed: int = 0
    seen: set[str] = field(default_factory=set)
    """States in which a runner died."""

    def __post_init__(self) -> None:
        self.folder = JobFolder(self.home / "jobs" / new_job_id())
        self.folder.create()
        JobSpec(id=self.folder.path.name, protocol=Component(name="fedavg"), rounds=NUM_ROUNDS, seed=1).save(
            self.folder.spec
        )
        JobRecord(created=utc_now()).save(self.folder.record)

    @property
    def running(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def start(self, folder: JobFolder, lock: int) -> int:
        """Stand in for `launch.start_runner`: the process holds a lock of its own description."""
        self._run(os.dup(lock), detached=True)
        os.close(lock)
        return 1

    def _run(self, lock: int, *, detached: bool) -> None:
        if self.running:
            raise Violation("two processes run one job")
        crash_in = self.draw.randrange(14) if self.draw.random() < 0.6 else None
        self.processes.append(Process(self.folder, lock, detached, crash_in))

    def submit(self) -> None:
        lock = self.folder.take()
        seal_job(self.folder)
        walk(self.folder, replace(load_record(self.folder.record), detached=True), [State.WAITING])
        self.start(self.folder, lock)

    def run_here(self) -> None:
        """Begin as `job.run()` does, in a process that does other things, too."""
        with suppress(JobError):
            self._run(self.folder.take(0.0), detached=False)

    def restart(self) -> None:
        record = load_record(self.folder.record)
        if record.state in PENDING and revival.begin_again(self.folder, self.start, at_once=True):
            return
        if record.state not in HISTORY:
            return
        with suppress(JobError):
            lock = self.folder.take(0.0)
            seal_job(self.folder)
            walk(self.folder, replace(record, detached=True), [State.WAITING])
            self.start(self.folder, lock)

    def look(self) -> JobRecord:
        """Look at the job, and hold what is found against what is true."""
        before = load_record(self.folder.record)
        was_run = bool(self.running)
        num_events = len(list(read_events(self.folder.events)))
        if "blind" in self.bugs:
            return before
        record = revival.look(self.folder, self.start)
        now_run = revival.runs(self.folder, record)
        if record.state in ACTIVE and not self.running:
            raise Violation(f"the job is {record.state} and nobody runs it")
        if record.state in PENDING and now_run != bool(self.running):
            raise Violation(f"the job is {record.state}, and whether it is run is not what is said")
        if record.state in PENDING and not record.detached and not self.running:
            raise Violation(f"the job of a process that is gone is {record.state}")
        changed = record.state != before.state or (self.running and not was_run)
        if changed and len(list(read_events(self.folder.events))) == num_events:
            raise Violation("somebody's look changed the job without a word")
        return record

    def forget_the_pause(self) -> None:
        """Let the time pass after which a job is begun again once more."""
        with suppress(JobError), self.folder.locked(0.0):
            record = load_record(self.folder.record)
            if record.begun_again:
                replace(record, begun_again=1.0).save(self.folder.record)

    def note_deaths(self, before: int) -> None:
        if len(self.running) < before and (state := load_record(self.folder.record).state) not in HISTORY:
            self.num_killed += 1
            self.seen.add(state)

    def act(self) -> None:
        """Do one thing that happens to a job."""
        before = len(self.running)
        deed = self.draw.random()
        if self.running and deed < 0.6:
            self.running[0].step(self.draw)
        elif self.running and deed < 0.7:
            self.running[0].die()
        elif deed < 0.85:
            self.look()
        elif deed < 0.9:
            self.forget_the_pause()
        elif deed < 0.94:
            self.restart()
        elif deed < 0.96:
            revival.resume_all(self.home, lost=self.draw.random() < 0.5, start=self.start)
        elif deed < 0.98 and not self.running:
            self.run_here()
        elif not self.running:
            (kill if self.draw.random() < 0.5 else cancel)(self.folder)
        self.note_deaths(before)

    def finish(self) -> None:
        """Let nothing die any more: whoever looks brings the job to its end."""
        for _ in range(200):
            for process in self.running:
                process.crash_in = None
                process.step(self.draw)
            self.forget_the_pause()
            record = self.look()
            if record.state == State.COMPLETED:
                break
            if record.state == State.DRAFT:  # it died before it wrote a word
                self.run_here()
            elif record.state in HISTORY:
                self.restart()
        else:
            raise Violation(f"the job never ended: it is {load_record(self.folder.record).state}")
        if self.folder.is_held():
            raise Violation("the job has ended and its lock is held")

    def check_history(self) -> None:
        """Hold the events against the record: attempts are counted, and none is lost without a reason."""
        record = load_record(self.folder.record)
        begun = [past.attempt for past in record.past] + [record.attempt]
        if begun != list(range(1, record.attempt + 1)):
            raise Violation(f"attempts {begun} are not counted one by one")
        for event in read_events(self.folder.events):
            if is_job_state(event) and event.body["state"] == State.LOST and not event.body["reason"]:
                raise Violation("the job is lost without a reason")


def run_life(seed: int, bugs: frozenset[str] = frozenset()) -> Life:
    """Run one schedule and return what was seen.

    Raises:
        Violation: a promise was broken.
    """
    draw = random.Random(seed)
    in_memory = Path("/dev/shm")
    where = in_memory if in_memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fedjob-life-", dir=where) as home:
        life = Life(Path(home), draw, bugs)
        try:
            (life.submit if draw.random() < 0.7 else life.run_here)()
            for _ in range(NUM_STEPS):
                life.act()
            life.finish()
            life.check_history()
        finally:
            for process in life.running:
                process.die()
        return life
