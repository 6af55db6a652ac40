"""Cross-validation: train several times, each time without a part, and measure on that part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import checked, shown
from fedjob.common.errors import JobError, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.notebooks.report import Report, ShownTable
from fedjob.protocols.evaluation import Evaluation
from fedjob.researcher.definition.arguments import LOCAL
from fedjob.researcher.jobs.job import Job
from fedjob.researcher.results.result_summary import figure, named_table
from fedjob.researcher.simulation.datasets import GivenData
from fedjob.researcher.simulation.population import simulate
from fedjob.researcher.storage.measurements import OVERALL, Measurement
from fedjob.training_plans.plan_checks import check_testing_step

if TYPE_CHECKING:
    from fedjob.researcher.results.result import JobResult

NODES = "nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPart:
    """One part that was held out.

    Args:
        part: the node, or `fold i of k`.
        result: of the job that trained without it.
        rows: what that result measures on it, per node and over all.
    """

    part: str
    result: JobResult
    rows: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The outcome of a cross-validation, part by part."""

    parts: tuple[HeldOutPart, ...]

    @property
    def table(self) -> Any:
        """Every measurement on a held-out part: a DataFrame of part, node, metric, value, num_examples."""
        import pandas

        columns = ["part", "node", "metric", "value", "num_examples"]
        rows = [{"part": held.part, **asdict(row)} for held in self.parts for row in held.rows]
        return pandas.DataFrame(rows, columns=columns)

    @property
    def summary(self) -> Any:
        """Mean, standard deviation (of a sample) and extremes over the parts: a DataFrame, a row a metric."""
        table = self.table
        overall = table[table.node == OVERALL]
        return overall.groupby("metric").value.agg(["mean", "std", "min", "max", "count"])

    def _report(self) -> Report:
        columns = ["metric", "mean", "std", "min", "max", "parts"]
        overall = [
            (metric, *map(figure, row[:-1]), int(row[-1]))
            for metric, row in zip(self.summary.index, self.summary.itertuples(index=False), strict=True)
        ]
        table = self.table
        parts = table[table.node == OVERALL].pivot(index="part", columns="metric", values="value")
        return Report(
            title=f"Cross-validation over {len(self.parts)} parts",
            tables=[
                ShownTable(name="Over the parts", header=tuple(columns), rows=tuple(overall)),
                named_table("Part by part", parts.reset_index()),
            ],
        )

    def __repr__(self) -> str:
        return str(self._report())

    def _repr_html_(self) -> str:
        return self._report()._repr_html_()


@checked
def cross_validate(job: Job, over: str | int = NODES) -> CrossValidation:
    """Train a draft's job once for each part that is held out, and measure each result on its part.

    The jobs are clones of the draft, one after another, all with its seed, so that they
    begin with the same parameters and divide the data alike. The draft stays a draft.

    Args:
        job: trains, and its plan has a testing step.
        over: "nodes" leaves one node out at a time, and measures on its test data: `testing_data`, else
            all its rows. A whole number k of 2 or more divides the rows of every node into k folds.

    Raises:
        SpecError: fewer than two nodes, or another `over`.
        JobError: the job is no draft any more.
        JobFailed: one of the jobs failed; its message says why.
    """
    if not isinstance(job, Job):
        raise SpecError(f"cross_validate takes a Job that was not run yet, not {shown(job)}")
    if State(job.state) != State.DRAFT:
        raise JobError(f"{job.id} is {job.state}; cross_validate takes one that was not run or submitted")
    check_testing_step(type(job.training_plan))
    if over == NODES:
        return CrossValidation(tuple(_over_nodes(job)))
    if isinstance(over, bool) or not isinstance(over, int) or over < 2:
        raise SpecError(f'over is "nodes", or a whole number of folds of 2 or more; found {over!r}')
    return CrossValidation(tuple(_over_folds(job, over)))


def _over_nodes(job: Job) -> Iterator[HeldOutPart]:
    if job.spec.simulation.get("split") is not None:
        raise SpecError(
            "one dataset that is divided among simulated nodes can't be measured at one of them: give data={'node': dataset, "
            "...}, a map, with nodes=simulate(), or take over=5, which folds the rows of every node"
        )
    session = job.reach()
    nodes = job.nodes
    here = simulate() if isinstance(job.given_data, GivenData) else LOCAL
    if len(nodes) < 2:
        raise SpecError(f"to leave one node out takes two or more; the job has {', '.join(nodes)}")
    for held in nodes:
        others = [node for node in nodes if node != held]
        result = job.clone(**_only(job, others)).run(progress=False)
        measuring = Job(
            Evaluation(result),
            **{"data": job.given_data, "nodes": here, **_only(job, [held])},
            training_args={"test_ratio": 1.0},
            session=session,
            home=job.folder.parent.parent,
        )
        yield HeldOutPart(part=held, result=result, rows=measuring.run(progress=False).rows)


def _over_folds(job: Job, count: int) -> Iterator[HeldOutPart]:
    args = {key: value for key, value in job.training_args.items() if key != "test_ratio"}
    for number in range(1, count + 1):
        clone = job.clone(training_args={**args, "test_fold": [number, count]}, validate_at_end=True)
        result = clone.run(progress=False)
        rows = tuple(row for row in result.rows if row.phase == "validate")
        yield HeldOutPart(part=f"fold {number} of {count}", result=result, rows=rows)


def _only(job: Job, nodes: list[str]) -> dict[str, Any]:
    """Return the arguments of `Job` that have it computed at these nodes alone."""
    given = job.given_data
    if isinstance(given, GivenData):
        return {"data": given.only(nodes)}
    return {"data": {node: given[node] for node in nodes}} if job.spec.local else {"nodes": nodes}
