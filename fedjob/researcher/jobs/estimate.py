"""The estimate of what a job would cost, in all and at each of its nodes, before it is submitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.console import size
from fedjob.common.errors import SpecError
from fedjob.common.notebooks import html
from fedjob.common.types import ENDLESS
from fedjob.execution.private_work import private_work
from fedjob.execution.work_speed import core_speed
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.protect import protect_of
from fedjob.researcher.connection.catalogue import Listing, alike_together
from fedjob.researcher.estimates.time_estimate import (
    HERE,
    TimeEstimate,
    time_by_earlier_jobs,
    time_by_speeds,
)
from fedjob.researcher.federation.offers import NodeAnswer, offer_for
from fedjob.researcher.runner.traffic_estimate import TrafficEstimate, estimate_traffic, unknown_traffic
from fedjob.researcher.storage.deployment import Enclosed
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record
from fedjob.researcher.storage.spec import JobSpec

_MOST_WHY = 300
"""Characters of the words of somebody's own protocol about itself."""
_PRIVACY = ("epsilon", "delta", "cost", "left", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEstimate:
    """The cost of a job at one node.

    Args:
        down, up: bytes of objects that it fetches and stores, over the whole job; None where nobody knows before.
        epsilon, delta: that the job keeps there for each record, over all its rounds; the owner may have lowered what
            was asked for.
        cost: epsilon of the whole job, with the delta of the node's budget where there is one.
        left, after: what is left of the tightest budget now, and what would be left; infinite where there is none.
        problem: why it would not run; empty where it would, and where no node was asked.
        absent: it could have the job's data and did not answer, so that the job goes without it.
    """

    node: str
    down: int | None = None
    up: int | None = None
    epsilon: float = math.nan
    delta: float = math.nan
    cost: float = math.nan
    left: float = math.inf
    after: float = math.inf
    problem: str = ""
    absent: bool = False


class Estimate(Listing[NodeEstimate]):
    """The cost of a job, in all and for each of its nodes, in the order of their names; prints as a table.

    Args:
        estimates: of the nodes.
        traffic: None where the bytes are not known before.
        why: they are not.
        time: that it will take.
        private: it asks for differential privacy.
        rounds_left: of a job that goes on: the bytes and the time are those of so many; 0 for all of them.
    """

    def __init__(
        self,
        estimates: Iterable[NodeEstimate],
        *,
        traffic: TrafficEstimate | None,
        why: str,
        time: TimeEstimate,
        private: bool,
        rounds_left: int = 0,
    ) -> None:
        columns = ("node", "down", "up", *(_PRIVACY if private else ()), "problem")
        super().__init__(estimates, columns)
        self._time, self._traffic, self._why, self._rounds_left = time, traffic, why, rounds_left

    @property
    def ok(self) -> bool:
        """True if no node of the job has a problem with it."""
        return not any(one.problem for one in self if not one.absent)

    @property
    def bytes_per_node(self) -> dict[str, int] | None:
        """Node -> bytes that it fetches and stores; None where they are not known before the job."""
        traffic = self._traffic
        return (
            None
            if traffic is None or traffic.unknown_up
            else {node: traffic.down[node] + traffic.up[node] for node in traffic.down}
        )

    @property
    def bytes_total(self) -> int | None:
        """The bytes of all transfers to and from the hub, those of the researcher among them; None for unknown."""
        return None if self._traffic is None or self._traffic.unknown_up else self._traffic.total

    @property
    def exact(self) -> bool:
        """True if the bytes are exact, and no bound."""
        return self._traffic is not None and not (self._traffic.bound or self._traffic.unknown_up)

    @property
    def memory_bytes(self) -> int | None:
        """The most bytes of tensors that a node's worker has at once for a step of the job; None for unknown.

        Model, gradients and answer, and what optimizer, protocol, compression and protection hold beside them; without
        activations, data and libraries.
        """
        return None if self._traffic is None else self._traffic.memory_bytes

    @property
    def time_s(self) -> float | None:
        """The seconds that it will take, from the first ask to the last round; None for unknown."""
        return self._time.seconds

    @property
    def time_range_s(self) -> tuple[float, float] | None:
        """The least and the most seconds to be expected: wider, the farther what was measured is from this job."""
        return self._time.range_s

    @property
    def measured(self) -> str:
        """The id of the earlier job whose time was taken; empty for none."""
        return self._time.measured

    @property
    def scaled(self) -> bool:
        """True if that job had another number of epochs, for which its time is scaled."""
        return self._time.scaled

    @property
    def epsilon(self) -> dict[str, float]:
        """Node -> epsilon of the whole job; empty without differential privacy."""
        return {one.node: one.cost for one in self if math.isfinite(one.cost)}

    @property
    def about(self) -> str:
        """The cost in all, in a few lines."""
        traffic = self._traffic
        if traffic is None:
            lines = [f"bytes: {self._why}"]
        else:
            kind = "exactly" if not traffic.bound else f"at most ({traffic.bound})"
            moved = f"{kind} {size(traffic.total)} through the hub, messages of some kB a task not counted"
            if self._rounds_left:
                moved += f", in the {self._rounds_left} round{'s' * (self._rounds_left != 1)} that are left"
            if traffic.unknown_up:
                moved += f"; without the answers: {traffic.unknown_up}"
            without = "data, activations and what the optimizer holds, which shows when it trains"
            lines = [
                f"bytes: {moved if traffic.total else 'none, all of it is on this machine'}",
                f"memory: {size(traffic.memory_bytes)} of the work's tensors at a node, without "
                f"{without if traffic.lacks_optimizer else 'data and activations'}",
            ]
        return "\n".join([*lines, f"time: {self._time.words}"])

    def _rows(self) -> list[list[Any]]:
        rows = alike_together([[getattr(one, column) for column in self._columns] for one in self])
        return [[_shown(*cell) for cell in zip(self._columns, row, strict=True)] for row in rows]

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.about}"

    def _repr_html_(self) -> str:
        facts = dict(line.split(": ", 1) for line in self.about.splitlines())
        table = html.table(*self._shown()) if self else html.note("none")
        return html.panel("Estimate", html.facts(facts), table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What is tried to find the time of a job: the lines, and where nothing like it has run, a part of its work.

    Args:
        rounds: runs first rounds of the job and deletes them; returns the time of the job by them, or an unknown one that says
            why they could not run.
        lines: times the lines of all parties; returns the nodes' answers. Of a job on this machine there are none.
        here: times one batch of made-up rows here; returns node -> examples a second, and why where it is 0.
    """

    rounds: Callable[[JobSpec], TimeEstimate]
    lines: Callable[[], Iterable[NodeAnswer]] = tuple
    here: Callable[[], Mapping[str, tuple[float, str]]] = dict


def estimate_job(
    spec: JobSpec,
    folder: JobFolder,
    home: Path,
    ask: Callable[[], Iterable[NodeAnswer]],
    trials: Trials | None = None,
    *,
    done: int = 0,
) -> Estimate:
    """Return what a job would cost at each of its nodes, and in all.

    Args:
        spec: with its datasets.
        home: of the researcher, whose earlier jobs were measured.
        ask: asks the nodes whether it may run, and leaves nothing there; called for differential privacy, and where no job
            like it was measured.
        trials: that may be made for its time; None for none. The lines are timed in any case, the work where no job like it
            was measured.
        done: rounds that are committed already: the bytes and the time are those of the others. What differential privacy
            costs is that of the whole job.
    """
    private = protect_of(spec.protect).dp is not None
    why, left = unknown_traffic(spec), _left(spec, done)
    traffic = None
    if not why:
        try:
            traffic = estimate_traffic(left, folder, local=spec.local)
        except Exception as error:  # a protocol of the researcher's own may do anything with answers of zeros
            words = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_WHY]
            why = f"known after the job: answers of zeros don't go through its protocol ({words})"
    answers = [] if trials is None else list(trials.lines())
    time = time_by_earlier_jobs(left, home, traffic)
    if not (answers or spec.local) and (private or time.seconds is None):
        answers = list(ask())
    if not private:
        nodes: Iterable[NodeEstimate] = (
            NodeEstimate(node=node, **_moved(traffic, node)) for node in sorted(spec.datasets)
        )
    elif spec.local:
        nodes = (replace(_at_site(spec, node), **_moved(traffic, node)) for node in sorted(spec.datasets))
    else:
        nodes = (replace(_answered(answer), **_moved(traffic, answer.node)) for answer in answers)
    nodes = [*nodes, *_absent(folder)]
    if time.seconds is None and spec.rounds != ENDLESS:
        time = _time_by_nodes(left, home, answers, traffic, trials)
    rounds_left = 0 if left is spec else left.rounds
    return Estimate(nodes, traffic=traffic, why=why, time=time, private=private, rounds_left=rounds_left)


def _left(spec: JobSpec, done: int) -> JobSpec:
    """Return a job of the rounds that are left, if some are committed and some are not."""
    return replace(spec, rounds=spec.rounds - done) if 0 < done < spec.rounds < ENDLESS else spec


def _time_by_nodes(
    spec: JobSpec,
    home: Path,
    answers: Iterable[NodeAnswer],
    traffic: TrafficEstimate | None,
    trials: Trials | None,
) -> TimeEstimate:
    """Return the time of a job of which no like has run: by a trial, by the nodes' own speeds, by a batch here."""
    speeds = {answer.node: answer.speed for answer in answers}
    tried = TimeEstimate() if trials is None else trials.rounds(spec)
    if tried.seconds is not None or spec.local:
        return tried
    measured = time_by_speeds(spec, home, speeds, traffic)
    if measured.seconds is not None or trials is None:
        return measured
    if spec.use != "private":
        return tried
    here, core = trials.here(), core_speed()
    whys = sorted({why for _, why in here.values() if why})
    guessed = {
        node: {**speeds.get(node, {}), "examples_s": rate * (speeds.get(node, {}).get("core") or core) / core}
        for node, (rate, _) in here.items()
    }
    how = "of one batch of made-up rows here, scaled to the speed of their cores"
    found = time_by_speeds(spec, home, guessed, traffic, within=HERE, of=how)
    if found.seconds is None:
        return TimeEstimate(by="; ".join([tried.by, *whys]))
    return replace(found, by=f"{found.by}; {tried.by.removeprefix('unknown: ')}")


def _moved(traffic: TrafficEstimate | None, node: str) -> dict[str, Any]:
    """Return the bytes that a node fetches and stores, as far as they are known before, as fields of its estimate."""
    if traffic is None:
        return {}
    return {"down": traffic.down.get(node, 0), "up": None if traffic.unknown_up else traffic.up.get(node, 0)}


def _answered(answer: NodeAnswer) -> NodeEstimate:
    found: dict[str, Any] = {name: value for name, value in answer.privacy.items() if name in _PRIVACY}
    problem = "" if answer.may_run or answer.grant == "pending" else answer.verdict
    return NodeEstimate(node=answer.node, problem=problem, **found)


def _absent(folder: JobFolder) -> Iterator[NodeEstimate]:
    for node, why in sorted(load_record(folder.record).absent.items()):
        yield NodeEstimate(node=node, problem=f"the job goes without it: {why}", absent=True)


def _at_site(spec: JobSpec, node: str) -> NodeEstimate:
    dp = protect_of(spec.protect).dp
    assert dp is not None
    try:
        offer = offer_for(spec, node, None, Enclosed())
        info = spec.datasets[node]
        assets = [str(asset["name"]) for asset in info.get("assets") or ()]
        work = private_work(offer, dp, num_rows=int(info.get("num_rows") or 0), assets=assets)
    except SpecError as error:
        return NodeEstimate(node=node, epsilon=dp.epsilon, delta=dp.delta, problem=str(error))
    cost = round(cost_of(work.whole, dp.delta), 6)
    return NodeEstimate(node=node, epsilon=dp.epsilon, delta=dp.delta, cost=cost)


def _shown(column: str, value: Any) -> str:
    if column in ("down", "up"):
        return "-" if value is None else size(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return str(value)
