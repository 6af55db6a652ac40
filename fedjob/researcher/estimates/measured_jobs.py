"""The jobs of a home that ran before, as measures of rounds: what each part took, and how a round of another job follows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.researcher.connection.lines import OWN, WAYS, LineHistory
from fedjob.researcher.estimates.round_model import LineRates, NodeRound, RoundModel, same_or_new
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder, read_cost
from fedjob.researcher.storage.replies import raw_replies

_FEW_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBytes:
    """The bytes of one round.

    Args:
        down, up: node -> bytes that it fetches and stores.
        sent: by the researcher.
    """

    down: Mapping[str, float] = field(default_factory=dict)
    up: Mapping[str, float] = field(default_factory=dict)
    sent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredJob:
    """What the rounds of a job took.

    Args:
        at: when its last round was committed, seconds since 1970.
        rounds_s: seconds of each round, the first with all that came before it.
        trained_s: node -> seconds of training and validation in a round, the median of those after the first.
        other_s: node -> its other seconds between fetching and storing, likewise.
    """

    id: str
    at: float
    rounds_s: tuple[float, ...]
    trained_s: Mapping[str, float]
    other_s: Mapping[str, float]

    @property
    def first_s(self) -> float:
        """Seconds that the job took more than so many late rounds: starts of workers, first reading of data."""
        return math.fsum(self.rounds_s) - self.each_s * len(self.rounds_s)

    @property
    def each_s(self) -> float:
        """Seconds of a late round: the median of the later half, when workers, caches and spare workers are warm."""
        later = self.rounds_s[1:] or self.rounds_s
        return statistics.median(later[len(later) // 2 :])

    def of_rounds_s(self, rounds: int) -> float:
        """Return the seconds of so many rounds: of its own first ones, and of late ones for each further one."""
        further = max(0, rounds - len(self.rounds_s))
        return math.fsum(self.rounds_s[:rounds]) + further * self.each_s

    def model(self, moved: RoundBytes, trained_s: Mapping[str, float] | None = None) -> RoundModel:
        """Return the model of a round of this job, without lines.

        Args:
            trained_s: node -> seconds of training, in place of those measured.
        """
        trained = self.trained_s if trained_s is None else trained_s
        nodes = {
            node: NodeRound(
                down=moved.down.get(node, 0.0),
                up=moved.up.get(node, 0.0),
                work_s=self.other_s.get(node, 0.0) + trained.get(node, 0.0),
            )
            for node in sorted({*self.other_s, *moved.down})
        }
        return RoundModel(nodes=nodes, sent=moved.sent)


def measured_job(id_: str, folder: JobFolder) -> MeasuredJob | None:
    """Return what a job's folder still has of its times; None for unknown."""
    times = _round_times(folder)
    if len(times) < 2:
        return None
    trained: dict[str, dict[int, float]] = {}
    other: dict[str, dict[int, float]] = {}
    for round_, node, body in answers(folder):
        timing = {name: float(value) for name, value in body["timing"].items()}
        train = training_s(timing)
        whole = timing.get("queued", 0.0) + max(train, timing.get("total", 0.0))
        for kept, took in ((trained, train), (other, whole - train)):
            rounds = kept.setdefault(node, {})
            rounds[round_] = rounds.get(round_, 0.0) + took
    rounds_s = tuple(max(0.0, after - before) for before, after in pairwise(times))
    return MeasuredJob(
        id=id_,
        at=times[-1],
        rounds_s=rounds_s,
        trained_s={node: _usual(rounds) for node, rounds in trained.items()},
        other_s={node: _usual(rounds) for node, rounds in other.items()},
    )


def training_s(timing: Mapping[str, Any]) -> float:
    """Return a node's seconds of training and validation, from the times of an answer."""
    return float(timing.get("train", 0.0)) + float(timing.get("validate", 0.0))


def _usual(rounds: Mapping[int, float]) -> float:
    """Return the median over the rounds after the first, where there are any."""
    return statistics.median([took for number, took in rounds.items() if number > 1] or rounds.values())


def _round_times(folder: JobFolder) -> list[float]:
    """Return when a job began to ask, and when each of its rounds was committed; empty for unknown."""
    events = list(read_events(folder.events))
    times = [event.time for event in events if event.type == "round"]
    begun = next((event.time for event in events if event.type == "ask"), 0.0)
    return [begun, *times] if times and begun else []


def answers(folder: JobFolder) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yield round, node and body of the answers that a job's folder still has, where they have times."""
    for round_, steps in raw_replies(folder).items():
        for nodes in steps.values():
            for node, body in nodes.items():
                if isinstance(body, dict) and body.get("timing"):
                    yield round_, node, body


def spread(rounds: Sequence[float]) -> float:
    """Return how many times longer or shorter than the median nine in ten rounds were, after the first; 1 for too few.

    Where rounds of equal work took unequal time, on a busy machine or line, the next job will take another time, too.
    """
    later = sorted(rounds[1:])
    if len(later) < _FEW_ROUNDS or later[0] <= 0:
        return 1.0
    tenth, half = max(1, len(later) // 10), statistics.median(later)
    return max(later[-tenth] / half, half / later[tenth - 1])


def bytes_of(folder: JobFolder, rounds: int) -> RoundBytes:
    """Return the bytes of a round of a job that ran, as its owners were told them; none where these are not known."""
    cost = {node: one for node, one in read_cost(folder).items() if "up" in one}
    down = {node: one["down"] / max(1, rounds) for node, one in cost.items()}
    up = {node: one["up"] / max(1, rounds) for node, one in cost.items()}
    most = max(down.values(), default=0.0)
    return RoundBytes(down=down, up=up, sent=most if most > MAX_ATTACHED_BYTES else math.fsum(down.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChange:
    """The lines of a job's parties, as they were at a moment and as they are.

    Args:
        before, now: node -> its line, and under `OWN` the researcher's.
    """

    before: Mapping[str, LineRates]
    now: Mapping[str, LineRates]

    @property
    def changed(self) -> bool:
        """True if a line is another one."""
        return self.before != self.now

    def seconds(self, before: RoundModel, now: RoundModel) -> float:
        """Return how much longer a round takes now than it did."""
        own = LineRates()
        return (
            now.over(self.now, self.now.get(OWN, own)).seconds
            - before.over(self.before, self.before.get(OWN, own)).seconds
        )


def line_change(lines: LineHistory, nodes: Sequence[str], job: MeasuredJob) -> LineChange:
    """Return the lines of nodes and of the researcher as they were in a job, and as they were measured last."""
    before, now = {}, {}
    for party in (OWN, *nodes):
        down, up = (
            same_or_new(lines.rate_at(party, way, job.at, job.id), lines.rate(party, way)) for way in WAYS
        )
        before[party] = LineRates(down=down[0], up=up[0])
        now[party] = LineRates(down=down[1], up=up[1])
    return LineChange(before=before, now=now)


def trained_at(jobs: Sequence[tuple[MeasuredJob, float]], epochs: float) -> dict[str, float]:
    """Return node -> seconds of training in a round of so many epochs, from jobs of several numbers of them.

    In proportion to the epochs where one number was measured; else by a line through the measures, newest ones counting most.

    Args:
        jobs: each with its epochs, newest first.
    """
    found = {}
    for node in {node for job, _ in jobs for node in job.trained_s}:
        points = [
            (of, job.trained_s[node], weight_of(n))
            for n, (job, of) in enumerate(jobs)
            if node in job.trained_s
        ]
        found[node] = line_at(epochs, points, proportional=True)
    return found


def line_at(at: float, points: Sequence[tuple[float, float, float]], *, proportional: bool) -> float:
    """Return what a line through weighted points is at a place; it neither falls nor begins below 0.

    Args:
        points: x, y and weight of each; no x is below 0.
        proportional: whether the line begins at 0 where all points have one x; else it is level there.
    """
    weight = math.fsum(w for *_, w in points)
    mean_x = math.fsum(w * x for x, _, w in points) / weight
    mean_y = math.fsum(w * y for _, y, w in points) / weight
    spread_x = math.fsum(w * (x - mean_x) ** 2 for x, _, w in points)
    steepest = mean_y / mean_x if mean_x else 0.0
    if spread_x:
        slope = math.fsum(w * (x - mean_x) * (y - mean_y) for x, y, w in points) / spread_x
        slope = min(max(slope, 0.0), steepest)
    else:
        slope = steepest if proportional else 0.0
    return mean_y + slope * (at - mean_x)


def weight_of(place: int) -> float:
    """Return the weight of the measure at a place, the newest first: each counts two thirds of the one after it."""
    return (2 / 3) ** place


def likely_s(
    job: MeasuredJob,
    rounds: int,
    moved: RoundBytes,
    lines: LineChange,
    trained_s: Mapping[str, float] | None = None,
) -> float:
    """Return the seconds of a job like a measured one.

    Args:
        rounds: that it has.
        moved: bytes of a round.
        trained_s: node -> seconds of training where it has other epochs; None for as measured.
    """
    more = lines.seconds(job.model(moved), job.model(moved, trained_s))
    return max(0.0, job.of_rounds_s(rounds) + rounds * more)
