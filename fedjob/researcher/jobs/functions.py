"""The functions that a researcher has asked nodes for, with each owner's decision, to be called by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import FedjobError, SpecError
from fedjob.protocols.function import Function
from fedjob.researcher.connection.catalogue import Listing
from fedjob.training_plans.source.plan_source import PlanSource

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.results.result import JobResult


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFunction:
    """A function by its text, as jobs of this home asked nodes to run it.

    Args:
        source: its text, the name of the function, and the text's sha256.
        decisions: node -> `granted`, `pending`, `rejected`, `not-needed`, ..., see `Job.check`; of a node that does not
            answer, what it said last.
        job: the newest job that asked for it.
        jobs: ids of all of them, oldest first.
        session: that runs it; None for the default one.
    """

    source: PlanSource = field(repr=False)
    decisions: Mapping[str, str]
    job: Job = field(repr=False)
    jobs: tuple[str, ...]
    session: Connection | None = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.source.entry

    @property
    def hash(self) -> str:
        """The beginning of its text's sha256; an edited function is another one."""
        return self.source.sha256[:12]

    @property
    def owners(self) -> str:
        """Each owner's decision, in words."""
        return ", ".join(f"{node}: {decision}" for node, decision in sorted(self.decisions.items())) or "-"

    def __call__(
        self,
        *,
        data: Any = None,
        nodes: Sequence[str] | str | None = None,
        use: str = "private",
        progress: bool | None = None,
        **arguments: Any,
    ) -> JobResult:
        """Run the function as a job of its own and return the job's result.

        Args:
            data, nodes, use: as for `Job`; without data those of the job that asked for it last.
            progress: as for `Job.run`.
            arguments: of the function.

        Raises:
            SpecError: an argument that the function does not have, or a wrong one.
            JobFailed: names the reason.
        """
        job = self.made(data=data, nodes=nodes, use=use, **arguments)
        return job.run(progress=progress)

    def made(
        self,
        *,
        data: Any = None,
        nodes: Sequence[str] | str | None = None,
        use: str = "private",
        **arguments: Any,
    ) -> Job:
        """Return the job that a call would run, as a draft."""
        from fedjob.researcher.jobs.job import Job

        where = {"home": self.job.folder.parent.parent} if nodes == "local" else {"session": self.session}
        operation: Any = self.source  # a function by its text
        return Job(
            operation,
            data=self.job.given_data if data is None else data,
            nodes=nodes,
            use=use,
            training_args=arguments,
            **where,
        )


class AskedFunctions(Listing[AskedFunction]):
    """The functions that were asked for, newest last; `functions["means"]` is the newest of that name."""

    def __init__(self, items: Iterable[AskedFunction]) -> None:
        super().__init__(items, ("name", "hash", "owners"))

    def __getitem__(self, key: Any) -> Any:
        """Return a function by its name, or by its place.

        Raises:
            SpecError: none of that name was asked for; those that were are named.
        """
        if not isinstance(key, str):
            return super().__getitem__(key)
        for function in reversed(self):
            if function.name == key:
                return function
        known = ", ".join(sorted({function.name for function in self})) or "none at all"
        raise SpecError(f"no function {key!r} was asked for in this home; there are {known}")


def asked_functions(jobs: Iterable[Job], session: Connection | None, timeout_s: float) -> AskedFunctions:
    """Return the functions of these jobs, with what their nodes' owners have decided by now.

    Args:
        jobs: of one home, in order of submission.
        session: of that home, to run them with.
        timeout_s: seconds to wait for the nodes, for each function.
    """
    by_text: dict[str, list[Job]] = {}
    for job in jobs:
        if job.spec.protocol.name == Function.name and not job.spec.local and job.record.grants:
            by_text.setdefault(job.spec.plan_hash, []).append(job)
    return AskedFunctions(
        AskedFunction(
            source=PlanSource(
                (own[-1].folder / "plan.py").read_bytes().decode(), own[-1].spec.plan_entry, hash_
            ),
            decisions=_decisions(own, timeout_s),
            job=own[-1],
            jobs=tuple(job.id for job in own),
            session=session,
        )
        for hash_, own in by_text.items()
    )


def _decisions(jobs: Sequence[Job], timeout_s: float) -> dict[str, str]:
    """Return node -> decision: as the nodes say now, else as they said last."""
    grants = [(node, grant) for job in jobs for node, grant in job.record.grants.items()]
    grants.sort(key=lambda one: float(one[1].get("when") or 0.0))  # what was decided last counts
    last = {node: str(grant.get("state") or "unknown") for node, grant in grants}
    try:
        answers = jobs[-1].check(timeout_s)
    except FedjobError:  # the hub is away: what is known stands
        return last
    now = {answer.node: answer.state or answer.grant for answer in answers if answer.grant != "no reply"}
    return {**last, **now}
