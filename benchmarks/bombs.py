"""Answers of a bad node, one after another: the reason for which each is left out, and the memory that it takes.

Each goes through what an answer goes through at a researcher: the announced bytes, the decoder and the checks of an
ask to train a small model, or of one for a plain value.

Reach: every one is named, below 256 MB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.guard import Guard
from fedjob.aggregation.mean import WeightedMean
from fedjob.aggregation.shares import out_of_proportion
from fedjob.common.codec import MAX_ELEMENTS, from_plain, to_plain, unpack
from fedjob.common.errors import FedjobError
from fedjob.messaging.messages import Result
from fedjob.metrics.states import mean_state
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import Ask
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.rounds.arrival_checks import ArrivalChecks, reply_sizes
from fedjob.researcher.rounds.computation import odd_metrics
from fedjob.researcher.storage.replies import Arrival
from tests.bombs import HONEST, TRAINING, VALUES, Bomb

REACH_MB = 256
GUARD = Guard()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        root = Path(folder)
        save_params(HONEST, root / "honest.safetensors")
        params = FileParams(root / "honest.safetensors")
        training = Ask(shared={"params": params}, answer=Nothing())
        plain = Ask(step="step", aggregator=Collect(), schema={})
        most, unnamed = 0.0, 0
        for ask, bombs in ((training, TRAINING), (plain, VALUES)):
            for bomb in bombs:
                repository = MemoryRepository()
                fields = bomb.make(lambda data, to=repository: to.put(data, job="job_of_nobody"))
                began, before = time.perf_counter(), _start_peak()
                reason = _thrown(bomb, fields, ask, repository, root)
                grown = (_peak_kb() - before) / 1024
                most, unnamed = max(most, grown), unnamed + (not reason)
                print(
                    f"{grown:6.1f} MB {time.perf_counter() - began:6.2f} s  {bomb.name}: {reason[:100] or 'NOT NAMED'}"
                )
    count = len(TRAINING) + len(VALUES)
    print(f"{count} bombs, {unnamed} not named; {most:.1f} MB at most (reach {REACH_MB} MB)")


def _thrown(bomb: Bomb, fields: dict[str, Any], ask: Ask, repository: MemoryRepository, root: Path) -> str:
    """Return the reason for which an answer is left out."""
    honest = Result(of="m", key="k", ok=True, weight=20.0, num_examples=20)
    metrics = {"train": {"loss": mean_state(0.5, 20)}}
    result = replace(honest, **{"metrics": metrics, **fields})
    rule = WeightedMean() if ask.step == "train" else Collect()
    checks = ArrivalChecks(ask=ask, aggregator=rule, guard=GUARD, num_rows={"bad": 20}, had_state={})
    sizes = reply_sizes(ask, GUARD)
    if problem := sizes.problem(result):
        return problem
    try:
        if result.blob is not None:
            content = repository.get_bytes(result.blob, limit_bytes=sizes.value)
            large = unpack(content, max_elements=MAX_ELEMENTS)
            if not isinstance(large, dict) or large.keys() != {"value", "metrics"}:
                return "decode: a reply's large part is not a map of value and metrics"
            result = from_plain(Result, {**to_plain(result), **large})
        params = None
        if result.params is not None:
            params = FileParams(repository.get(result.params, root / "bomb.safetensors"))
        elif "params" not in fields and ask.step == "train":
            params = FileParams(root / "honest.safetensors")
    except FedjobError as error:
        return f"{error.reason}: {error}"
    arrival = Arrival(node="bad", result=result, params=params)
    if problem := checks.refusal(arrival):
        return problem
    good = Arrival(node="good", result=replace(honest, metrics=metrics))
    others = {"ann": good, "ben": good, "bad": arrival}
    return odd_metrics(others).get("bad", "") or _out_of_proportion(arrival)


def _out_of_proportion(arrival: Arrival) -> str:

    claimed = {"ann": 20.0, "ben": 20.0, "bad": arrival.result.weight}
    return out_of_proportion(claimed, dict.fromkeys(claimed, 20)).get("bad", "")


def _start_peak() -> int:
    """Begin to measure anew; return the resident memory in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_kb()


def _peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
