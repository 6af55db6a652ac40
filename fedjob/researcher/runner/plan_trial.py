"""One batch of a training plan on made-up rows: what `job.check(plan_only=True)` tries before anything is sent.

The trial of `batch_trial` refuses a job for what is sure, and says nothing else. This one is asked for by the researcher,
and reports all that it meets: a fault that no values cause fails at the nodes, and any other may, because nobody knows
the nodes' values here.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.notebooks import html
from fedjob.researcher.connection.catalogue import Listing
from fedjob.researcher.runner.batch_trial import (
    MAX_COLUMNS,
    PublishedColumns,
    answer_of,
    serve,
    sure_fault,
)
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.source.plan_source import PlanSource

DEADLINE_S = 60.0
"""Time that one trial may take."""

PASSES, FAILS, MAY_FAIL, NOT_TRIED = "passes", "fails", "may fail", "not tried"

_COLUMNS = ("node", "dataset", "plan", "why")
_TABLES = ("csv", "parquet", "sql")
_MAX_WORDS = 800
_NUM_ROWS = 24
_TIMED = 3
_MAX_NUMBERS = 20_000_000
_ARRAY = re.compile(r"(?P<dtype>(?:float|int|uint)\d+|bool)\[(?P<shape>\d+(?:, \d+)*)\]")
_OWN_ARGUMENT = re.compile(r"(training|model)_args has no ")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCheck:
    """The outcome of the trial for the dataset of one node.

    Args:
        plan: `passes`; `fails`: what was met happens with any values; `may fail`: it was met with all made-up values, and
            real ones may do better; `not tried`.
        why: the fault, with the plan's own line; or why it was not tried.
    """

    node: str
    dataset: str
    plan: str
    why: str = ""


class PlanChecks(Listing[PlanCheck]):
    """One outcome for each node, in the order of their names; prints as a table."""

    def __init__(self, checks: list[PlanCheck]) -> None:
        super().__init__(checks, _COLUMNS)

    @property
    def ok(self) -> bool:
        """True if nothing fails for sure."""
        return all(check.plan != FAILS for check in self)

    def _repr_html_(self) -> str:
        moods = {PASSES: html.GOOD, FAILS: html.BAD}
        rows = [
            [check.node, check.dataset, html.chip(check.plan, moods.get(check.plan, html.WAIT)), check.why]
            for check in self
        ]
        return html.panel(
            "The plan on made-up rows", html.table(_COLUMNS, rows) if rows else html.note("none")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedDataset:
    """A dataset as far as a trial needs it.

    Args:
        name: of the dataset.
        about: what its node publishes.
        source: the training plan that would run there.
        training_args: that it would be given.
        reason: why there is nothing to try; empty where there is.
    """

    name: str
    about: PublishedColumns
    source: PlanSource
    training_args: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def try_one_batch(datasets: Mapping[str, TriedDataset], model_args: Mapping[str, Any]) -> PlanChecks:
    """Run one batch of each node's plan on made-up rows; equal plans and columns are tried once.

    Args:
        datasets: node -> its dataset.
    """
    known: dict[bytes, tuple[str, str]] = {}
    checks = []
    for node, dataset in sorted(datasets.items()):
        reason = dataset.reason or _unknown(dataset.about)
        if reason:
            checks.append(PlanCheck(node=node, dataset=dataset.name, plan=NOT_TRIED, why=reason))
            continue
        order = pack(_order_of(dataset, model_args))
        if order not in known:
            known[order] = _verdict(answer_of(order, DEADLINE_S, module=__name__))
        plan, why = known[order]
        checks.append(PlanCheck(node=node, dataset=dataset.name, plan=plan, why=why))
    return PlanChecks(checks)


def time_one_batch(dataset: TriedDataset, model_args: Mapping[str, Any]) -> tuple[float, str]:
    """Return the examples a second that a node's plan trains here, of one batch of made-up rows, and why not where it is 0."""
    reason = dataset.reason or _unknown(dataset.about)
    if reason:
        return 0.0, reason
    order = pack({**_order_of(dataset, model_args), "timed": True})
    verdict, why = _verdict(answer_of(order, DEADLINE_S, module=__name__))
    if verdict != PASSES:
        return 0.0, why
    seconds, _, examples = why.partition(" ")
    return float(examples) / max(float(seconds), 1e-9), ""


def _order_of(dataset: TriedDataset, model_args: Mapping[str, Any]) -> dict[str, Any]:
    source = dataset.source
    return {
        "text": source.text,
        "entry": source.entry,
        "origins": list(map(list, source.origins)),
        "model_args": dict(model_args),
        "training_args": dict(dataset.training_args),
        "schema": list(map(list, dataset.about.schema.items())),
        "arrays": dataset.about.reader == "npz",
    }


def _verdict(answer: str | None) -> tuple[str, str]:
    if answer is None:
        return NOT_TRIED, f"the trial did not end within {DEADLINE_S:.0f} s, or its process ended"
    plan, _, why = answer.partition(": ")
    return plan, why


def _unknown(about: PublishedColumns) -> str:
    """Return why no rows can be made up for a dataset; empty where they can."""
    from fedjob.researcher.runner.made_up_data import TYPES

    if about.has_assets:
        return "it has several tables or files, of which rows are not made up"
    if about.reader == "npz":
        odd = [name for name, kind in about.schema.items() if _ARRAY.fullmatch(kind) is None]
        numbers = sum(_size(kind) for kind in about.schema.values())
        return f"no values are made up for {', '.join(odd)}" if odd else _too_large(numbers)
    if about.reader not in _TABLES:
        return f"no rows are made up for the reader {about.reader or '(unknown)'}"
    if not 2 <= len(about.schema) < MAX_COLUMNS:
        return f"it publishes {len(about.schema)} columns; between 2 and {MAX_COLUMNS - 1} can be tried"
    odd = [f"{name} ({kind})" for name, kind in about.schema.items() if kind not in TYPES]
    return f"no values are made up for {', '.join(odd[:10])}" if odd else ""


def _too_large(numbers: int) -> str:
    return f"{_NUM_ROWS} rows of it have {numbers} numbers" if numbers > _MAX_NUMBERS else ""


def _size(kind: str) -> int:
    found = _ARRAY.fullmatch(kind)
    return 0 if found is None else _NUM_ROWS * math.prod(map(int, found["shape"].split(", ")[1:]))


def one_batch(order: Mapping[str, Any]) -> str:
    """Return the outcome of a trial: a verdict, and after a colon what was met.

    Args:
        order: the plan's text, entry and origins, its arguments, and the columns, see `try_one_batch`.
    """
    from fedjob.training_plans.source.compilation import built_plan
    from fedjob.training_plans.source.locations import where

    origins = tuple((str(label), int(number)) for label, number in order["origins"])
    args = {**at_round(order["training_args"], 1), "dry_run": True}
    tables = _arrays(dict(order["schema"])) if order["arrays"] else _tables(dict(order["schema"]))
    sure: set[str] = set()
    first = ""
    for table in tables:
        try:
            plan = built_plan(order["text"], order["entry"], dict(order["model_args"]), args, 0, origins)
            plan.start_step(args)
            plan.load_data(table)
            plan.train_locally()
            if len(plan._test_rows):
                plan.validate()
            if order.get("timed"):
                return _timed(plan, int(args.get("batch_size") or _NUM_ROWS))
        except Exception as error:  # the plan is the researcher's, and may raise anything
            place = where(error, origins).removeprefix(type(error).__name__)
            words = sure_fault(error) or _own_argument(error)
            sure.add(words and f"{words} ({place.strip()})")
            message = " ".join(str(error).split())
            first = first or f"{type(error).__name__}: {message} ({place.strip()})"
        else:
            return PASSES
    if len(sure) == 1 and "" not in sure:
        return f"{FAILS}: {sure.pop()}"[:_MAX_WORDS]
    return f"{MAY_FAIL}: {first}"[:_MAX_WORDS]


def _timed(plan: Any, batch_size: int) -> str:
    """Return the seconds of a batch that is trained once more, and its examples."""
    took = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        outcome = plan.train_locally()
        took.append(time.perf_counter() - began)
    return f"{PASSES}: {min(took):.9f} {min(outcome.num_examples, batch_size)}"


def _own_argument(error: Exception) -> str:
    """Return the words for an argument that the job does not give, whatever the values; empty for any other fault."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
    missing = text.partition(";")[0]
    return f"{missing}: give it to the job" if _OWN_ARGUMENT.match(text) else ""


def _tables(schema: Mapping[str, str]) -> Iterator[Any]:
    from fedjob.researcher.runner.made_up_data import made_up_tables

    return made_up_tables(schema)


def _arrays(schema: Mapping[str, str]) -> Iterator[Any]:
    """Yield datasets of made-up arrays, each with as many rows."""
    import numpy as np

    from fedjob.data.readers.npz import NpzDataset

    draw = np.random.default_rng(7)
    with tempfile.TemporaryDirectory(prefix="fedjob-trial-") as folder:
        for kind in ("mixed", "zeros"):
            made = {}
            for name, type_ in schema.items():
                found = _ARRAY.fullmatch(type_)
                assert found is not None
                shape = (_NUM_ROWS, *map(int, found["shape"].split(", ")[1:]))
                values: Any = np.zeros(shape)
                if kind == "mixed":
                    values = draw.normal(size=shape) if "float" in type_ else draw.integers(0, 2, shape)
                made[name] = values.astype(found["dtype"])
            path = Path(folder) / f"{kind}.npz"
            np.savez(path, **made)
            yield NpzDataset(path, {}, name="made-up")


if __name__ == "__main__":
    serve(one_batch)
