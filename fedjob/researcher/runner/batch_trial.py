"""The trial of a training plan on made-up data at the researcher, before any owner is asked.

An owner should not be asked for a plan that can't run on their columns. A trial finds what is sure: a column that is
not there, a layer for another number of features, types that a layer does not take, a method that is called wrongly.
Whatever could depend on the values, and whatever else goes wrong, is no finding: a plan that would run at the nodes is
never refused.

The plan runs in a process of its own, with a deadline and without output; the researcher's own process has run the same
plan before, to make its first parameters. A process costs seconds, so a trial is only for jobs at nodes whose owners
are to be asked, and once for each plan, arguments and columns: what passed is noted in the home.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import SpecError
from fedjob.common.files import write_atomic
from fedjob.common.quorum import Verdict, reasons_text
from fedjob.researcher.storage.spec import JobSpec
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.source.plan_source import PlanSource

DEADLINE_S = 20.0
"""Time that a trial may take; one that takes longer finds nothing."""

MAX_COLUMNS = 100
"""A node publishes at most so many columns: what lies beyond them is not known."""

MAX_PASSED = 500
"""Plans that passed, of which a home remembers the last ones."""

_MAX_ANSWER_BYTES = 4000
_ANSWER = "trial: "
_ABOVE = Path(__file__).parents[3]
"""The folder that the package lies in."""

_TABLES = ("csv", "parquet", "sql")

_SURE = (
    re.compile(
        r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<width>[1-9]\d*) and (?P<layer>\d+x\d+)\)"
    ),
    re.compile(r"running_mean should contain (?P<width>[1-9]\d*) elements not (?P<layer>\d+)"),
    re.compile(r"mat1 and mat2 must have the same dtype, but got (?P<types>\w+ and \w+)"),
    re.compile(r"expected (?:scalar type|m1 and m2 to have the same dtype)(?P<types>.{0,80})"),
    re.compile(r"(?P<types>can't convert np\.ndarray of type numpy\.object_)"),
    re.compile(
        r"(?P<call>\w+\(\) (?:missing \d+ required|takes \d+ positional|got an unexpected keyword).{0,120})"
    ),
    re.compile(r"(?P<optimizer>optimizer got an empty parameter list)"),
    re.compile(r"(?P<column>column '.{1,80}' does not hold numbers; use \.frame\(\) and encode it)"),
)
"""Messages of faults that no values cause, with what must be the same for all tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedColumns:
    """What a node publishes of one dataset, as far as a trial needs it.

    Args:
        schema: column -> type.
        reader: empty where it is not known.
        asks: the owner is asked before code runs on it.
    """

    schema: Mapping[str, str]
    reader: str = ""
    has_assets: bool = False
    asks: bool = True


def try_plan(
    spec: JobSpec, source: PlanSource, published: Mapping[str, PublishedColumns], home: Path
) -> None:
    """Try a job's training plan on made-up data with the columns of its nodes.

    Args:
        spec: with its datasets.
        published: node -> its dataset.
        home: of the researcher.

    Raises:
        SpecError: it can't run at so many nodes that the quorum can't be met; says what was raised, and where in the
            plan.
    """
    if spec.plans or not source.text:
        return
    faults: dict[str, str] = {}
    for node, dataset in published.items():
        if not spec.datasets.get(node, {}).get("preprocess") and _is_known(dataset):
            fault = _fault(spec, source, dataset.schema, home)
            if fault:
                faults[node] = fault
    if not faults or spec.the_quorum.decide(list(spec.datasets), (), list(faults)) is not Verdict.IMPOSSIBLE:
        return
    raise SpecError(
        f"the training plan does not fit the columns that the nodes publish, and nobody was asked yet. Tried on "
        f"made-up rows: {reasons_text(faults)}"
    )


def _is_known(dataset: PublishedColumns) -> bool:
    """Tell whether everything that a plan sees of a dataset, but for its values, is published."""
    from fedjob.researcher.runner.made_up_data import TYPES

    types = set(dataset.schema.values())
    return (
        dataset.asks
        and 2 <= len(dataset.schema) < MAX_COLUMNS
        and dataset.reader in _TABLES
        and not dataset.has_assets
        and types <= set(TYPES)
    )


def _fault(spec: JobSpec, source: PlanSource, schema: Mapping[str, str], home: Path) -> str:
    """Return the fault of a plan for these columns, found in a process of its own; empty for none that is sure."""
    plain = {
        "text": source.text,
        "entry": source.entry,
        "model_args": spec.model_args,
        "training_args": spec.training_args,
        "schema": list(map(list, schema.items())),
    }
    key = hashlib.sha256(pack(plain)).hexdigest()
    passed = home / "tried_plans"
    known = passed.read_text(encoding="ascii").split() if passed.exists() else []
    if key in known:
        return ""
    answer = answer_of(pack({**plain, "origins": list(map(list, source.origins))}))
    if answer is None:
        return ""
    if not answer:
        write_atomic(passed, "".join(f"{each}\n" for each in [*known[-MAX_PASSED:], key]).encode())
    return answer


def fault_of(
    source: PlanSource,
    model_args: Mapping[str, Any],
    training_args: Mapping[str, Any],
    schema: Mapping[str, str],
) -> str:
    """Return what is surely wrong with a plan for data with these columns; empty for nothing that is sure.

    Args:
        schema: column -> type, of `made_up_data.TYPES`.
    """
    from fedjob.researcher.runner.made_up_data import made_up_tables
    from fedjob.training_plans.source.compilation import built_plan
    from fedjob.training_plans.source.locations import where
    from fedjob.training_plans.torch import TorchPlan

    try:
        args = dict(at_round(training_args, 1))
        plan = built_plan(source.text, source.entry, dict(model_args), args, 0, source.origins)
        if not isinstance(plan, TorchPlan):
            return ""
        plan.start_step(args)
    except Exception:  # said before where it is wrong, or of this machine
        return ""
    found: set[tuple[str, str]] = set()
    words = ""
    for table in made_up_tables(schema):
        try:
            plan.load_data(table)
            plan.forget_gradients()
            plan.training_loss()
        except Exception as error:  # the plan is the researcher's, and may raise anything
            sure = sure_fault(error)
            if not sure:
                return ""
            found.add((sure, where(error)))
            words = f"{sure} ({where(error, source.origins)})"
        else:
            return ""
        if len(found) > 1:
            return ""
    return words


def sure_fault(error: Exception) -> str:
    """Return the words for a fault that no values cause; empty for any other."""
    from fedjob.researcher.runner.made_up_data import AbsentColumns

    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], AbsentColumns):
        return f"there is no column {error.args[0]}"
    if not isinstance(error, (RuntimeError, TypeError, ValueError)):
        return ""
    for pattern in _SURE:
        if match := pattern.search(str(error)):
            parts = match.groupdict()
            if "width" in parts:
                return (
                    f"the data have {parts['width']} features where a layer takes others ({parts['layer']})"
                )
            return f"{type(error).__name__}: {match.group(0)}"
    return ""


def answer_of(order: bytes, deadline_s: float = DEADLINE_S, *, module: str = __name__) -> str | None:
    """Return what a process of its own finds about an order; None where it finds nothing in time.

    Args:
        module: that the process runs; see `serve`.
    """
    paths = [str(_ABOVE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = process.communicate(order, timeout=deadline_s)
        answer = output[:_MAX_ANSWER_BYTES].decode("utf-8", "replace")
        return answer.removeprefix(_ANSWER).strip() if answer.startswith(_ANSWER) else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with what the plan has started
        process.communicate()


def serve(find: Callable[[Mapping[str, Any]], str]) -> None:
    """Read an order from stdin, and write what is found about it to stdout, and nothing else."""
    order = unpack(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)  # a plan may print
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    answers.write(f"{_ANSWER}{find(order)}\n".encode())
    answers.close()


def _fault_in(order: Mapping[str, Any]) -> str:
    origins = tuple((str(label), int(number)) for label, number in order["origins"])
    source = PlanSource(order["text"], order["entry"], "", origins)
    return fault_of(source, order["model_args"], order["training_args"], dict(order["schema"]))


if __name__ == "__main__":
    serve(_fault_in)
