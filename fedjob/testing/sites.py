"""A federation in one process, for contract tests and for tests against numbers computed by hand.

Every node runs the code of a real worker (`execution/workbench.py`), and what nodes and researcher
exchange is the bytes that would go over the wire.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.guard import check_tensors
from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import SpecError
from fedjob.common.types import Ref
from fedjob.execution.orders import WorkOrder, WorkResult, work_order_of
from fedjob.execution.workbench import Workbench
from fedjob.messaging.messages import Task
from fedjob.parameters.auxiliary import join_schemas, split
from fedjob.parameters.files import FileParams, is_params, save_params, schema_of
from fedjob.parameters.tree import load_tree, save_tree
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import MEASURING, Ask, Done, FederatedProtocol, Gathered, Reply, State, View
from fedjob.protocols.step_inputs import input_problem
from fedjob.repository.parts import ref_of
from fedjob.training_plans.source.compilation import built_plan
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.training_args import merged_args


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRun:
    """The outcome of a protocol that was run to its end.

    Args:
        value: of the protocol's `Done`.
        state: the protocol's last state on the researcher's side.
        node_states: node -> the state that the protocol keeps there between rounds.
        asks: step and asked nodes of every ask, in order.
    """

    value: Any
    state: State
    node_states: Mapping[str, Mapping[str, Any]]
    asks: list[tuple[str, tuple[str, ...]]]


@dataclass(kw_only=True)
class Sites:
    """Nodes with data, and a training plan that they run.

    Args:
        plan: a class, as a user gives it.
        data: node -> file of its dataset.
        folder: an existing folder for the files of the run.
        each: node -> training arguments for that node only.
    """

    plan: Any
    data: Mapping[str, Path]
    folder: Path
    model_args: Mapping[str, Any] = field(default_factory=dict)
    training_args: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 5

    def __post_init__(self) -> None:
        self._source = extract(self.plan)
        self._numbers = itertools.count()

    def first(self) -> FileParams:
        """Return the initial parameters, as a job computes them."""
        plan = built_plan(
            self._source.text, self._source.entry, dict(self.model_args), dict(self.training_args), self.seed
        )
        path = self._folder("first") / "params.safetensors"
        save_params(plan.get_params(), path, plan.kinds().metadata())
        return FileParams(path)

    def play(
        self, protocol: FederatedProtocol, rounds: int, *, anew: bool = False, validate_at_end: bool = False
    ) -> SiteRun:
        """Run a protocol from its start to its end.

        Args:
            anew: after every ask, nodes and researcher are built again from what they saved.
        """
        state, last, round_ = protocol.start(self.first()), None, 0
        benches = {node: Workbench() for node in self.data}
        kept: dict[str, Path] = {}
        asks: list[tuple[str, tuple[str, ...]]] = []
        while True:
            view = View(
                rounds=rounds,
                nodes=tuple(sorted(self.data)),
                last=None if anew else last,
                seed=self.seed,
                validate_at_end=validate_at_end,
            )
            ask = protocol.instruct(state, view)
            if isinstance(ask, Done):
                saved = {node: load_tree(path).get("protocol") or {} for node, path in kept.items()}
                return SiteRun(value=ask.value, state=state, node_states=saved, asks=asks)
            _check_inputs(protocol, ask)
            last = self._gather(protocol, ask, round_ + 1, benches, kept)
            asks.append((ask.step, tuple(last.replies)))
            state = protocol.finish(state, last)
            round_ += ask.commit
            if anew:
                path = self._folder("saved") / "state.safetensors"
                save_tree(state, path)
                state = load_tree(path)
                name, config = PROTOCOLS.config_of(protocol)
                protocol = PROTOCOLS.build(name, unpack(pack(config)))
                benches = {node: Workbench() for node in self.data}

    def _gather(
        self,
        protocol: FederatedProtocol,
        ask: Ask,
        round_: int,
        benches: Mapping[str, Workbench],
        kept: dict[str, Path],
    ) -> Gathered:
        contributions, replies = [], {}
        for node in sorted(self.data if ask.to is None else ask.to):
            order = self._order(protocol, ask, round_, node, kept.get(node))
            done = benches[node].compute(order, lambda type_, data: None)
            if done.state_path and ask.step not in MEASURING:
                kept[node] = Path(done.state_path)
            params = FileParams(Path(done.params_path)) if done.params_path else None
            contributions.append(_contribution(done, params, ask))
            replies[node] = _reply(node, done, params)
        aggregated = ask.aggregator.aggregate(contributions)
        if is_params(aggregated.value):
            total, aux = split(aggregated.value)
            aggregated = Contribution(total or None, aggregated.weight, aggregated.metrics, aux)
        return Gathered(total=aggregated, replies=replies, left_out={}, num_nodes=len(self.data))

    def _order(
        self, protocol: FederatedProtocol, ask: Ask, round_: int, node: str, kept: Path | None
    ) -> WorkOrder:
        folder = self._folder("work")
        values: dict[str, Any] = {}
        params: dict[str, Ref] = {}
        files: dict[Ref, Path] = {}
        for name, value in {**ask.shared, **ask.each.get(node, {})}.items():
            if is_params(value):
                path = folder / f"in_{name}.safetensors"
                save_params(value, path)
                params[name] = ref_of(path)
                files[params[name]] = path
            else:
                values[name] = unpack(pack(to_plain(value)))
        name, config = PROTOCOLS.config_of(protocol)
        task = Task(
            dataset="data",
            protocol=name,
            config=config,
            entry=self._source.entry,
            values=values,
            params=params,
            model_args=dict(self.model_args),
            training_args=merged_args(self.training_args, self.each.get(node, {})),
            round_args=merged_args(ask.training_args, ask.own_args.get(node, {})),
            seed=self.seed,
        )
        order = work_order_of(
            task,
            key=folder.name,
            job="job",
            round_=round_,
            step=ask.step,
            node=node,
            plan_text=self._source.text,
            dataset={"name": task.dataset, "path": str(self.data[node])},
            path_of=files.__getitem__,
            value_of=lambda name, ref: None,
            state_path="" if kept is None else str(kept),
            output_path=str(folder),
        )
        return replace(order, scratch_path=str(folder))

    def _folder(self, what: str) -> Path:
        folder = self.folder / f"{what}_{next(self._numbers):05d}"
        folder.mkdir()
        return folder


def _check_inputs(protocol: FederatedProtocol, ask: Ask) -> None:
    """Check that an ask sends only what its step declares, as nodes do.

    Raises:
        SpecError: it sends more; declare it in `inputs_of`.
    """
    for sent in (ask.shared, *ask.each.values()):
        tensors = [name for name, value in sent.items() if is_params(value)]
        values = {name: value for name, value in sent.items() if name not in tensors}
        if problem := input_problem(protocol, ask.step, values=values, tensors=tensors):
            raise SpecError(f"{problem}; {type(protocol).__name__}.inputs_of declares what a step takes")


def _contribution(done: WorkResult, params: FileParams | None, ask: Ask) -> Contribution:
    """Return a node's contribution, after a check that it has the form that the ask declares.

    Raises:
        AssertionError: names, dtypes or shapes differ, or a number is not finite.
    """
    schema, shared = ask.schema, ask.shared.get("params")
    if schema is None and shared is not None and is_params(shared):
        schema = schema_of(shared)
    if params is not None and schema is not None:
        problem = check_tensors(params, join_schemas(schema, ask.aux))
        assert not problem, problem
    value = unpack(pack(done.value)) if params is None else params
    return Contribution(value, done.weight, unpack(pack(done.metrics)))


def _reply(node: str, done: WorkResult, params: FileParams | None) -> Reply:
    return Reply(
        node=node,
        num_examples=done.num_examples,
        weight=done.weight,
        metrics=done.metrics,
        value=done.value,
        aux={} if params is None else split(params)[1],
    )
