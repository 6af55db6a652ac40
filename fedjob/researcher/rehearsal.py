"""A rehearsal: the whole job on the nodes' mocks first, and what came of it for their owners to read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fedjob.common.errors import JobError, JobFailed, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.types import ENDLESS

if TYPE_CHECKING:
    from fedjob.researcher.job import Job

MAX_NOTE = 2000
"""Characters of a note to owners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of a rehearsal.

    Args:
        job: that ran on the mocks; its logs and errors are whole.
        outcome: in a sentence, as it stands in the note to owners.
        requests: node -> id of the grant that its owner was asked for; empty after a rehearsal that failed.
    """

    job: Job
    outcome: str
    requests: Mapping[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether the job ran through on the mocks."""
        return self.job.success

    def __repr__(self) -> str:
        asked = ", ".join(f"{node}: {grant[:12]}" for node, grant in self.requests.items())
        return f"<Rehearsal: {self.outcome}{f' Requests: {asked}' if asked else ''}>"


def rehearse(job: Job) -> Rehearsal:
    """Run a draft on its nodes' mocks; where that works, file its requests with the outcome in their note.

    Raises:
        JobError: the job is no draft any more.
        NoDatasets, SpecError: its datasets have no mocks.
    """
    if job.state != State.DRAFT:
        raise JobError(f"job {job.id} is {job.state}: only a draft is rehearsed; take job.clone()")
    if job.spec.use != "private":
        raise SpecError("the job itself is for the mocks: just run it")
    rounds = 1 if job.spec.rounds == ENDLESS else job.spec.rounds
    twin = job.clone(
        use="mock", rounds=rounds, every_s=None, name=f"{job.name or job.spec.plan_entry} (rehearsal)"
    )
    began = time.monotonic()
    try:
        twin.run(progress=False)
    except JobFailed as failure:
        return Rehearsal(job=twin, outcome=f"On the mocks it {twin.state}: {failure}")
    nodes = len(twin.spec.datasets)
    outcome = (
        f"Rehearsed on the mock{'s' if nodes > 1 else ''} of {', '.join(twin.spec.datasets)} as {twin.id}: "
        f"{twin.state}, {twin.record.rounds} round{'s' if twin.record.rounds > 1 else ''}, "
        f"{time.monotonic() - began:.1f} s."
    )
    _annotate(job, f"{job.spec.note}\n{outcome}".strip()[:MAX_NOTE])
    requests = {} if job.spec.local else job.request()
    return Rehearsal(job=twin, outcome=outcome, requests=requests)


def _annotate(job: Job, note: str) -> None:
    """Change a draft's note to owners, durably."""
    job._spec = replace(job._spec, note=note)
    job._spec.save(job._folder.spec)
