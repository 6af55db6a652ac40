"""The part of a job that deals with its nodes' owners and schedules: check, request, refresh, and why it waits."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import JobError, RepositoryError, TransportError
from fedjob.common.lifecycle import HISTORY, State
from fedjob.researcher.connection.catalogue import Listing, list_datasets
from fedjob.researcher.federation.offers import (
    NO_REPLY,
    Checks,
    NodeAnswer,
    ask_nodes,
    check_schemas,
    grant_entry,
)
from fedjob.researcher.federation.released_logs import fetch_released
from fedjob.researcher.jobs.view import JobView
from fedjob.researcher.monitoring.diagnosis import TaskInfo, Try, Why, explain, tasks_of, tries_of
from fedjob.researcher.monitoring.logs import JobLogs, read_logs
from fedjob.researcher.storage.deployment import deployment, plan_at
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.record import load_record

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection

REFRESH_TIMEOUT_S = 3.0
LOGS_EVERY_S = 1.0
"""Nodes are asked for released logs at most so often."""


class Asking(JobView):
    """The verbs of a job that ask nodes and their owners before its first round.

    job.check()            # would the nodes allow it? leaves nothing there
    job.request()          # ask the owners, run nothing yet
    job.submit()           # run, as soon as they allow it
    job.why()              # why is it not running?
    """

    _refreshed: float | None = None
    _undecided_before: tuple[str, ...] | None = None
    _logs_asked: float | None = None

    @abstractmethod
    def reach(self) -> Connection | None:
        """Find the job's datasets; return the session, None for a local job."""

    # -- verbs ----------------------------------------------------------------------

    def check(self, timeout_s: float = 10.0, *, schema: Mapping[str, str] | None = None) -> Checks:
        """Ask every node whether the job may run there; nothing is filed and nothing stays at a node.

        The plan was imported and built when the job was defined; the nodes look
        whether they have the packages that it imports.

        Args:
            timeout_s: after which a node counts as silent.
            schema: column name -> type that every dataset must have; an empty type for any.

        Returns:
            One answer per node.

        Raises:
            NoDatasets: nothing matches `data`.
        """
        session = self.reach()
        if session is None:
            return Checks(
                [
                    NodeAnswer(node=node, dataset=str(info["name"]), grant="not-needed", limits={})
                    for node, info in sorted(self._spec.datasets.items())
                ]
            )
        epoch = self._runner.record.epoch if self._runner is not None else 0
        checks = ask_nodes(session, self._spec, self._folder, dry=True, timeout_s=timeout_s, epoch=epoch)
        if schema is None:
            return checks
        columns = {
            handle.node: handle.schema
            for handle in list_datasets(session, timeout_s=timeout_s)
            if self._spec.datasets.get(handle.node, {}).get("name") == handle.name
        }
        return check_schemas(checks, schema, columns)

    def request(self, timeout_s: float = 30.0) -> dict[str, str]:
        """Ask the owners of the nodes to allow the job; it stays a draft, and nothing runs.

        Returns:
            node -> id of its grant; pending ones wait for their owners. Nodes that need none, or that
            did not answer, are not among them.

        Raises:
            JobError: the job is no draft: `submit` asks by itself.
        """
        if load_record(self._folder.record).state != State.DRAFT:
            raise JobError("a job that was submitted has asked its nodes' owners already: see job.waiting_on")
        session = self.reach()
        if session is None:
            return {}
        checks = ask_nodes(session, self._spec, self._folder, dry=False, timeout_s=timeout_s)
        self._write_down(checks)
        return {answer.node: answer.id for answer in checks if answer.id}

    def refresh(self, throttle_s: float = 1.0) -> bool:
        """Ask the nodes whose owners have not decided again; return whether anything has changed.

        The nodes report a decision by themselves, so that this is for loops that
        want an answer. It talks to the network at most once per `throttle_s`.
        """
        now = time.monotonic()
        if self._refreshed is not None and now - self._refreshed < throttle_s:
            return False
        self._refreshed = now
        grants = load_record(self._folder.record).grants
        before = self._undecided_before if self._undecided_before is not None else _undecided(grants)
        waiting = _undecided(grants)
        if waiting and waiting == before:
            self._ask_again(waiting)
        self._undecided_before = _undecided(load_record(self._folder.record).grants)
        return self._undecided_before != before

    def logs(self, node: str | None = None, stdout: bool = True, stderr: bool = True) -> JobLogs:
        """Return what tasks wrote, as far as their nodes let it out; print it to read it.

        A node that keeps a log to itself says so, and whom to ask. Of a job that has
        ended, such nodes are asked whether their owners have released it since.

        Args:
            node: None for all.
            stdout, stderr: which streams.
        """

        def read() -> JobLogs:
            events = read_events(self._folder.events)
            return JobLogs(read_logs(events, node=node, stdout=stdout, stderr=stderr))

        found = read()
        withheld = {line.node for line in found if line.withheld}
        ended = load_record(self._folder.record).state in HISTORY
        return read() if withheld and ended and self._fetch_released(withheld) else found

    def _fetch_released(self, nodes: set[str]) -> int:
        now = time.monotonic()
        if self._logs_asked is not None and now - self._logs_asked < LOGS_EVERY_S:
            return 0
        self._logs_asked = now
        try:
            session = self.reach()
            return 0 if session is None else fetch_released(session, self._folder, self._spec.id, nodes)
        except (TransportError, RepositoryError, JobError):
            return 0  # what is known is shown; who asks again may be luckier

    def _ask_again(self, nodes: tuple[str, ...]) -> None:
        session = self.reach()
        if session is None or not session.lock.acquire(blocking=False):
            return  # a runner in this process receives the nodes' answers
        try:
            some = replace(self._spec, datasets={node: self._spec.datasets[node] for node in nodes})
            checks = ask_nodes(session, some, self._folder, dry=True, timeout_s=REFRESH_TIMEOUT_S)
        finally:
            session.lock.release()
        if all(answer.grant in ("pending", NO_REPLY) for answer in checks):
            return
        self._write_down(checks)

    def _write_down(self, checks: Checks) -> None:
        """Put answers into the record of a job that nobody runs; a runner receives the same from the nodes."""
        try:
            with self._folder.locked():
                record = load_record(self._folder.record)
                grants = dict(record.grants)
                now = time.time()
                for answer in checks:
                    if answer.grant != NO_REPLY:
                        grants[answer.node] = grant_entry(answer, grants.get(answer.node, {}), now)
                replace(record, grants=grants).save(self._folder.record)
        except JobError:
            self._await_runner(
                {answer.node for answer in checks if answer.grant not in ("pending", NO_REPLY)}
            )

    def _await_runner(self, decided: set[str]) -> None:
        """Wait a moment until the runner has recorded the answers that it received."""
        deadline = time.monotonic() + REFRESH_TIMEOUT_S
        while time.monotonic() < deadline:
            if not decided & set(_undecided(load_record(self._folder.record).grants)):
                return
            time.sleep(0.05)

    # -- what is known ----------------------------------------------------------------

    @property
    def waiting_on(self) -> list[dict[str, Any]]:
        """Whose permission is missing: `{node, needs, plan, dataset, since, contact}`; empty outside `waiting`."""
        record = load_record(self._folder.record)
        if record.state != State.WAITING:
            return []
        return [
            {
                "node": node,
                "needs": record.grants[node]["needs"],
                "plan": plan_at(self._spec, node).get("hash", ""),
                "dataset": str(self._spec.datasets.get(node, {}).get("name", "")),
                "since": record.grants[node]["since"],
                "contact": record.grants[node]["contact"],
            }
            for node in _undecided(record.grants)
        ]

    @property
    def schedule(self) -> Listing[Try]:
        """Every try at scheduling of this attempt, oldest first; `len(job.schedule)` is how often."""
        tries = tries_of(read_events(self._folder.events))
        return Listing(tries, ("number", "when", "reason", "answers", "wait_s"))

    @property
    def tasks(self) -> Listing[TaskInfo]:
        """The job's tasks at its nodes, as these last reported."""
        tasks = tasks_of(read_events(self._folder.events))
        return Listing(tasks, ("node", "round", "state", "worker", "reason", "updated"))

    @property
    def deployment(self) -> dict[str, list[str]]:
        """Which plan (`Class@sha256`) runs at which nodes, once these are known."""
        return load_record(self._folder.record).deployment or deployment(self._spec)

    def why(self) -> Why:
        """Say why the job is not further than it is: which gate, which node, whom to ask."""
        record = load_record(self._folder.record)
        return explain(self._spec, record, list(read_events(self._folder.events)))


def _undecided(grants: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted(node for node, grant in grants.items() if grant.get("state") == "pending"))
