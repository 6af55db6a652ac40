"""The arguments of `Job`: one table, each argument with its check and its other properties.

A new argument needs a field here, the parameter in `Job.__init__`, and what uses it. Job files, clones and
content hashes go over this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator, check_nodes
from fedjob.aggregation.guard import Guard
from fedjob.common.checks import check_count, check_path, is_list, python_numbers, shown
from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.common.items import Items
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.registry import Registry
from fedjob.common.requirements import read_need
from fedjob.common.types import ENDLESS, check_party
from fedjob.parameters.compression import COMPRESSORS
from fedjob.parameters.compression.base import Compressor
from fedjob.parameters.compression.top_k import TopK
from fedjob.privacy.protect import Protect, RecordDP, SecAgg, checked_protect, protect_of
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.function import Function
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.definition.components import aggregator_of, selector_of, to_part
from fedjob.researcher.definition.deploy_map import RESEARCHER
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.selection import SELECTORS
from fedjob.researcher.selection.base import Selector
from fedjob.researcher.simulation.datasets import given_data
from fedjob.researcher.simulation.population import Simulation, simulation_of
from fedjob.researcher.storage.deployment import model_files_of
from fedjob.researcher.storage.spec import (
    ALL_PARAMETERS,
    TRAINABLE,
    Component,
    JobSpec,
    checked_rounds,
    checked_seconds,
    plain_args,
    resources_by_node,
)
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash
from fedjob.training_plans.step_plan import check_split

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection

LOCAL = "local"
OWNER = ("name", "org", "role")
_USES = ("private", "mock")

TextOf = Callable[[str], str]
"""From the sha256 of a plan's text to the text."""


def as_given(name: str, value: Any) -> Any:
    """Return a value that is checked together with others, where it is used."""
    return value


def checked_text(name: str, value: Any) -> str:
    """Return text.

    Raises:
        SpecError: it is something else, or holds half of a character, which can't be written.
    """
    if not isinstance(value, str):
        raise SpecError(f"{name} is text, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{name} is text that can be written as UTF-8, not {shown(value)}") from error
    return str(value)


def _checked_folder(name: str, folder: Any) -> Any:
    if folder is not None:
        check_path(name, folder)
    return folder


def checked_guard(name: str, guard: Any) -> dict[str, Any]:
    """Return a guard as a spec keeps it.

    Raises:
        SpecError: it is none.
    """
    if guard is not None and not isinstance(guard, Guard):
        raise SpecError(
            "guard is a Guard(max_norm=..., max_examples_per_row=..., max_share=..., max_value_mb=...) or None, not "
            f"{shown(guard)}"
        )
    plain: dict[str, Any] = {} if guard is None else to_plain(guard)
    return plain


def checked_quorum(name: str, quorum: Any) -> dict[str, Any]:
    """Return a quorum as a spec keeps it.

    Raises:
        SpecError: it is none.
    """
    quorum = Quorum() if quorum is None else quorum
    if not isinstance(quorum, Quorum):
        raise SpecError(
            f"quorum is a Quorum(required=..., min_nodes=..., deadline_s=...), not {shown(quorum)}"
        )
    return {
        "required": ALL if quorum.required == ALL else list(quorum.required),
        "min_nodes": quorum.min_nodes,
        "deadline_s": quorum.deadline_s,
        "grants_deadline_s": quorum.grants_deadline_s,
    }


def checked_items(name: str, items: Any) -> Items:
    """Return which items a job is computed on; None is all of them, in one batch.

    Raises:
        SpecError: it is no `Items`.
    """
    if items is not None and not isinstance(items, Items):
        raise SpecError(
            f"items is Items(only=..., limit=..., batch=..., tolerate=..., retry_single=..., retry_failed=...), not {shown(items)}"
        )
    return Items() if items is None else items


def checked_resources(name: str, resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return resources as they were given: those of every node, or a map of them by node.

    Raises:
        SpecError: they are not plain, or a node's name is none.
    """
    plain = plain_args("resources", resources)
    for node, wanted in resources_by_node(plain).items():
        check_party(node)
        if not isinstance(wanted, dict):
            raise SpecError(
                f"resources[{shown(node)}] is a map such as {{'gpus': 1, 'memory': '8Gi'}}, not {shown(wanted)}"
            )
        read_need(wanted)
    return plain


def checked_watchers(name: str, watchers: Sequence[str]) -> list[str]:
    """Return parties that may follow a job.

    Raises:
        SpecError: one is no party's name.
    """
    if isinstance(watchers, str):
        raise SpecError(f"watchers is a list of parties: watchers=[{shown(watchers)}]")
    if not is_list(watchers):
        raise SpecError(f"watchers is a list of parties, not {shown(watchers)}")
    return [check_party(party) for party in watchers]


def checked_each(name: str, each: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return a node's own training arguments, by node, as plain data.

    Raises:
        SpecError: not such a map.
    """
    if each is None:
        return {}
    if not isinstance(each, Mapping):
        raise SpecError(
            f"each is a map from nodes to training arguments, such as {{'node-a': {{'epochs': 2}}}}, not {shown(each)}"
        )
    return {check_party(node): plain_args(f"each[{shown(node)}]", own) for node, own in each.items()}


def checked_nodes(name: str, nodes: Any) -> Any:
    """Return what was given as `nodes`.

    Raises:
        SpecError: a single node's name, which would be read as a list of letters.
    """
    if isinstance(nodes, Simulation):
        return nodes
    if isinstance(nodes, str) and nodes != LOCAL:
        raise _no_nodes(nodes)
    if nodes is None or isinstance(nodes, str):
        return nodes
    if not is_list(nodes):
        raise _no_nodes(nodes)
    listed = list(nodes)
    if not all(isinstance(node, str) for node in listed):
        raise _no_nodes(listed)
    return listed


def _no_nodes(found: Any) -> SpecError:
    number = isinstance(found, int) and found > 1
    many = f"simulate({found})" if number else "simulate(100)"
    return SpecError(
        f'nodes is a list of node ids, None for all, "local", or {many} for so many on this machine; found {shown(found)}'
    )


def checked_use(name: str, use: Any) -> str:
    """Return for what a job uses the data.

    Raises:
        SpecError: it is none of the two.
    """
    if not isinstance(use, str) or use not in _USES:
        raise SpecError(f"use is 'private' or 'mock', not {shown(use)}")
    return str(use)


def checked_owner(name: str, owner: Mapping[str, str] | None) -> dict[str, str]:
    """Return how researchers describe themselves, as far as it was given.

    Raises:
        SpecError: an unknown key, or a value that is no text.
    """
    if owner is not None and not isinstance(owner, Mapping):
        raise SpecError(f"owner is a dict of text with the keys {', '.join(OWNER)}, not {shown(owner)}")
    for key, value in (owner or {}).items():
        if key not in OWNER or not isinstance(value, str):
            raise SpecError(
                f"owner is a dict of text with the keys {', '.join(OWNER)}; found {shown(key)}: {shown(value)}"
            )
    return dict(owner or {})


def check_hook(hook: Any) -> Hook:
    """Return `hook` if it is one.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(hook, Hook):
        raise SpecError(f"hooks are instances of Hook, such as EarlyStopping('loss'); found {shown(hook)}")
    return hook


def checked_hooks(name: str, hooks: Sequence[Any]) -> tuple[Hook, ...]:
    """Return a job's hooks.

    Raises:
        SpecError: one is none.
    """
    if not is_list(hooks):
        raise SpecError(f"hooks is a list of hooks, such as [EarlyStopping('loss')], not {shown(hooks)}")
    return tuple(check_hook(hook) for hook in hooks)


def _checked_aggregator(name: str, aggregator: Any) -> Component | None:
    return None if aggregator is None else to_part(AGGREGATORS, aggregator)


def _checked_max_tries(name: str, max_tries: Any) -> int | None:
    return None if max_tries is None else check_count(name, max_tries, 1)


def _code(entry: str, text: str) -> PlanSource:
    return PlanSource(text, entry, plan_hash(text))


def _component(registry: Registry[Any], part: Component | None) -> Any:
    if part is None:
        return None
    return _code(part.entry, part.text) if part.text else registry.build(part.name, part.config)


def _plans(spec: JobSpec, text_of: TextOf) -> Any:
    """Return the plan of a job, or its map of plans, as their texts."""
    if not spec.plan_hash or spec.protocol.name == Function.name:
        return None
    own = _code(spec.plan_entry, text_of(spec.plan_hash))
    if not spec.plans:
        return own
    each = {node: _code(plan["entry"], text_of(plan["hash"])) for node, plan in spec.plans.items()}
    return {"server": (own, [RESEARCHER]), **each}


def _nodes(spec: JobSpec, asked: Any) -> Any:
    """Return the nodes that were asked for; None where they follow from the map of plans."""
    if spec.simulation and isinstance(asked, str) and asked != LOCAL:
        return simulation_of(spec.simulation)
    return None if spec.plans and sorted(spec.plans) == asked else asked


def _operation(spec: JobSpec, text_of: TextOf) -> Any:
    if spec.protocol.name == Function.name:
        return _code(spec.plan_entry, text_of(spec.plan_hash))
    return PROTOCOLS.build(spec.protocol.name, spec.protocol.config)


def _checked_models(name: str, models: Any) -> dict[str, str]:
    return {model: file.sha256 for model, file in model_files_of(models).items()}


def _checked_share(name: str, share: Any) -> str:
    if share not in (TRAINABLE, ALL_PARAMETERS):
        raise SpecError(f"share is 'trainable' or 'all', not {shown(share)}")
    return str(share)


def _checked_compress(name: str, compress: Any) -> Component | None:
    if compress is None or isinstance(compress, Compressor):
        return None if compress is None else to_part(COMPRESSORS, compress)
    if isinstance(compress, str) and compress in COMPRESSORS:
        if compress == TopK.name:
            raise SpecError(
                "compress='top_k' does not say how much: expected TopK(0.01), or another fraction"
            )
        return to_part(COMPRESSORS, compress)
    expected = f"compress is 'bf16', 'fp16', Int8(), TopK(0.01) or None, not {shown(compress)}"
    near = _COMPRESSED_AS.get(_letters(compress.__name__ if isinstance(compress, type) else compress), "")
    raise SpecError(f"{expected}; did you mean {near}?" if near else expected)


_COMPRESSED_AS = {
    **dict.fromkeys(("bf16", "bfloat16", "brainfloat16"), "'bf16'"),
    **dict.fromkeys(("fp16", "float16", "f16", "half"), "'fp16'"),
    **dict.fromkeys(("int8", "i8"), "Int8()"),
    **dict.fromkeys(("topk", "top"), "TopK(0.01)"),
}
"""What is often written for a compressor, without case and signs -> how it is written here."""


def _letters(name: Any) -> str:
    return "".join(filter(str.isalnum, name.casefold())) if isinstance(name, str) else ""


def _facts(
    check: Callable[[str, Any], Any] = as_given,
    *,
    back: Callable[[Any], Any] | None = None,
    in_file: bool = True,
    changeable: bool = True,
    content: bool = True,
) -> dict[str, Any]:
    """Return what is known of an argument of `Job`, as the metadata of its field.

    Args:
        check: from its name and what was given to what the spec keeps under that name.
        back: from what the spec keeps to what could have been given; None where that is the same.
        in_file: a job's file may hold it.
        changeable: a clone may be given another.
        content: a job with another value is another job: it counts for the content hash.
    """
    return {"check": check, "back": back, "in_file": in_file, "changeable": changeable, "content": content}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArguments:
    """The arguments of one `Job(...)`; `Job` documents each of them."""

    operation: Any = field(default="fedavg", metadata=_facts())
    training_plan: Any = field(default=None, metadata=_facts())
    data: Any = field(default=None, metadata=_facts())
    model_args: Mapping[str, Any] | None = field(default=None, metadata=_facts(plain_args))
    training_args: Mapping[str, Any] | None = field(default=None, metadata=_facts(plain_args))
    each: Mapping[str, Mapping[str, Any]] | None = field(default=None, metadata=_facts(checked_each))
    rounds: int | None = field(
        default=1,
        metadata=_facts(
            lambda _, rounds: checked_rounds(rounds),
            back=lambda rounds: None if rounds == ENDLESS else rounds,
        ),
    )
    name: str = field(default="", metadata=_facts(checked_text))
    note: str = field(default="", metadata=_facts(checked_text))
    project: str = field(default="", metadata=_facts(checked_text))
    props: Mapping[str, Any] | None = field(default=None, metadata=_facts(plain_args))
    # what was drawn says nothing of what was asked for; a seed that was given is hashed beside the fields
    seed: int | None = field(default=None, metadata=_facts(content=False))
    nodes: Sequence[str] | str | Simulation | None = field(default=None, metadata=_facts(checked_nodes))
    as_node: str = field(default=LOCAL, metadata=_facts(checked_text, changeable=False))
    quorum: Quorum | None = field(
        default=None, metadata=_facts(checked_quorum, back=lambda plain: Quorum(**plain))
    )
    selector: Selector | Callable[[int, list[str]], Sequence[str]] | str = field(
        default="all",
        metadata=_facts(
            lambda _, selector: to_part(SELECTORS, selector), back=partial(_component, SELECTORS)
        ),
    )
    aggregator: Aggregator | Callable[[list[Any], list[float]], Any] | str | None = field(
        default=None, metadata=_facts(_checked_aggregator, back=partial(_component, AGGREGATORS))
    )
    guard: Guard | None = field(
        default=None, metadata=_facts(checked_guard, back=lambda plain: Guard(**plain) if plain else None)
    )
    protect: Protect | SecAgg | RecordDP | None = field(
        default=None,
        metadata=_facts(checked_protect, back=lambda plain: protect_of(plain) if plain else None),
    )
    # a spec holds it as a part of the protocol
    server_optimizer: Any = field(default=None, metadata=_facts())
    hooks: Sequence[Hook] = field(
        default=(),
        metadata=_facts(checked_hooks, back=lambda parts: tuple(_component(HOOKS, part) for part in parts)),
    )
    preprocess: Sequence[Any] | None = field(default=None, metadata=_facts(changeable=False))
    items: Items | None = field(default=None, metadata=_facts(checked_items))
    split: Mapping[str, Any] | str | None = field(
        default=None, metadata=_facts(lambda _, split: check_split(split), back=lambda plain: plain or None)
    )
    # files lie in the job's folder: a spec has their hashes
    artifacts: Mapping[str, Any] | None = field(
        default=None, metadata=_facts(back=lambda _: None, in_file=False)
    )
    # as are links to the files of models
    models: Mapping[str, Any] | None = field(
        default=None, metadata=_facts(_checked_models, back=lambda _: None, in_file=False)
    )
    share: str = field(default=TRAINABLE, metadata=_facts(_checked_share))
    compress: Compressor | str | None = field(
        default=None, metadata=_facts(_checked_compress, back=partial(_component, COMPRESSORS))
    )
    resources: Mapping[str, Any] | None = field(default=None, metadata=_facts(checked_resources))
    use: str = field(default="private", metadata=_facts(checked_use))
    watchers: Sequence[str] = field(default=(), metadata=_facts(checked_watchers))
    round_timeout_s: float | None = field(default=None, metadata=_facts(checked_seconds))
    every_s: float | None = field(default=None, metadata=_facts(checked_seconds))
    max_tries: int | None = field(default=None, metadata=_facts(_checked_max_tries))
    owner: Mapping[str, str] | None = field(default=None, metadata=_facts(checked_owner))
    init: Any = field(default=None, metadata=_facts(in_file=False))
    validate_at_end: bool = field(default=False, metadata=_facts())
    breakpoint_every: int = field(default=1, metadata=_facts())
    keep_breakpoints: int = field(default=3, metadata=_facts())
    keep: bool = field(default=False, metadata=_facts())
    keep_files_dir: str | Path | None = field(
        default=None, metadata=_facts(_checked_folder, in_file=False, changeable=False, content=False)
    )
    session: Connection | None = field(
        default=None, metadata=_facts(in_file=False, changeable=False, content=False)
    )
    home: str | Path | None = field(
        default=None, metadata=_facts(in_file=False, changeable=False, content=False)
    )

    def __post_init__(self) -> None:
        if isinstance(self.nodes, Simulation):
            object.__setattr__(self, "data", given_data(self.nodes, self.data))
        for name in _TABLE:
            object.__setattr__(self, name, python_numbers(getattr(self, name)))

    def checked(self, name: str) -> Any:
        """Return an argument as a spec keeps it.

        Raises:
            SpecError: it is wrong: what was expected, what was found.
        """
        return _TABLE[name].metadata["check"](name, getattr(self, name))

    def for_spec(self) -> dict[str, Any]:
        """Return all that a spec keeps under the argument's own name, checked."""
        return {name: self.checked(name) for name in _TABLE if name in JobSpec.__dataclass_fields__}

    @classmethod
    def of(cls, spec: JobSpec, asked: Mapping[str, Any], text_of: TextOf) -> JobArguments:
        """Return arguments that define an equal job, as far as a spec tells them.

        Args:
            asked: the job's `data`, `nodes` and `as_node`.
        """
        given: dict[str, Any] = {
            "operation": _operation(spec, text_of),
            "training_plan": _plans(spec, text_of),
            "data": asked.get("data"),
            "nodes": _nodes(spec, asked.get("nodes")),
            "as_node": asked.get("as_node", LOCAL),
        }
        for name, entry in _TABLE.items():
            if name in JobSpec.__dataclass_fields__:
                kept, back = getattr(spec, name), entry.metadata["back"]
                given[name] = kept if back is None else back(kept)
        return cls(**given)


_TABLE: Mapping[str, Field[Any]] = {entry.name: entry for entry in fields(JobArguments)}


def _names(fact: str) -> tuple[str, ...]:
    return tuple(name for name, entry in _TABLE.items() if entry.metadata[fact])


IN_FILE = _names("in_file")
CHANGEABLE = _names("changeable")
CONTENT = _names("content")


def check_enough(spec: JobSpec, num_nodes: int, found: str) -> None:
    """Refuse settings of an aggregator or a selector that need more nodes than a job can have.

    Args:
        found: says which nodes were counted.

    Raises:
        SpecError: they do.
    """
    if (aggregator := aggregator_of(spec.aggregator)) is not None:
        check_nodes(aggregator, num_nodes, found)
    settings = protect_of(spec.protect).secagg
    if isinstance(settings, SecAgg) and num_nodes < settings.groups * settings.min_nodes:
        groups = f"groups={settings.groups}, " if settings.groups > 1 else ""
        raise SpecError(
            f"SecAgg({groups}min_nodes={settings.min_nodes}) needs {settings.groups * settings.min_nodes} nodes or more, "
            f"but {found}"
        )
    selector = selector_of(spec.selector)
    if num_nodes < selector.min_nodes:
        raise SpecError(f"{shown(selector)} needs {selector.min_nodes} nodes or more, but {found}")


def check_selector(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse a selector that asks for losses where nothing is trained.

    Raises:
        SpecError: it does.
    """
    if selector_of(spec.selector).asks_losses and not isinstance(protocol, TrainingProtocol):
        raise SpecError(
            f"{spec.selector.name} goes by the losses of a model, and {protocol.name} trains none: choose another selector"
        )
