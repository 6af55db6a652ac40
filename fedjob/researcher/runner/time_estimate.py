"""The time that a job will take, by the best measure there is: its like that ran before, a trial on mocks, or the nodes' speeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedjob.common.console import size
from fedjob.common.types import ENDLESS
from fedjob.execution.work_speed import examples_in
from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.researcher.runner.traffic_estimate import TrafficEstimate
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.replies import raw_replies
from fedjob.researcher.storage.search import find_entries
from fedjob.researcher.storage.spec import JobSpec, load_spec
from fedjob.training_plans.training_args import merged_args

LIKE, OTHER_EPOCHS, MOCKS, NODES, HERE = 1.2, 1.3, 1.5, 2.0, 4.0
"""How many times longer or shorter a job may take than each measure says, from the nearest measure to the farthest."""

_USUAL_ROUND_S = 0.1
"""Seconds of a round beside what nodes do, until a job of this home has been measured."""
_MAX_S = 1e9
_FEW_ROUNDS = 4

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
    by: str = "unknown until a job with this plan has run; estimate(probe=True) tries it"
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


def time_by_earlier_jobs(spec: JobSpec, home: Path) -> TimeEstimate:
    """Return the time that a job will take by its like that ran last; unknown where none did.

    Where no job with these arguments ran, one with another number of epochs is taken: of its rounds the nodes' own training
    time grows with the epochs, and the rest, bytes on their way among it, stays.
    """
    found = TimeEstimate()
    if not spec.plan_hash or spec.rounds == ENDLESS:
        return found
    for entry in find_entries(home, plan=spec.plan_hash, state="completed", reverse=True):
        folder = job_folder(home, entry.id)
        earlier = load_spec(folder.spec)
        if not entry.rounds or not _is_like(earlier, spec) or (measured := measured_rounds(folder)) is None:
            continue
        first, each = measured
        if earlier.training_args == spec.training_args:
            seconds = first + each * (spec.rounds - 1)
            within = max(LIKE, spread(_seconds_of_rounds(folder)))
            return TimeEstimate(seconds=seconds, within=within, by=f"as {entry.id} took", measured=entry.id)
        if found.seconds is None:
            more = _slowest_s(folder, "train") * (_epochs(spec) / _epochs(earlier) - 1)
            first, each = (max(0.0, one + more) for one in measured)
            found = TimeEstimate(
                seconds=first + each * (spec.rounds - 1),
                within=max(OTHER_EPOCHS, spread(_seconds_of_rounds(folder))),
                by=f"by {entry.id}, which had other epochs",
                measured=entry.id,
                scaled=True,
            )
    return found


def _is_like(earlier: JobSpec, spec: JobSpec) -> bool:
    """Tell whether two jobs take equally long, but for their numbers of rounds and of epochs."""
    same = all(getattr(earlier, name) == getattr(spec, name) for name in _LIKE)
    args = [{k: v for k, v in one.training_args.items() if k != "epochs"} for one in (earlier, spec)]
    return same and args[0] == args[1] and {*earlier.datasets} == {*spec.datasets} and bool(_epochs(spec))


def _epochs(spec: JobSpec) -> int:
    """Return the passes over the data in a round; 0 where that is no number."""
    epochs = spec.training_args.get("epochs", 1)
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0 else 0


def measured_rounds(folder: JobFolder) -> tuple[float, float] | None:
    """Return the seconds of the first round, with all that came before it, and the median of later ones; None for unknown."""
    found = _seconds_of_rounds(folder)
    return None if not found else (found[0], statistics.median(found[1:] or found))


def _seconds_of_rounds(folder: JobFolder) -> list[float]:
    """Return the seconds of each round, the first with all that came before it; empty for unknown."""
    events = list(read_events(folder.events))
    times = [event.time for event in events if event.type == "round"]
    begun = next((event.time for event in events if event.type == "ask"), 0.0)
    if not times or not begun:
        return []
    return [max(0.0, after - before) for before, after in pairwise([begun, *times])]


def spread(rounds: Sequence[float]) -> float:
    """Return how many times longer or shorter than the median nine in ten rounds were, after the first; 1 for too few.

    Where rounds of equal work took unequal time, on a busy machine or line, the next job will take another time, too.
    """
    later = sorted(rounds[1:])
    if len(later) < _FEW_ROUNDS or later[0] <= 0:
        return 1.0
    tenth, half = max(1, len(later) // 10), statistics.median(later)
    return max(later[-tenth] / half, half / later[tenth - 1])


def _answers(folder: JobFolder) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yield round, node and body of the answers that a job's folder still has, where they say how long they took."""
    for round_, steps in raw_replies(folder).items():
        for nodes in steps.values():
            for node, body in nodes.items():
                if isinstance(body, dict) and body.get("timing"):
                    yield round_, node, body


def _slowest_s(folder: JobFolder, *stages: str) -> float:
    """Return the seconds that a round spent in stages of the slowest node, the median over rounds."""
    slowest: dict[int, float] = {}
    for round_, _, body in _answers(folder):
        took = sum(float(body["timing"].get(stage, 0.0)) for stage in stages)
        slowest[round_] = max(took, slowest.get(round_, 0.0))
    return statistics.median(slowest.values()) if slowest else 0.0


def time_by_mocks(spec: JobSpec, trial: JobFolder) -> TimeEstimate:
    """Return the time that a job will take by the rounds of its trial on the nodes' mocks.

    The nodes' training time grows from the rows of the mock to those of the dataset; the rest stays.
    """
    measured = measured_rounds(trial)
    on_mocks, whole = 0.0, 0.0
    trained: dict[str, list[tuple[float, int]]] = {}
    for _, node, body in _answers(trial):
        timing = body["timing"]
        took = float(timing.get("train", 0.0)) + float(timing.get("validate", 0.0))
        trained.setdefault(node, []).append((took, int(body.get("num_examples") or 0)))
    for node, rounds in trained.items():
        took, rows = statistics.median(one for one, _ in rounds), rounds[-1][1]
        args = merged_args(spec.training_args, spec.each.get(node, {}))
        few, many = examples_in(args, rows), examples_in(args, _rows(spec, node))
        on_mocks = max(on_mocks, took)
        whole = max(whole, took * many / few if few else math.inf)
    if measured is None or not trained or not math.isfinite(whole) or spec.rounds == ENDLESS:
        return TimeEstimate(by="unknown: the trial on the mocks was not measured")
    first, each = (max(0.0, one - on_mocks + whole) for one in measured)
    return TimeEstimate(
        seconds=first + each * (spec.rounds - 1),
        within=MOCKS,
        by=f"by two rounds on the mocks of {', '.join(sorted(trained))}, whose training was scaled to the rows of the datasets",
    )


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
    starts, rounds, unknown_line = [0.0], [], False
    for node in spec.datasets:
        speed = speeds.get(node, {})
        args = merged_args(spec.training_args, spec.each.get(node, {}))
        examples = examples_in(args, _rows(spec, node))
        if not examples or not speed.get("examples_s"):
            return TimeEstimate()
        took = speed.get("round_s", 0.0) + examples / speed["examples_s"]
        for way, bytes_ in () if traffic is None else (("down", traffic.down), ("up", traffic.up)):
            rate, moved = speed.get(f"{way}_bytes_s", 0.0), bytes_.get(node, 0) / spec.rounds
            took += moved / rate if rate and moved > MAX_ATTACHED_BYTES else 0.0
            unknown_line = unknown_line or (not rate and moved > MAX_ATTACHED_BYTES)
        starts.append(speed.get("start_s", 0.0))
        rounds.append(took)
    seconds = max(starts) + (max(rounds) + _own_round_s(home)) * spec.rounds
    if not seconds < _MAX_S:
        return TimeEstimate()
    slowest = max(zip(rounds, spec.datasets, strict=True))[1]
    words = f"by the nodes' speeds {of}; {slowest} is the slowest with {_speed_words(speeds[slowest])}"
    if unknown_line:
        words += "; not with transfers of lines that were not measured"
    return TimeEstimate(seconds=seconds, within=within, by=words)


def _speed_words(speed: Mapping[str, float]) -> str:
    line = [
        f"{size(int(speed[f'{way}_bytes_s']))}/s {way}"
        for way in ("down", "up")
        if speed.get(f"{way}_bytes_s")
    ]
    return ", ".join([f"{speed['examples_s']:,.0f} examples/s", *line])


def _rows(spec: JobSpec, node: str) -> int:
    """Return the rows that a node trains on."""
    rows, held_out = int(spec.datasets[node].get("num_rows") or 0), spec.training_args.get("test_ratio", 0.0)
    return round(rows * (1.0 - held_out)) if isinstance(held_out, float | int) else rows


def _own_round_s(home: Path) -> float:
    """Return the seconds of a round beside what nodes do, by this home's last job of several rounds, else the usual ones."""
    for entry in find_entries(home, state="completed", reverse=True):
        folder = job_folder(home, entry.id)
        if entry.rounds < 2 or load_spec(folder.spec).local or (measured := measured_rounds(folder)) is None:
            continue
        if nodes := _slowest_s(folder, "fetch", "total"):
            return max(0.0, measured[1] - nodes)
    return _USUAL_ROUND_S


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
