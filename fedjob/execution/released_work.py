"""The result of private work as it may leave: noisy parameters, and nothing that was measured on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedjob.execution.orders import Emit, WorkOrder, WorkResult
from fedjob.execution.row_counts import REGISTERED
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.privacy.dp.tree_terms import TreeStretch
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.training_plans.plan_checks import check_driven
from fedjob.training_plans.private.training import PrivateTraining


def private_training(
    order: WorkOrder, protocol: FederatedProtocol, emit: Emit
) -> tuple[PrivateTraining | None, Emit]:
    """Return the terms by which an order trains with differential privacy, and what takes the events of its plan.

    Where it trains without, the terms are None, and events go where they went; else only the number of steps does.
    """
    if not order.noise or not isinstance(protocol, TrainingProtocol):
        return None, emit
    stretch = TreeStretch.from_plain(order.noise) if "tree" in order.noise else None
    terms = PrivateTraining(
        terms=TrainingTerms.from_plain(order.noise) if stretch is None else stretch.terms,
        progress=lambda done, total: emit("progress", {"done": done, "total": total}),
        stretch=stretch,
    )
    return terms, _withheld


def check_as_private(plan: Any, private: PrivateTraining | None) -> None:
    """Check that a plan, which is built and has seen no data, can be trained privately, and leaves that to fedjob.

    Raises:
        NotPrivate: it can't, or a part of it takes the place of what adds the noise.
    """
    if private is not None:
        check_driven(type(plan))
        plan.check_private()


def _withheld(type_: str, body: dict[str, Any]) -> None:
    """Take an event of private work: what a plan says comes from records that it has seen."""


def released(result: WorkResult, order: WorkOrder, private: PrivateTraining | None) -> WorkResult:
    """Return a result without what would tell something of the records past the noise.

    Left are what has noise, the parameters of a training or the value of others, and numbers that are public: of registered
    rows, of threads. The weight of a training is at most that of the registered rows. Work without noise is as it was.
    """
    if not order.noise:
        return result
    rows = {name: count for name, count in result.rows.items() if name == REGISTERED}
    result = replace(result, metrics={}, timing={}, optimizer_args={}, items={}, rows=rows)
    if private is None:
        return result
    most = private.terms.num_rows
    return replace(
        result,
        value=None,
        num_examples=min(result.num_examples, most),
        weight=min(result.weight, float(most)),
    )
