"""A job's fixed half: what was asked for, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedjob.common.checks import check_count, is_number, python_numbers, shown
from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import BreakpointCorrupt, DecodeError, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.items import Items
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.types import ENDLESS, check_job_id, party_of
from fedjob.data.shares import SHARED, SharedDatasets
from fedjob.training_plans.schedules import declared

VERSION = 1

_LATER: Mapping[str, Any] = {"found_later": True}
"""Marks what does not follow from what was asked for: it is drawn, or found out later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A component as data: one of the registry by name, or a function of the researcher's by its text.

    Args:
        name: in the registry, with its `config`; or
        text: extracted source, whose function or class is `entry`.
    """

    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    entry: str = ""


TRAINABLE, ALL_PARAMETERS = "trainable", "all"
"""What travels every round: the parameters that the model trains, or all that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Everything that decides what a job computes, and how it is kept.

    Args:
        datasets: node -> name of its dataset; for a local job, what its reader needs.
        simulation: of simulated nodes: how many, how the rows were divided, by what they are computed, and `rows`,
            the sha256 of the row numbers of all; empty for others.
        researcher, owner_key: the party that owns the job, and its public key in hex.
        plan_hash: sha256 of the plan's exact text.
        quorum: `{required, min_nodes, deadline_s, grants_deadline_s}`.
        aggregator: replaces the protocol's own where it is given.
        guard: what contributions must be like beside what all must, see `Guard`.
        protect: how contributions are protected, see `Protect`; empty for not at all.
        plans: for a plan per node: node -> `{entry, hash}`; `plan_entry` and `plan_hash` are then those of
            the plan that is built on this side. The texts lie in the job's folder as `plans/<hash>.py`.
        use: `private`, or `mock` for the stand-ins that owners give.
        preprocess: steps as plain data: no list, one for all datasets, or one for each entry of `data`;
            each dataset's own stand with it, as `preprocess`.
        learned: complete steps, for those of `preprocess` that find values, where an earlier job found them.
        project: namespace; nodes that are not enrolled in it take no part.
        props: free properties, never interpreted.
        owner: how the researcher describes themselves: `{name, org, role}`.
        resources: as they were given: `{cpus, memory, gpus, labels, pool}`, or node or `default` -> these.
        each: node -> training arguments for it alone, over those of all.
        launches: plan texts' sha256 -> entry of what the plan may launch as child tasks.
        watchers: parties that may follow the job.
        round_timeout_s: a round that takes longer ends the job, `failed (timeout)`.
        every_s: from the beginning of a round to that of the next, at least; None begins it at once.
        max_tries: how often scheduling is tried.
        files: sha256 of the data that the researcher brings; empty for none.
        items: which items of their datasets nodes work on, and how.
        split: how a `Plan` divides them into parts, see `training_plans.step_plan.check_split`.
        artifacts: name -> sha256 of a file that the job sends along; it lies in the job's folder.
        models: name -> sha256 of a file of parameters that every node has already, see `parameters.model_files`.
        share: `trainable`, if frozen parameters do not travel with those that are trained, or `all`.
        compress: how parameters travel, a compressor; None for as they are.
        cloned_from: id of the job that this is a clone of.
    """

    id: str = field(metadata=_LATER)
    name: str = ""
    note: str = ""
    version: int = VERSION
    protocol: Component
    plan_entry: str = ""
    plan_hash: str = ""
    model_args: dict[str, Any] = field(default_factory=dict)
    training_args: dict[str, Any] = field(default_factory=dict)
    rounds: int
    seed: int
    local: bool = False
    simulation: dict[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, dict[str, Any]] = field(default_factory=dict, metadata=_LATER)
    researcher: str = field(default="", metadata=_LATER)
    owner_key: str = field(default="", metadata=_LATER)
    federation: str = field(default="", metadata=_LATER)
    selector: Component = field(default_factory=lambda: Component(name="all"))
    quorum: dict[str, Any] = field(default_factory=dict)
    aggregator: Component | None = None
    guard: dict[str, Any] = field(default_factory=dict)
    protect: dict[str, Any] = field(default_factory=dict)
    hooks: list[Component] = field(default_factory=list)
    validate_at_end: bool = False
    breakpoint_every: int = 1
    keep_breakpoints: int = 3
    keep: bool = False
    plans: dict[str, dict[str, str]] = field(default_factory=dict)
    use: str = "private"
    preprocess: list[list[dict[str, Any]]] = field(default_factory=list)
    learned: list[dict[str, Any]] = field(default_factory=list)
    project: str = ""
    props: dict[str, Any] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    each: dict[str, dict[str, Any]] = field(default_factory=dict)
    launches: dict[str, str] = field(default_factory=dict)
    watchers: list[str] = field(default_factory=list)
    round_timeout_s: float | None = None
    every_s: float | None = None
    max_tries: int = 10
    files: str = ""
    items: Items = field(default_factory=Items)
    split: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    share: str = TRAINABLE
    compress: Component | None = None
    cloned_from: str = field(default="", metadata=_LATER)

    def __post_init__(self) -> None:
        check_job_id(self.id)
        check_count("rounds", self.rounds, 1)
        check_count("breakpoint_every", self.breakpoint_every, 1)
        check_count("keep_breakpoints", self.keep_breakpoints, 1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise SpecError(f"seed is a whole number from 0 to 2**63 - 1, not {shown(self.seed)}")

    @property
    def the_quorum(self) -> Quorum:
        """The rule of participation."""
        required = self.quorum.get("required", ())
        return Quorum(
            required=tuple(sorted(self.datasets)) if required == ALL else tuple(required),
            min_nodes=self.quorum.get("min_nodes", 1),
            deadline_s=self.quorum.get("deadline_s"),
            grants_deadline_s=self.quorum.get("grants_deadline_s"),
        )

    @property
    def compression(self) -> dict[str, Any]:
        """How parameters travel, as messages say it: `{name, config}`; empty for as they are."""
        found = self.compress
        return {} if found is None else {"name": found.name, "config": dict(found.config)}

    def save(self, path: Path) -> None:
        """Write the spec, durably."""
        write_atomic(path, pack(plain_spec(self)))


FOUND_LATER = frozenset(entry.name for entry in fields(JobSpec) if "found_later" in entry.metadata)
"""Fields of a spec that do not follow from what was asked for."""


def plain_spec(spec: JobSpec) -> dict[str, Any]:
    """Return a spec as plain data; of simulated nodes that share a dataset with what each needs of its own alone."""
    shared = spec.datasets
    if not isinstance(shared, SharedDatasets):
        return dict(to_plain(spec))
    return {**to_plain(replace(spec, datasets={})), "datasets": shared.plain}


def spec_from_plain(plain: Mapping[str, Any]) -> JobSpec:
    """Build a spec from its plain data.

    Raises:
        BreakpointCorrupt: it is not one.
    """
    try:
        found = plain.get("datasets") if isinstance(plain, Mapping) else None
        if not isinstance(found, Mapping) or SHARED not in found:
            return from_plain(JobSpec, plain)
        shared = SharedDatasets.of(found)
        return replace(from_plain(JobSpec, {**plain, "datasets": {}}), datasets=shared)
    except DecodeError as error:
        raise BreakpointCorrupt(f"this is not a job's spec: {error}") from error


def load_spec(path: Path) -> JobSpec:
    """Read what `save` wrote."""
    try:
        return spec_from_plain(unpack(path.read_bytes()))
    except (OSError, DecodeError) as error:
        raise BreakpointCorrupt(f"the job's spec at {path} can't be read: {error}") from error


def resources_of(spec: JobSpec, node: str) -> dict[str, Any]:
    """Return what a node would have to spare: its own entry, else the default."""
    by_node = resources_by_node(spec.resources)
    own = by_node.get(node, by_node.get(party_of(node)))
    return dict(by_node.get("default", {}) if own is None else own)


def resources_by_node(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return resources by node; what is given for no node in particular is the default of all."""
    return given if any(isinstance(value, dict) for value in given.values()) else {"default": given}


def checked_rounds(rounds: Any) -> int:
    """Return how many rounds a job is for; None goes on until it is ended.

    Raises:
        SpecError: no whole number of 1 or more.
    """
    return ENDLESS if rounds is None else check_count("rounds", rounds, 1)


def checked_seconds(what: str, seconds: Any) -> float | None:
    """Return a duration in seconds, or None.

    Raises:
        SpecError: it is no number above 0.
    """
    if seconds is None:
        return None
    seconds = python_numbers(seconds)
    if not is_number(seconds) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise SpecError(f"{what} is a number of seconds above 0, not {shown(seconds)}")
    return float(seconds)


def plain_args(what: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments as plain data; None is `{}`.

    Raises:
        SpecError: not a map with string keys and plain values; the entry is named.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{what} is a dict with string keys, not a {type(value).__name__}")
    value = python_numbers(dict(declared(value)))
    for key, item in value.items():
        if not isinstance(key, str):
            raise SpecError(f"{what} has string keys; found {shown(key)}")
        try:
            pack(item)
        except Exception as error:
            raise SpecError(f"{what}[{shown(key)}] can't travel: {error}{_way_of(key, item)}") from error
    # through msgpack and back, so that a node and a local job see the same types (a tuple is a list)
    plain: dict[str, Any] = unpack(pack(dict(value)))
    return plain


def _way_of(key: str, item: Any) -> str:
    """Return where a function or a class goes that was given as an argument, for an error; empty for other values."""
    if not callable(item):
        return ""
    if key == "test_metric":
        return '. A metric of your own is computed in testing_step, which returns {"name": value}'
    return ". Functions and classes are written into the plan: give a name here by which it chooses one"


BROUGHT = "brought"
"""The key that stands for brought data in a job's `data`, with their name."""
