"""The definition of a job: its spec, its plans and its data, made of its arguments before anything is on disk."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedjob.common.codec import in_order, pack, to_plain
from fedjob.common.errors import SpecError
from fedjob.common.items import Items
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.types import new_job_id
from fedjob.data.preprocessing import per_dataset
from fedjob.parameters.frozen import FROZEN
from fedjob.parameters.model_files import ModelFile
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.own import inner_of
from fedjob.protocols.steps import Steps
from fedjob.protocols.training.fedopt import with_optimizer
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.definition.arguments import (
    CONTENT,
    LOCAL,
    OWNER,
    JobArguments,
    check_enough,
    check_selector,
    checked_quorum,
)
from fedjob.researcher.definition.brought_data import BroughtData, take_brought
from fedjob.researcher.definition.components import to_part
from fedjob.researcher.definition.data import check_names
from fedjob.researcher.definition.deploy_map import DeployMap, check_quorum_of_map, read_deploy_map
from fedjob.researcher.definition.operation import (
    Operation,
    Trained,
    read_args,
    read_operation,
)
from fedjob.researcher.definition.preprocessing import num_entries, with_known
from fedjob.researcher.definition.protection import check_compressed, check_protected
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.simulation.datasets import GivenData
from fedjob.researcher.simulation.population import Simulation
from fedjob.researcher.storage.deployment import model_files_of
from fedjob.researcher.storage.spec import FOUND_LATER, Component, JobSpec
from fedjob.training_plans.source.plan_source import PlanSource
from fedjob.training_plans.training_args import merged_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Defined:
    """A job's definition, before anything of it is on disk.

    Args:
        arguments: that it was made of.
        source: of the plan that is built on this side; nodes run it too, unless there are `plans`.
        plans: texts by their sha256, where there is a plan per node.
        nodes: that were asked for, by name or by a plan of their own.
        data: as it was given, with `{"brought": name}` in the place of what is brought.
        brought: that; None for nothing.
        init: first parameters: as they were given, or those of the trained model; None for the plan's own.
        models: this side's files of models that nodes have, too.
        frozen: file of the frozen part of the model, where an earlier job has it; None to have it from the plan.
    """

    arguments: JobArguments
    spec: JobSpec
    source: PlanSource
    plans: Mapping[str, str]
    nodes: Sequence[str] | str | Simulation | None
    hooks: tuple[Hook, ...]
    data: Any
    brought: BroughtData | None
    init: Any
    models: Mapping[str, ModelFile] = field(default_factory=dict)
    frozen: Path | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The data and nodes that were asked for, as plain data."""
        return {
            "data": as_asked(self.data),
            "nodes": as_asked(self.nodes),
            "as_node": self.arguments.as_node,
        }


def define(arguments: JobArguments, settings: ResearcherConfig) -> Defined:
    """Check a constructor's arguments and return what they define; see `Job`.

    Args:
        settings: of the home: what stands in for arguments that were not given.

    Raises:
        SpecError: a wrong argument: what was expected, what was found.
        PlanError: the plan can't be extracted or compiled.
    """
    deployed = read_deploy_map(arguments.training_plan)
    wanted = _read(arguments, deployed.own)
    sources = {node: _read(arguments, plan).source for node, plan in deployed.plans.items()}
    named = arguments.checked("nodes")
    nodes = _nodes_with_plans(named, deployed)
    spec = _spec_of(arguments, settings, wanted, sources)
    models = {**({} if wanted.trained is None else wanted.trained.models), **model_files_of(arguments.models)}
    spec = replace(spec, models={name: file.sha256 for name, file in models.items()})
    _check_nodes(spec, nodes, deployed)
    check_selector(spec, inner_of(wanted.protocol))
    if arguments.aggregator is not None and inner_of(wanted.protocol).own_aggregator:
        raise SpecError(f"{wanted.protocol.name} has an aggregator of its own: leave aggregator out")
    check_protected(spec, with_optimizer(wanted.protocol, arguments.server_optimizer))
    check_compressed(spec, wanted.protocol)
    data, brought = take_brought(arguments.data, local=spec.local)
    check_names(data, None if isinstance(named, Simulation) else named)
    arguments.checked("as_node")
    arguments.checked("keep_files_dir")
    if wanted.trained is not None and arguments.init is not None:
        raise SpecError("a trained result as operation brings its parameters: leave init out")
    return Defined(
        arguments=arguments,
        spec=spec,
        source=wanted.source,
        plans={own.sha256: own.text for own in sources.values()},
        nodes=nodes,
        hooks=arguments.checked("hooks"),
        data=data,
        brought=brought,
        init=arguments.init if wanted.trained is None else wanted.trained.params,
        models=models,
        frozen=None if wanted.trained is None else wanted.trained.frozen,
    )


def _read(arguments: JobArguments, plan: Any) -> Operation:
    return read_operation(
        arguments.operation, plan, arguments.training_args, aggregated=arguments.aggregator is not None
    )


def _spec_of(
    arguments: JobArguments, settings: ResearcherConfig, wanted: Operation, sources: Mapping[str, PlanSource]
) -> JobSpec:
    """Return the spec; what is not computed here is kept under the argument's own name."""
    each, rounds = arguments.checked("each"), arguments.checked("rounds")
    reads = inner_of(wanted.protocol).reads_args
    for source in (wanted.source, *sources.values()):
        read_args(source, wanted.training_args, rounds, reads_args=reads)
    for node, own in each.items():
        merged = merged_args(wanted.training_args, own)
        read_args(sources.get(node, wanted.source), merged, rounds, reads_args=reads)
    name, config = PROTOCOLS.config_of(with_optimizer(wanted.protocol, arguments.server_optimizer))
    trained = wanted.trained
    preprocess, known = _preprocessing(arguments, trained)
    _check_batches(wanted.protocol, arguments.checked("items"), arguments.split)
    kept = arguments.for_spec()
    described = {key: text for key in OWNER if (text := getattr(settings, f"owner_{key}"))}
    kept |= {
        "model_args": {**({} if trained is None else trained.model_args), **kept["model_args"]},
        "training_args": wanted.training_args,
        "seed": _drawn_seed(trained) if arguments.seed is None else arguments.seed,
        "hooks": [to_part(HOOKS, hook) for hook in kept["hooks"] if travels(hook)],
        "preprocess": preprocess,
        "artifacts": {},
        "owner": {**described, **kept["owner"]},
        "max_tries": settings.max_tries if kept["max_tries"] is None else kept["max_tries"],
    }
    if arguments.quorum is None and inner_of(wanted.protocol).wants_every_node:
        kept["quorum"] = checked_quorum("quorum", Quorum(required=ALL))
    return JobSpec(
        id=new_job_id(),
        protocol=Component(name=name, config=config),
        plan_entry=wanted.source.entry,
        plan_hash=wanted.source.sha256,
        launches=wanted.launches,
        local=isinstance(arguments.nodes, Simulation) or arguments.nodes == LOCAL,
        simulation=arguments.nodes.plain if isinstance(arguments.nodes, Simulation) else {},
        plans={node: {"entry": own.entry, "hash": own.sha256} for node, own in sources.items()},
        learned=known,
        **kept,
    )


def _preprocessing(arguments: JobArguments, trained: Trained | None) -> tuple[list[Any], list[Any]]:
    """Return the steps that prepare the data, and those of them that are known from an earlier job."""
    steps = per_dataset(arguments.preprocess, num_entries(arguments.data))
    return with_known(
        steps, None if trained is None else trained.preprocess, [] if trained is None else trained.learned
    )


def _drawn_seed(trained: Trained | None) -> int:
    """Return the seed of a job that was given none: a fresh one, or that of the job whose result it takes up."""
    return secrets.randbits(62) if trained is None else trained.seed


def _nodes_with_plans(
    nodes: Sequence[str] | str | Simulation | None, deployed: DeployMap
) -> Sequence[str] | str | Simulation | None:
    named = deployed.nodes
    if named is None or isinstance(nodes, Simulation) or nodes == LOCAL:
        return nodes
    without = sorted(set(nodes or ()) - set(named))
    if without:
        raise SpecError(f"nodes {', '.join(without)} have no plan: training_plan names {', '.join(named)}")
    return named if nodes is None else nodes


def _check_nodes(spec: JobSpec, nodes: Sequence[str] | str | Simulation | None, deployed: DeployMap) -> None:
    """Raise what can't be met by the nodes that are named."""
    named = None if nodes is None or isinstance(nodes, Simulation) or nodes == LOCAL else list(nodes)
    if deployed.plans:
        required = () if spec.quorum["required"] == ALL else spec.quorum["required"]
        check_quorum_of_map(named or deployed.nodes, required, spec.quorum["min_nodes"])
    if named is not None:
        check_enough(spec, len(named), f"nodes names {len(named)}")


def _check_batches(protocol: FederatedProtocol, items: Items, split: Any) -> None:
    """Raise what a protocol can't do with its items."""
    if (items.batch is not None or items.tolerate != 0) and not protocol.batched_steps:
        raise SpecError(
            f"{protocol.name} is not computed in batches of items: leave batch and tolerate out of Items(...)"
        )
    if split is not None and not isinstance(protocol, Steps):
        raise SpecError(f"split is for a Plan; with {protocol.name} say test_ratio in training_args")


def travels(hook: Hook) -> bool:
    """True if a hook can be built again from data; others live in the process that defined them."""
    return hook.name in HOOKS.names()


def content_hash(spec: JobSpec, *, seed: int | None, asked: Any, init_hash: str) -> str:
    """Return the sha256 of what a job was asked to be, the same for a script that is run again.

    Args:
        seed: None where it was drawn.
        asked: plain data of `data` and `nodes`.
        init_hash: of the first parameters, where they were given.
    """
    apart = FOUND_LATER | (JobArguments.__dataclass_fields__.keys() - set(CONTENT))
    plain = {key: value for key, value in to_plain(spec).items() if key not in apart}
    # the frozen part follows from the plan, the models and a seed that may be drawn
    plain["artifacts"] = {name: sha256 for name, sha256 in spec.artifacts.items() if name != FROZEN}
    return sha256(pack([in_order(plain), seed, in_order(asked), init_hash])).hexdigest()


def as_asked(data: Any) -> Any:
    """Return what was given as `data` as plain data: to be compared, and shown again."""
    if isinstance(data, GivenData):
        return data.plain
    if isinstance(data, Mapping):
        return {str(key): as_asked(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [as_asked(item) for item in data]
    if isinstance(data, Path):
        return str(data.expanduser().resolve())
    return data if data is None or isinstance(data, (bool, int, float, str)) else str(data)
