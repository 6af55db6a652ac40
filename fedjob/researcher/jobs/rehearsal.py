"""A rehearsal: the whole job on the nodes' mocks first, and its outcome for their owners to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.errors import JobError, JobFailed, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.notebooks import html
from fedjob.common.types import ENDLESS
from fedjob.researcher.jobs.view import JobView

MAX_NOTE = 2000
"""Characters of a note to owners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The outcome of a rehearsal.

    Args:
        job: that ran on the mocks; its logs and errors are whole.
        outcome: in a sentence, as it stands in the note to owners.
        requests: node -> id of the grant that its owner was asked for; empty after a rehearsal that failed.
    """

    job: JobView
    outcome: str
    requests: Mapping[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """True if the job ran through on the mocks."""
        return self.job.success

    def __repr__(self) -> str:
        asked = ", ".join(f"{node}: {grant[:12]}" for node, grant in self.requests.items())
        return f"<Rehearsal: {self.outcome}{f' Requests: {asked}' if asked else ''}>"

    def _repr_html_(self) -> str:
        mood = html.chip("ran through", html.GOOD) if self.success else html.chip("failed", html.BAD)
        asked = [html.table(("node", "request"), list(self.requests.items()))] if self.requests else []
        return html.panel("Rehearsal on the mocks", html.joined(mood, self.outcome), *asked)


def changes_for_mocks(job: JobView) -> dict[str, Any]:
    """Return what differs from a draft in the clone of it that runs on the mocks.

    Raises:
        JobError: the job is no draft any more.
        SpecError: it is for the mocks itself.
    """
    if job.state != State.DRAFT:
        raise JobError(f"{job.id} is {job.state}: only a draft is rehearsed; take job.clone()")
    if job.spec.use != "private":
        raise SpecError("the job itself is for the mocks: just run it")
    rounds = 1 if job.spec.rounds == ENDLESS else job.spec.rounds
    name = f"{job.name or job.spec.plan_entry} (rehearsal)"
    return {"use": "mock", "rounds": rounds, "every_s": None, "name": name}


def rehearse(
    twin: JobView, run: Callable[[], object], request: Callable[[str], Mapping[str, str]]
) -> Rehearsal:
    """Run the clone of a draft on the mocks; where that works, ask the nodes' owners for the draft itself.

    Args:
        run: runs the clone to its end.
        request: asks the owners, given the outcome for them to read; returns node -> id of its grant.

    Raises:
        NoDatasets, SpecError: its datasets have no mocks.
    """
    began = time.monotonic()
    try:
        run()
    except JobFailed as failure:
        return Rehearsal(job=twin, outcome=f"On the mocks it {twin.state}: {failure}")
    nodes = len(twin.spec.datasets)
    outcome = (
        f"Rehearsed on the mock{'s' if nodes > 1 else ''} of {', '.join(twin.spec.datasets)} as {twin.id}: "
        f"{twin.state}, {twin.record.rounds} round{'s' if twin.record.rounds > 1 else ''}, "
        f"{time.monotonic() - began:.1f} s."
    )
    return Rehearsal(job=twin, outcome=outcome, requests=request(outcome))
