"""The time that a job will take, by the best measure there is: its likes that ran before, a trial on mocks, or the nodes' speeds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.checks import some_of
from fedjob.common.console import size
from fedjob.common.types import ENDLESS
from fedjob.execution.work_speed import examples_in, rows_trained_on
from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.privacy.protect import protect_of
from fedjob.researcher.connection.lines import OWN, WAYS, LineHistory, LineLedger
from fedjob.researcher.estimates.measured_jobs import (
    LineChange,
    MeasuredJob,
    RoundBytes,
    answers,
    bytes_of,
    likely_s,
    line_at,
    line_change,
    measured_job,
    spread,
    trained_at,
    training_s,
    weight_of,
)
from fedjob.researcher.estimates.round_model import LineRates, NodeRound, RoundModel
from fedjob.researcher.runner.traffic_estimate import TrafficEstimate
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.search import find_entries
from fedjob.researcher.storage.spec import JobSpec, load_spec
from fedjob.training_plans.training_args import merged_args

LIKE, OTHER, MOCKS, NODES, HERE = 1.2, 1.3, 1.5, 2.0, 4.0
"""How many times longer or shorter a job may take than each measure says, from the nearest measure to the farthest."""

LATE_S = 1.0
"""Seconds, from which on the start of nodes matters to whoever waits for a job."""

_USUAL_ROUND_S = 0.1
"""Seconds of a round beside what nodes do, until a job of this home has been measured."""
_MAX_S = 1e9
_MOST_JOBS = 5
"""Earlier jobs by which the time of one is judged, the newest ones."""
_MATTERS = 0.05
"""The share of a round that its transfers take, from which on an estimate says when lines were measured."""

_LIKE = (
    "protocol",
    "plan_hash",
    "plan_entry",
    "model_args",
    "each",
    "items",
    "local",
    "use",
    "protect",
    "preprocess",
    "compress",
    "share",
    "selector",
    "aggregator",
    "every_s",
)
"""Fields of a spec that must be the same for one job to take as long as another, beside its training arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEstimate:
    """The time that a job will take.

    Args:
        seconds: from its first ask to its last round; None for unknown.
        within: so many times less or more it may be.
        by: the measure, in words; for unknown, what to do.
        measured: the job that was measured; empty for none.
        scaled: that job had other epochs.
    """

    seconds: float | None = None
    within: float = 1.0
    by: str = "unknown until a job like it has run; estimate(probe=True) tries it"
    measured: str = ""
    scaled: bool = False

    @property
    def range_s(self) -> tuple[float, float] | None:
        """The least and the most seconds that are to be expected; None for unknown."""
        return None if self.seconds is None else (self.seconds / self.within, self.seconds * self.within)

    @property
    def words(self) -> str:
        """The time in words, with its range and its measure."""
        if self.seconds is None or self.range_s is None:
            return self.by
        low, high = self.range_s
        return f"{_shown(self.seconds)} s ({_shown(low)} to {_shown(high)}), {self.by}"


ENDS_NEVER = TimeEstimate(by="unknown: it runs until it is stopped")


def time_by_earlier_jobs(spec: JobSpec, home: Path, traffic: TrafficEstimate | None = None) -> TimeEstimate:
    """Return the time that a job will take by its likes that ran last, over lines as they were measured last.

    Where jobs with another number of epochs ran, of their rounds the nodes' own training time grows with the epochs. Where a
    line is another one than it was then, transfers take the time that they take now.

    Args:
        traffic: its bytes; None where they are not known, and transfers take what they took.
    """
    if spec.rounds == ENDLESS:
        return ENDS_NEVER
    likes = _likes(spec, home)
    if not likes:
        return TimeEstimate()
    lines, moved = LineLedger(home).read(), round_bytes(spec, traffic)
    trained = trained_at([(job, epochs) for job, epochs in likes if epochs], _epochs(spec))
    seconds, weights, changed = 0.0, 0.0, False
    for place, (job, epochs) in enumerate(likes):
        same = epochs == _epochs(spec)
        weight = weight_of(place) * (1.0 if same else 0.5)
        change = line_change(lines, list(spec.datasets), job)
        changed = changed or (place == 0 and _matters(change, job, moved))
        seconds += weight * likely_s(job, spec.rounds, moved, change, None if same else trained)
        weights += weight
    same_jobs = [job for job, epochs in likes if epochs == _epochs(spec)]
    best = (same_jobs or [likes[0][0]])[0]
    words = f"as {best.id} took" if same_jobs else f"by {best.id}, which had other epochs"
    return TimeEstimate(
        seconds=seconds / weights,
        within=max(LIKE if same_jobs and not changed else OTHER, spread(best.rounds_s)),
        by=words + _of_lines(spec, best, moved, lines, changed=changed),
        measured=best.id,
        scaled=not same_jobs,
    )


def _likes(spec: JobSpec, home: Path) -> list[tuple[MeasuredJob, int]]:
    """Return the newest measured jobs that are like one but for rounds and epochs, each with its epochs, newest first."""
    found: list[tuple[MeasuredJob, int]] = []
    for entry in find_entries(home, plan=spec.plan_hash or None, state="completed", reverse=True):
        folder = job_folder(home, entry.id)
        earlier = load_spec(folder.spec)
        if entry.rounds and _is_like(earlier, spec) and (job := measured_job(entry.id, folder)) is not None:
            found.append((job, _epochs(earlier)))
        if len(found) == _MOST_JOBS:
            break
    return found


def round_bytes(spec: JobSpec, traffic: TrafficEstimate | None) -> RoundBytes:
    """Return the bytes of a round of a job, the mean over its rounds; none where they are not known."""
    if traffic is None:
        return RoundBytes()
    down = {node: size / spec.rounds for node, size in traffic.down.items()}
    up = {node: size / spec.rounds for node, size in traffic.up.items()}
    return RoundBytes(down=down, up=up, sent=traffic.sent / spec.rounds)


def _matters(change: LineChange, job: MeasuredJob, moved: RoundBytes) -> bool:
    """Tell whether lines are others than they were, by so much that a round takes another time."""
    model = job.model(moved)
    return change.changed and abs(change.seconds(model, model)) > _MATTERS * job.each_s


def _of_lines(
    spec: JobSpec, job: MeasuredJob, moved: RoundBytes, lines: LineHistory, *, changed: bool
) -> str:
    """Return, for a job whose transfers take much of its time, when its lines were measured; empty for others."""
    parties = [OWN, *spec.datasets]
    now = line_change(lines, list(spec.datasets), job).now
    model = job.model(moved)
    moving_s = model.over(now, now[OWN]).seconds - model.seconds
    at = lines.measured_at(parties)
    if not changed and moving_s < _MATTERS * job.each_s:
        return ""
    words = ", over other lines than then" if changed else ""
    if at is None:
        return f"{words}, not all lines were measured: estimate(probe=True) does"
    ago = age_text(time.time() - at)
    return f"{words}, lines as measured {ago} ago (estimate(probe=True) measures them)"


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that it fills."""
    for name, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _is_like(earlier: JobSpec, spec: JobSpec) -> bool:
    """Tell whether two jobs take equally long, but for their numbers of rounds and of epochs."""
    same = all(getattr(earlier, name) == getattr(spec, name) for name in _LIKE)
    args = [{k: v for k, v in one.training_args.items() if k != "epochs"} for one in (earlier, spec)]
    same = same and _simulated(earlier) == _simulated(spec)
    return same and args[0] == args[1] and {*earlier.datasets} == {*spec.datasets} and bool(_epochs(spec))


def _simulated(spec: JobSpec) -> dict[str, Any]:
    """Return how a job is simulated, but for the hash of its rows, which only jobs have that found their data."""
    return {name: value for name, value in spec.simulation.items() if name != "rows"}


def _epochs(spec: JobSpec) -> int:
    """Return the passes over the data in a round; 0 where that is no number."""
    epochs = spec.training_args.get("epochs", 1)
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0 else 0


def begins_late(trial: JobFolder) -> bool:
    """Tell whether the first round of a trial took much longer than a late one: nodes had to start for it."""
    measured = measured_job("", trial)
    if measured is None:
        return False
    if len(measured.rounds_s) == 1:
        return measured.rounds_s[0] - max(measured.trained_s.values(), default=0.0) > LATE_S
    return measured.first_s > max(LATE_S, measured.each_s)


def time_by_trial(
    spec: JobSpec,
    trial: JobFolder,
    *,
    on_mocks: bool,
    plain: JobFolder | None = None,
    again: JobFolder | None = None,
) -> TimeEstimate:
    """Return the time that a job will take by the rounds of its trial.

    Args:
        on_mocks: of nodes' private datasets: their training time grows from the rows of the mock to those of the dataset; the
            rest stays.
        plain: for a protected job, of whose training nodes give no times: a trial without the protection.
        again: a second first round, after one for which nodes had to start.
    """
    measured = measured_job("", trial)
    if measured is None:
        return TimeEstimate(by="unknown: the trial was not measured")
    rounds_s, late_s = measured.rounds_s, 0.0
    words = f"by {len(rounds_s)} round{'s' * (len(rounds_s) != 1)} of it"
    if again is not None and (ready := measured_job("", again)) is not None:
        rounds_s = (min(rounds_s[0], ready.rounds_s[0]), *rounds_s[1:])
        late_s = measured.rounds_s[0] - rounds_s[0]
        measured = replace(measured, rounds_s=rounds_s)
    seconds, within = measured.of_rounds_s(spec.rounds), OTHER
    if on_mocks:
        slower_s = 0.0 if plain is None else _slower_s(spec, measured, plain)
        nodes, more_s = _of_datasets(spec, plain or trial, slower_s)
        if not math.isfinite(more_s):
            return TimeEstimate(by="unknown: the trial on the mocks was not measured")
        seconds, within = seconds + more_s * spec.rounds, MOCKS if plain is None else NODES
        words += f" on the mocks of {some_of(nodes)}, whose training was scaled to the rows of the datasets"
    else:
        words += ", run for this and deleted"
    if late_s > LATE_S:
        words += f"; {late_s:.1f} s more where nodes have to start first"
    return TimeEstimate(
        seconds=max(0.0, seconds, (spec.rounds - 1) * (spec.every_s or 0.0)),
        within=max(within, spread(rounds_s)),
        by=words,
    )


def _slower_s(spec: JobSpec, measured: MeasuredJob, plain: JobFolder) -> float:
    """Return how many seconds longer a round trains with noise; masks are made in the same time, however many rows there are."""
    without = measured_job("", plain)
    if without is None or protect_of(spec.protect).secagg is not None:
        return 0.0
    return max(0.0, measured.each_s - without.each_s)


def _of_datasets(spec: JobSpec, trial: JobFolder, slower_s: float) -> tuple[list[str], float]:
    """Return the nodes of a trial on mocks, and how many seconds longer a round trains on the datasets; infinite for unknown.

    Args:
        slower_s: that training on a mock takes longer in the job than in the trial.
    """
    tried: dict[str, list[tuple[float, float]]] = {}
    for _, node, body in answers(trial):
        tried.setdefault(node, []).append((training_s(body["timing"]), more_work(spec, node, body)))
    took = {node: slower_s + statistics.median(one for one, _ in rounds) for node, rounds in tried.items()}
    whole = max((took[node] * rounds[-1][1] for node, rounds in tried.items()), default=math.inf)
    return sorted(tried), whole - max(took.values(), default=0.0)


def more_work(spec: JobSpec, node: str, body: Mapping[str, Any]) -> float:
    """Return how many times the training on a mock a node's training on its dataset takes; infinite for unknown.

    Args:
        body: of the answer on the mock: a plan may make more or fewer examples of its rows, and will of the dataset's.
    """
    examples = int(body.get("num_examples") or 0)
    read = int(body.get("rows", {}).get("read") or 0)
    rows = int(spec.datasets[node].get("num_rows") or 0)
    args = merged_args(spec.training_args, spec.each.get(node, {}))
    whole = round(examples * rows / read) if read else _rows(spec, node)
    few, many = examples_in(args, examples), examples_in(args, whole)
    return many / few if few else math.inf


def time_by_speeds(
    spec: JobSpec,
    home: Path,
    speeds: Mapping[str, Mapping[str, float]],
    traffic: TrafficEstimate | None,
    *,
    within: float = NODES,
    of: str = "of their earlier tasks of this plan",
) -> TimeEstimate:
    """Return the time that a job will take by what its nodes measured.

    Args:
        speeds: node -> its speeds, see `messages.Answer`.
        traffic: None where the bytes are not known.
        of: how their training was measured.
    """
    if spec.rounds == ENDLESS or not spec.datasets:
        return TimeEstimate()
    lines, moved = LineLedger(home).read(), round_bytes(spec, traffic)
    starts, nodes = [0.0], {}
    for node in spec.datasets:
        speed = speeds.get(node, {})
        args = merged_args(spec.training_args, spec.each.get(node, {}))
        examples = examples_in(args, _rows(spec, node))
        if not examples or not speed.get("examples_s"):
            return TimeEstimate()
        rates = {way: speed.get(f"{way}_bytes_s") or lines.rate(node, way) or math.inf for way in WAYS}
        nodes[node] = NodeRound(
            down=moved.down.get(node, 0.0),
            up=moved.up.get(node, 0.0),
            work_s=speed.get("round_s", 0.0) + examples / speed["examples_s"],
            line=LineRates(**rates),
        )
        starts.append(speed.get("start_s", 0.0))
    own = LineRates(**{way: lines.rate(OWN, way) or math.inf for way in WAYS})
    model = RoundModel(nodes=nodes, sent=moved.sent, line=own)
    seconds = max(starts) + (model.seconds + own_round_s(home, lines, moved)) * spec.rounds
    if not seconds < _MAX_S:
        return TimeEstimate()
    words = f"by the nodes' speeds {of}; {model.slowest} is the slowest with {_speed_words(speeds[model.slowest])}"
    if _not_measured(model):
        words += "; not with transfers of lines that were not measured: estimate(probe=True) does"
    return TimeEstimate(seconds=seconds, within=within, by=words)


def _not_measured(model: RoundModel) -> bool:
    """Tell whether much goes over a line of which nothing is known."""
    sizes = [(one.down, one.line.down) for one in model.nodes.values()]
    sizes += [(one.up, one.line.up) for one in model.nodes.values()]
    sizes += [(model.sent, model.line.up), (sum(one.up for one in model.nodes.values()), model.line.down)]
    return any(moved > MAX_ATTACHED_BYTES and math.isinf(rate) for moved, rate in sizes)


def _speed_words(speed: Mapping[str, float]) -> str:
    line = [f"{size(int(speed[f'{way}_bytes_s']))}/s {way}" for way in WAYS if speed.get(f"{way}_bytes_s")]
    return ", ".join([f"{speed['examples_s']:,.0f} examples/s", *line])


def _rows(spec: JobSpec, node: str) -> int:
    """Return the rows that a node trains on."""
    return rows_trained_on(spec.training_args, int(spec.datasets[node].get("num_rows") or 0))


def own_round_s(home: Path, lines: LineHistory, moved: RoundBytes) -> float:
    """Return the seconds of a round beside its nodes and its transfers: messages, aggregation, breakpoints.

    It is what rounds of this home's last jobs took beside these, in proportion to the bytes that came, where jobs of several
    sizes were measured; else of the last one; else the usual seconds.
    """
    points: list[tuple[float, float, float]] = []
    for entry in find_entries(home, state="completed", reverse=True):
        folder = job_folder(home, entry.id)
        if (
            entry.rounds < 2
            or load_spec(folder.spec).local
            or (job := measured_job(entry.id, folder)) is None
        ):
            continue
        if not job.other_s:
            continue
        its = bytes_of(folder, entry.rounds)
        model, before = job.model(its), line_change(lines, sorted(job.other_s), job).before
        rest = job.each_s - model.over(before, before[OWN]).seconds
        points.append((math.fsum(its.up.values()), max(0.0, rest), weight_of(len(points))))
        if len(points) == _MOST_JOBS:
            break
    if not points:
        return _USUAL_ROUND_S
    return line_at(math.fsum(moved.up.values()), points, proportional=False)


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
