"""The builder of an ask's tasks: one task for each node, with its objects published."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.aggregation.stretches import StretchedTotal
from fedjob.common.codec import pack, to_plain
from fedjob.common.types import Ref
from fedjob.execution.step_parts import largest
from fedjob.messaging.messages import MAX_INLINE_BYTES, Task
from fedjob.parameters.files import FileParams, is_params, save_params
from fedjob.parameters.params_writer import ParamsWriter
from fedjob.parameters.safetensors_header import file_size_of
from fedjob.protocols.base import Ask
from fedjob.researcher.federation.base import Federation
from fedjob.researcher.rounds.compression import PARAMS, Compression, Sent, compression_for
from fedjob.researcher.rounds.unfinished_tasks import UnfinishedTasks
from fedjob.researcher.storage.breakpoints import states_at
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position, UnfinishedTask
from fedjob.researcher.storage.spec import BROUGHT, JobSpec, resources_of
from fedjob.training_plans.training_args import merged_args


@dataclass(kw_only=True)
class TaskBuilder:
    """The builder of a job's tasks; it keeps a list of the objects that were published for them.

    Args:
        code: node -> the plan that it runs, in the repository; empty for a protocol without one.
        named_states: returns node -> ids of the node states that kept breakpoints name.
        files: the data that the researcher brings, published.
        artifacts: name -> file that the job sends along, published.

    Attributes:
        unfinished: the tasks that go on over rounds.
        compression: how parameters travel; None for as they are.
    """

    spec: JobSpec
    federation: Federation
    folder: JobFolder
    events: EventLog
    code: Mapping[str, Code]
    named_states: Callable[[], Mapping[str, Collection[str]]]
    files: Ref | None = None
    artifacts: Mapping[str, Ref] = field(default_factory=dict)
    unfinished: UnfinishedTasks = field(init=False)
    compression: Compression | None = field(init=False)
    _published: list[Ref] = field(default_factory=list)
    _newest: Ref | None = None
    """What was published last; None if it was there before."""

    def __post_init__(self) -> None:
        self.unfinished = UnfinishedTasks(self.folder, self.federation, self.publish, self.attach)
        self.compression = compression_for(self.spec, self.folder, self.attach)

    def build(
        self,
        ask: Ask,
        position: Position,
        nodes: Iterable[str],
        waiting: Mapping[str, UnfinishedTask],
        spool: Path,
    ) -> dict[str, Task]:
        """Return the tasks of an ask, the unfinished ones that it waits for among them.

        Args:
            nodes: the nodes that get a new task.
            waiting: node -> its unfinished task.
            spool: for tensors that lie in no file yet.
        """
        named = self.named_states()
        fresh = self._fresh(ask, position, nodes, spool, named)
        again = self.unfinished.asked_again(waiting, named, self._sent_along()) if waiting else {}
        return fresh | again

    def _sent_along(self) -> Iterable[Ref]:
        plans = (code.ref for code in self.code.values())
        return (*plans, *self.artifacts.values(), *(() if self.files is None else (self.files,)))

    def only_the_model(self, ask: Ask, round_: int) -> Ask:
        """Leave out tensors beside the parameters: a validation has no optimizer that could use them."""
        kept = {name: value for name, value in ask.shared.items() if name == "params" or not is_params(value)}
        each = {
            node: {name: value for name, value in own.items() if not is_params(value)}
            for node, own in ask.each.items()
        }
        dropped = {*ask.shared} - {*kept}
        dropped |= {name for node, own in ask.each.items() for name in {*own} - {*each[node]}}
        if dropped:
            self.events.add(
                "note",
                round_=round_,
                text=f"auxiliary variables are not sent with a validation: {', '.join(sorted(dropped))}",
            )
        return replace(ask, shared=kept, each=each)

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        """Make bytes available to all nodes, or to one, until the round after next is complete."""
        ref = self.federation.publish(source, node)
        self._note(ref, source)
        return ref

    def attach(self, path: Path, node: str | None = None) -> Ref:
        """Have a file of parameters go along with the tasks that name it, until the round after next is complete."""
        ref = self.federation.attach(path, node)
        self._note(ref, path)
        return ref

    def computed(self, total: StretchedTotal, path: Path, *, publishes: bool) -> FileParams:
        """Compute a total into a new file, which is published while it is written where nodes are to have it."""

        def write(grown: Callable[[int], object]) -> None:
            with ParamsWriter(path, total.schema, grown) as writer:
                for stretch in total:
                    writer.write(stretch)

        if not publishes:
            write(lambda size_bytes: None)
            return FileParams(path)
        ref = self.federation.attach_growing(path, file_size_of(total.schema), write)
        self._note(ref, path)
        return FileParams(path, ref)

    def take_back(self, ref: Ref) -> None:
        """Remove what was published last, which nobody has been told of; what was published before, too, stays."""
        if ref != self._newest:
            return
        self._newest = None
        self._published.remove(ref)
        self.unfinished.sources.pop(ref, None)
        self.federation.forget([ref])

    def stored(self, params: FileParams) -> Ref:
        """Return the name of parameters in the repository, which takes them now where it has not before."""
        if params.ref is None or not self.federation.is_published(params.ref):
            params.ref = self.publish(params.path)
        return params.ref

    def take_published(self) -> list[Ref]:
        """Return what was published since the last call."""
        taken, self._published = self._published, []
        return taken

    def _note(self, ref: Ref, source: Path | bytes) -> None:
        is_known = ref in self._published or self.unfinished.names(ref)
        self._newest = None if is_known else ref
        self._published.append(ref)
        self.unfinished.sources[ref] = source

    def _fresh(
        self,
        ask: Ask,
        position: Position,
        nodes: Iterable[str],
        spool: Path,
        named: Mapping[str, Collection[str]],
    ) -> dict[str, Task]:
        sent = Sent() if self.compression is None else self.compression.send(ask, position, nodes, spool)
        plain = {name: value for name, value in ask.shared.items() if name != PARAMS or not sent.refs}
        values, blobs, params = self._split(plain, spool, None)
        limits = [s for s in (self.spec.the_quorum.deadline_s, self.spec.round_timeout_s) if s is not None]
        base = Task(
            dataset="",
            protocol=self.spec.protocol.name,
            config=self.spec.protocol.config,
            use=self.spec.use,
            project=self.spec.project,
            owner=dict(self.spec.owner),
            props=self.spec.props,
            launches=sorted(self.spec.launches),
            model_args=self.spec.model_args,
            seed=self.spec.seed,
            items=self.spec.items,
            split=self.spec.split,
            artifacts=dict(self.artifacts),
            models=self.spec.models,
            protect=self.spec.protect,
            rounds=self.spec.rounds,
            limit_s=min(limits) if limits and ask.late == "drop" else None,
        )
        tasks = {}
        for node in nodes:
            own_values, own_blobs, own_params = self._split(ask.each.get(node, {}), spool, node)
            code = self.code.get(node)
            tasks[node] = replace(
                base,
                training_args=merged_args(position.training_args, self.spec.each.get(node, {})),
                round_args=merged_args(ask.training_args, ask.own_args.get(node, {})),
                dataset=str(self.spec.datasets[node]["name"]),
                plan=None if code is None else code.ref,
                entry="" if code is None else code.entry,
                resources=resources_of(self.spec, node),
                values={**values, **own_values},
                blobs={**blobs, **own_blobs},
                params={**params, **({PARAMS: sent.refs[node]} if node in sent.refs else {}), **own_params},
                compress=dict(sent.how.get(node, {})),
                state=position.node_states.get(node),
                preprocess=self.spec.datasets[node].get("preprocess", []),
                files=self.files if BROUGHT in self.spec.datasets[node] else None,
                keep_states=states_at(named, node),
            )
        return tasks

    def _split(
        self, values: Mapping[str, Any], spool: Path, node: str | None
    ) -> tuple[dict[str, Any], dict[str, Ref], dict[str, Ref]]:
        """Divide an instruction into small values, large ones and named tensors; publish the latter two."""
        small: dict[str, Any] = {}
        blobs: dict[str, Ref] = {}
        params: dict[str, Ref] = {}
        for name, value in values.items():
            if isinstance(value, FileParams):
                if value.ref is None or node is not None:
                    value.ref = self.attach(value.path, node)
                params[name] = value.ref
                self.unfinished.sources[value.ref] = value.path
            elif is_params(value):
                prefix = "shared" if node is None else f"for_{node}"
                path = spool / f"{prefix}_{name}.safetensors"
                path.unlink(missing_ok=True)
                save_params(value, path, durable=False)  # published now, and never linked
                params[name] = self.attach(path, node)
            else:
                small[name] = value
        packed = {name: pack(to_plain(value)) for name, value in small.items()}
        # half of the room is for what all nodes get, and half for one's own
        too_many = sum(map(len, packed.values())) - MAX_INLINE_BYTES // 2
        for name, content in largest(packed, too_many).items():
            blobs[name] = self.publish(content, node)
            del small[name]
        return small, blobs, params
