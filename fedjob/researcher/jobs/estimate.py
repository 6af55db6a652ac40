"""The estimate of what a job would cost, in all and at each of its nodes, before it is submitted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedjob.common.console import size
from fedjob.common.errors import SpecError
from fedjob.common.notebooks import html
from fedjob.common.types import ENDLESS
from fedjob.execution.private_work import private_work
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.protect import protect_of
from fedjob.researcher.connection.catalogue import Listing
from fedjob.researcher.federation.offers import NodeAnswer, offer_for
from fedjob.researcher.runner.traffic_estimate import TrafficEstimate, estimate_traffic, unknown_traffic
from fedjob.researcher.storage.deployment import Enclosed
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.replies import raw_replies
from fedjob.researcher.storage.search import find_entries
from fedjob.researcher.storage.spec import JobSpec, load_spec

_PRIVACY = ("epsilon", "delta", "cost", "left", "after")
UNKNOWN_TIME = "unknown until a job with this plan has run"


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


class Estimate(Listing[NodeEstimate]):
    """The cost of a job, in all and for each of its nodes, in the order of their names; prints as a table.

    Args:
        estimates: of the nodes.
        traffic: None where the bytes are not known before.
        why: they are not.
        time_s: seconds that it will take by the measure of an earlier job; None for unknown.
        measured: that job's id.
        scaled: that job had another number of epochs, for which the time is scaled.
        private: it asks for differential privacy.
    """

    def __init__(
        self,
        estimates: Iterable[NodeEstimate],
        *,
        traffic: TrafficEstimate | None,
        why: str,
        time_s: float | None,
        measured: str,
        private: bool,
        scaled: bool = False,
    ) -> None:
        columns = ("node", "down", "up", *(_PRIVACY if private else ()), "problem")
        super().__init__(estimates, columns)
        self.time_s, self.measured, self.scaled = time_s, measured, scaled
        self._traffic, self._why = traffic, why

    @property
    def ok(self) -> bool:
        """True if no node has a problem with it."""
        return not any(one.problem for one in self)

    @property
    def bytes_per_node(self) -> dict[str, int] | None:
        """Node -> bytes that it fetches and stores; None where they are not known before the job."""
        traffic = self._traffic
        return (
            None
            if traffic is None
            else {node: traffic.down[node] + traffic.up[node] for node in traffic.down}
        )

    @property
    def bytes_total(self) -> int | None:
        """The bytes of all transfers to and from the hub, those of the researcher among them; None for unknown."""
        return None if self._traffic is None else self._traffic.total

    @property
    def exact(self) -> bool:
        """True if the bytes are exact, and no bound."""
        return self._traffic is not None and not self._traffic.bound

    @property
    def memory_bytes(self) -> int | None:
        """The bytes of the tensors that a node has at once: those it is sent, gradients and its answer; None for unknown.

        Without the optimizer's state, activations and data.
        """
        return None if self._traffic is None else self._traffic.memory_bytes

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
            lines = [
                f"bytes: {kind} {size(traffic.total)} through the hub, messages of some kB a task not counted",
                f"memory: {size(traffic.memory_bytes)} of parameters, gradients and answer at a node",
            ]
        time = UNKNOWN_TIME if self.time_s is None else f"{self.time_s:.1f} s, {self._by}"
        return "\n".join([*lines, f"time: {time}"])

    @property
    def _by(self) -> str:
        return f"by {self.measured}, which had other epochs" if self.scaled else f"as {self.measured} took"

    def _rows(self) -> list[list[Any]]:
        return [[_shown(column, getattr(one, column)) for column in self._columns] for one in self]

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.about}"

    def _repr_html_(self) -> str:
        facts = dict(line.split(": ", 1) for line in self.about.splitlines())
        table = html.table(*self._shown()) if self else html.note("none")
        return html.panel("Estimate", html.facts(facts), table)


def estimate_job(
    spec: JobSpec, folder: JobFolder, home: Path, ask: Callable[[], Iterable[NodeAnswer]]
) -> Estimate:
    """Return what a job would cost at each of its nodes, and in all.

    Args:
        spec: with its datasets.
        home: of the researcher, whose earlier jobs were measured.
        ask: asks the nodes whether it may run, and leaves nothing there; called for differential privacy alone.
    """
    private = protect_of(spec.protect).dp is not None
    why = unknown_traffic(spec)
    traffic = None if why else estimate_traffic(spec, folder, local=spec.local)
    if not private:
        nodes: Iterable[NodeEstimate] = (NodeEstimate(node=node) for node in sorted(spec.datasets))
    elif spec.local:
        nodes = (_at_site(spec, node) for node in sorted(spec.datasets))
    else:
        nodes = (_answered(answer) for answer in ask())
    if traffic is not None:
        down, up = traffic.down, traffic.up
        nodes = (replace(one, down=down.get(one.node, 0), up=up.get(one.node, 0)) for one in nodes)
    time_s, measured, scaled = _time_of(spec, home)
    return Estimate(
        nodes, traffic=traffic, why=why, time_s=time_s, measured=measured, scaled=scaled, private=private
    )


def _time_of(spec: JobSpec, home: Path) -> tuple[float | None, str, bool]:
    """Return the seconds that a job will take by its like that ran last, and that job's id; None where none did.

    Where no job with these arguments ran, one with another number of epochs is taken: of its rounds the nodes' own training
    time grows with the epochs, and the rest, bytes on their way among it, stays.

    Returns:
        seconds, id, and whether that job had other epochs.
    """
    if not spec.plan_hash or spec.rounds == ENDLESS:
        return None, "", False
    other: tuple[float | None, str, bool] = (None, "", False)
    for entry in find_entries(home, plan=spec.plan_hash, state="completed", reverse=True):
        folder = job_folder(home, entry.id)
        earlier = load_spec(folder.spec)
        if not entry.rounds or not _is_like(earlier, spec) or (found := _measured(folder)) is None:
            continue
        first, each = found
        if earlier.training_args == spec.training_args:
            return first + each * (spec.rounds - 1), entry.id, False
        if other[0] is None:
            more = _training_s(folder) * (_epochs(spec) / _epochs(earlier) - 1)
            first, each = (max(0.0, one + more) for one in found)
            other = first + each * (spec.rounds - 1), entry.id, True
    return other


def _is_like(earlier: JobSpec, spec: JobSpec) -> bool:
    """Tell whether two jobs take equally long, but for their numbers of rounds and of epochs."""
    same = all(getattr(earlier, name) == getattr(spec, name) for name in _LIKE)
    args = [{k: v for k, v in one.training_args.items() if k != "epochs"} for one in (earlier, spec)]
    return same and args[0] == args[1] and {*earlier.datasets} == {*spec.datasets} and bool(_epochs(spec))


def _epochs(spec: JobSpec) -> int:
    """Return the passes over the data in a round; 0 where that is no number."""
    epochs = spec.training_args.get("epochs", 1)
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0 else 0


def _measured(folder: JobFolder) -> tuple[float, float] | None:
    """Return the seconds of the first round, with all that came before it, and the median of later ones; None for unknown."""
    events = list(read_events(folder.events))
    times = [event.time for event in events if event.type == "round"]
    begun = next((event.time for event in events if event.type == "ask"), 0.0)
    if not times or not begun:
        return None
    first = max(0.0, times[0] - begun)
    later = [after - before for before, after in pairwise(times)]
    return first, statistics.median(later) if later else first


def _training_s(folder: JobFolder) -> float:
    """Return the seconds that a round spent in the slowest node's training, the median over rounds."""
    slowest = []
    for steps in raw_replies(folder).values():
        bodies = [body for nodes in steps.values() for body in nodes.values() if isinstance(body, dict)]
        times = [float(timing.get("train", 0.0)) for body in bodies if (timing := body.get("timing"))]
        slowest += [max(times)] if times else []
    return statistics.median(slowest) if slowest else 0.0


def _answered(answer: NodeAnswer) -> NodeEstimate:
    found: dict[str, Any] = {name: value for name, value in answer.privacy.items() if name in _PRIVACY}
    problem = "" if answer.may_run or answer.grant == "pending" else answer.verdict
    return NodeEstimate(node=answer.node, problem=problem, **found)


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


_LIKE = (
    "protocol",
    "model_args",
    "each",
    "items",
    "local",
    "use",
    "protect",
    "preprocess",
    "compress",
)
"""Fields of a spec that must be the same for one job to take as long as another, beside its training arguments."""
