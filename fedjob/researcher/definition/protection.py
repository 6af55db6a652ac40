"""The checks of what a protected or a compressed job may ask for, before anything of it is on disk."""

from __future__ import annotations

import math

from fedjob.aggregation.base import check_nodes
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.learning import to_learn_together
from fedjob.execution.private_work import check_mechanism, check_private, check_training, check_whole_nodes
from fedjob.parameters.compression.int8 import Int8
from fedjob.parameters.compression.top_k import TopK
from fedjob.privacy.protect import RecordDP, SecAgg, is_noised, protect_of
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.definition.components import aggregator_of, selector_of
from fedjob.researcher.storage.spec import JobSpec
from fedjob.training_plans.private_terms import check_training_args
from fedjob.training_plans.training_args import merged_args

GROUPED = (Median, TrimmedMean)
"""Aggregators that compare the means of groups."""

ADDING = ("weighted_mean", "plain_mean", "sum")
"""Aggregators whose total is a sum."""


def check_protected(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse what a protected job can't have.

    Raises:
        SpecError: it names what needs single contributions, and what to use instead.
    """
    protect = protect_of(spec.protect)
    if isinstance(protect.dp, RecordDP):
        check_mechanism(protocol.name, protect.dp)
        for steps in spec.preprocess or [[]]:
            check_private(protocol.name, steps, spec.items)
        if isinstance(protocol, TrainingProtocol):
            _check_private_training(spec)
    protocol.check_protection(protect)
    if not isinstance(protect.secagg, SecAgg):
        return
    alone = "secure aggregation shows sums over nodes, and no single contribution"
    if why := protocol.needs_single:
        raise SpecError(f"{protocol.name} can't run under protect=Protect(secagg=True): {why}, and {alone}")
    _check_aggregator(spec, protect.secagg, alone)
    if bounds := [name for name in ("max_norm", "max_share") if spec.guard.get(name) is not None]:
        raise SpecError(
            f"Guard({bounds[0]}=...) looks at single contributions, and {alone}: SecAgg(clip=...) bounds what each "
            "parameter may change by"
        )
    if selector_of(spec.selector).asks_losses:
        raise SpecError(f"the selector {spec.selector.name} goes by every node's loss, and {alone}")
    if to_learn_together(spec.preprocess)[len(spec.learned) :]:
        raise SpecError(
            f"preprocess has a step that finds values at every node, and {alone}: give the values, such as "
            "Scale(mean=..., std=...), or take them over from a job without protection"
        )
    if spec.items.batch is not None or spec.items.uses_ledger:
        raise SpecError("under secure aggregation nodes work on all items at once: leave items out")
    if is_noised(spec.protect):
        _check_whole_nodes(spec, protocol)


def _check_aggregator(spec: JobSpec, settings: SecAgg, alone: str) -> None:
    """Refuse an aggregator that compares single contributions, and groups that no aggregator compares."""
    rule = aggregator_of(spec.aggregator)
    if isinstance(rule, GROUPED):
        if settings.groups == 1:
            raise SpecError(
                f"the aggregator {rule.name} compares contributions, and {alone}: with SecAgg(groups=3) or more it compares the "
                "means of groups, of nine nodes or more; or leave aggregator out"
            )
        check_nodes(rule, settings.groups, f"there are SecAgg(groups={settings.groups})")
        if is_noised(spec.protect):
            raise SpecError("NodeDP has noise for one sum: leave SecAgg(groups=...) and the aggregator out")
        return
    if spec.aggregator is not None and spec.aggregator.name not in ADDING:
        name = spec.aggregator.name or spec.aggregator.entry
        raise SpecError(
            f"the aggregator {name} compares contributions, and {alone}: leave aggregator out, use plain_mean, or use groups: "
            "aggregator='median' or 'trimmed_mean' with SecAgg(groups=3) compares the means of groups of nodes"
        )
    if settings.groups > 1:
        raise SpecError(
            "SecAgg(groups=...) is for the means that aggregator='median' or 'trimmed_mean' compares: give one of them, or "
            "leave groups out"
        )


def _check_private_training(spec: JobSpec) -> None:
    """Refuse a training that would measure something at nodes, which has no noise.

    Raises:
        SpecError: it is named.
    """
    check_training(spec.protocol.name, spec.protocol.config)
    _check_hooks(spec)
    for own in ({}, *spec.each.values()):
        check_training_args(merged_args(spec.training_args, own))
    if spec.validate_at_end:
        raise SpecError(
            "validate_at_end measures the model on the records of nodes, and under differential privacy nothing leaves but "
            "trained parameters: leave it out, and measure the model on data of your own"
        )
    if selector_of(spec.selector).asks_losses:
        raise SpecError(
            f"the selector {spec.selector.name} goes by the losses of nodes, which have no noise: use another one"
        )


def _check_hooks(spec: JobSpec) -> None:
    """Refuse hooks that go by what nodes measure, where nothing measured leaves them.

    Raises:
        SpecError: one does.
    """
    for hook in spec.hooks:
        if "metric" in hook.config:
            raise SpecError(
                f"the hook {hook.name} goes by what nodes measure, and under differential privacy nothing leaves but trained "
                "parameters: leave it out, and measure the model on data of your own"
            )


def _check_whole_nodes(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse what is more than the mean of updates with noise on them."""
    check_whole_nodes(protocol.name)
    _check_hooks(spec)
    if spec.aggregator is not None and spec.aggregator.name == "sum":
        raise SpecError(
            "under NodeDP all nodes weigh alike in a mean: leave aggregator out, or use plain_mean"
        )
    if spec.validate_at_end:
        raise SpecError(
            "under NodeDP nothing leaves a node but its update with noise, and validate_at_end=True asks for metrics of "
            "its records: validate the result on data of your own"
        )
    for own in ({}, *spec.each.values()):
        args = merged_args(spec.training_args, own)
        if asked := [name for name in ("test_on_global_updates", "test_on_local_updates") if args.get(name)]:
            raise SpecError(
                f"under NodeDP nothing leaves a node but its update with noise, and {asked[0]} asks for metrics of its "
                "records: leave it out, and validate the result on data of your own"
            )


def check_compressed(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse a compression that a job can't have.

    Raises:
        SpecError: it names what stands against it, and what to do instead.
    """
    if spec.compress is None:
        return
    inner = inner_of(protocol)
    if not isinstance(inner, TrainingProtocol):
        raise SpecError(
            f"compress is for the parameters of a training, and {protocol.name} trains none: leave compress out"
        )
    if inner.answers_late:
        raise SpecError(
            f"{protocol.name} takes answers of earlier rounds, and a compressed answer counts from the parameters of its "
            "own round: leave compress out, or use another protocol"
        )
    if spec.compress.name == TopK.name and inner.answers_factors:
        raise SpecError(
            f"{protocol.name} is answered by the factors of adapters, which are no changes, so that most of them can't be "
            "left out: use Int8(), 'bf16' or 'fp16'"
        )
    if "secagg" in spec.protect:
        _check_masked(spec.compress.name, len(spec.datasets))


def _check_masked(name: str, num_nodes: int) -> None:
    """Say what to write instead of a compressor under secure aggregation, where the bits of the sum are the compression.

    Args:
        num_nodes: 0 where it is not known yet.
    """
    where = f"compress={name!r} can't go with protect=Protect(secagg=True)"
    if name == TopK.name:
        raise SpecError(
            f"{where}: the places of one node's largest changes would tell what it learnt, and those of other nodes are "
            "elsewhere, so that their sum has no such places; leave compress out, and give SecAgg(bits=12, clip=0.1)"
        )
    if name == Int8.name:
        bits = min(16, 8 + math.ceil(math.log2(num_nodes or 16)))
        whose = f"of {num_nodes} nodes" if num_nodes else "of up to 16 nodes"
        instead = f"SecAgg(bits={bits}, clip=0.1), in which the numbers {whose} have 8 bits each"
    else:
        instead = "SecAgg(bits=16, clip=0.1)"
    raise SpecError(
        f"{where}: what leaves a node has a mask on it and looks drawn at random, so that only the sum's own bits can be fewer; "
        f"leave compress out, and give {instead}"
    )
