"""The check before the first round that the nodes of a job can be trained at once: of its protocol, plans and first data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.seeds import seed_for
from fedjob.parameters.model_files import ModelFile
from fedjob.privacy.protect import RecordDP, dp_of
from fedjob.researcher.storage.deployment import plan_at
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.training_args import merged_args

if TYPE_CHECKING:
    from fedjob.training_plans.together.trial import StepCost


MAX_TRIED = 10
"""Nodes on whose data a plan is tried before it is taken as it is: what keeps all of these from loading, the round names."""


def check_vectorisable(spec: JobSpec, folder: JobFolder, models: Mapping[str, ModelFile]) -> list[StepCost]:
    """Refuse a job whose nodes can't be trained at once.

    Each plan is built, and its first step is computed in both ways on the data of the first node that has it, or of the
    next where these can't be loaded.

    Args:
        models: name -> file of parameters that plans may ask for.

    Returns:
        What a step of each plan takes; of those that have data.

    Raises:
        SpecError: it says why, and what to use instead.
    """
    if isinstance(dp_of(spec.protect), RecordDP):
        raise SpecError(
            "vectorize=True can't train with the privacy of records, whose noise is drawn for each node and step by "
            "itself: leave vectorize=True out"
        )
    if not spec.plan_hash:
        raise SpecError(
            f"vectorize=True is for jobs that train a TorchPlan; {spec.protocol.name or spec.protocol.entry} has no "
            "plan: leave vectorize=True out"
        )
    left: dict[str, int] = {}
    costs: list[StepCost] = []
    for node in spec.datasets:
        plan = plan_at(spec, node)
        if plan and left.setdefault(plan["hash"], MAX_TRIED):
            path = folder.plan_of(plan["hash"]) if spec.plans else folder.plan
            cost = _try_plan(spec, node, path.read_text(encoding="utf-8"), plan["entry"], models)
            left[plan["hash"]] = 0 if cost.alone_s else left[plan["hash"]] - 1
            costs.append(cost)
    return costs


def gains_nothing(costs: Sequence[StepCost], workers: int) -> str:
    """Return that worker processes would be quicker on this machine, for the job's log; empty where they would not be.

    Of a GPU nothing is returned, which has time of its own.

    Args:
        costs: of all plans.
        workers: processes that there would be.
    """
    alone_s = sum(cost.alone_s for cost in costs) / workers
    together_s = sum(cost.together_s for cost in costs)
    if together_s <= alone_s or any(cost.device != "cpu" for cost in costs):
        return ""
    return (
        f"vectorize=True is slower on this machine: a step takes {together_s * 1000:.3g} ms a node trained with others, "
        f"{alone_s * 1000:.3g} ms a node in {workers} worker process{'es' * (workers > 1)}. Leave vectorize=True out"
    )


def _try_plan(spec: JobSpec, node: str, text: str, entry: str, models: Mapping[str, ModelFile]) -> StepCost:
    """Return what a step takes on the data of a node; zeros where it has none that can be loaded."""
    from fedjob.data.loader import open_dataset
    from fedjob.training_plans.context import Context
    from fedjob.training_plans.randomness import seeded, undisturbed
    from fedjob.training_plans.source.compilation import make_plan
    from fedjob.training_plans.together.trial import (
        StepCost,
        check_built,
        check_kind,
        check_loading,
        try_step,
    )

    plan = check_kind(make_plan(text, entry))
    plan.ctx = Context(
        node=node, round=1, job_seed=spec.seed, seed=spec.seed, props=spec.props, models=models
    )
    args = at_round(merged_args(spec.training_args, _own_args(spec, node)), 1)
    with undisturbed(), seeded(seed_for(spec.seed, 0, "", "init")):
        plan.build(spec.model_args, args)
    check_built(plan)
    with undisturbed(), seeded(seed_for(spec.seed, 0, node, "data")):
        try:
            dataset = open_dataset(spec.datasets[node]) if spec.datasets[node].get("path") else None
        except FedjobError:  # of this node's data: its round says so
            return StepCost()
        check_loading(plan, dataset)
        try:
            plan.load_data(dataset)
        except Exception:  # the same
            return StepCost()
        return try_step(plan)


def _own_args(spec: JobSpec, node: str) -> Mapping[str, Any]:
    return spec.each.get(node, {})
