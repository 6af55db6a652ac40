"""The closed contract of a grant: the request with all that decides what is computed, and how two differ. Pure.

What varies while a job runs is no part of it: parameters, node states, seeds, and the values that the protocol computes
from round to round. Everything else is bound to what the owner saw. Only an owner's ranges let it vary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from fedjob.common.codec import in_order, pack, to_plain
from fedjob.common.errors import SpecError
from fedjob.messaging.messages import WorkSettings
from fedjob.node.grants.limits import GrantLimits, bounds_for, describe_bounds, fits
from fedjob.privacy.protections import lacking
from fedjob.protocols import PROTOCOLS
from fedjob.training_plans.schedules import at_round, every_value, is_schedule

SECTIONS = ("config", "model_args", "training_args", "props")
"""The parts of a question whose entries an owner may free, one by one."""

WHOLE = (
    "preprocess",
    "items",
    "split",
    "artifacts",
    "models",
    "launches",
    "files",
    "project",
    "protect",
    "compress",
)
"""The parts that are equal or not."""

ROUNDS = ("rounds",)
GPUS = ("gpus",)


class _Absent:
    """The value of an entry that is not there."""

    def __repr__(self) -> str:
        return "not given"


NOTHING = _Absent()


@dataclass(frozen=True, slots=True)
class Deviation:
    """An entry in which what is asked differs from what was approved.

    Args:
        path: the section and the names in it; of a part that is compared as a whole its name alone.
        approved, asked: `NOTHING` where it was not given.
    """

    path: tuple[str, ...]
    approved: Any
    asked: Any

    def __str__(self) -> str:
        name = ".".join(self.path)
        return f"{name} is {_short(self.asked)}, approved was {_short(self.approved)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(WorkSettings):
    """The details of a request: shown to the owner, compared with what was approved, limits and agreements.

    Args:
        owner: how the researcher describes themselves: name, org, role.
        operation: the protocol's public name, such as `fedjob.train.fedavg`.
        preprocess: steps that prepare the data, as one canonical JSON text; empty for none.
        launches: sha256 of plans that this one may start as child tasks.
        props: the job's free properties, which the plan can read.
        items, split: which items of the dataset, and how they are divided, as plain data.
        artifacts: name -> sha256 of a file that the job sends along.
        models: name -> sha256 of a file of parameters that the node has.
        files: sha256 of the data that the researcher brings; empty for none.
        protect: how contributions are protected, as the job's messages have it.
        compress: how parameters travel, `{name, config}`; empty for as they are.
        needs: of `plan` and `data`: what the owner has to allow.
        reading: the plan's real hash, where the decision is about data only.
        has_plan: a plan would run.
        gpus: the devices of the node that the job may hold: those that its owner lends, where it asks for some. None
            where the owner lends none.
        claimed: bytes that the job will move and hold here, as its researcher says: `down`, `up`, `memory`; it binds nothing.
        round: that a task is for; 0 for a job, which is for all `rounds`.
    """

    job: str = ""
    job_name: str = ""
    note: str = ""
    owner: Mapping[str, str] = field(default_factory=dict)
    operation: str = ""
    rounds: int = 1
    resources: Mapping[str, Any] = field(default_factory=dict)
    preprocess: str = ""
    launches: tuple[str, ...] = ()
    props: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    files: str = ""
    protect: Mapping[str, Any] = field(default_factory=dict)
    compress: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ("plan",)
    reading: str = ""
    has_plan: bool = False
    gpus: tuple[int, ...] | None = None
    claimed: Mapping[str, int] = field(default_factory=dict)
    round: int = 0

    def breaks(self, limits: GrantLimits) -> str:
        """Say which of these limits it would break; empty for none."""
        return broken(self, limits)

    def values_of(self, value: Any) -> Iterator[Any]:
        """Yield the values of an argument in the rounds that are asked for.

        Raises:
            SpecError: it follows a schedule that is none.
        """
        if self.round:
            yield from at_round({"": value}, self.round).values()
        else:
            yield from every_value(value, self.rounds)


def hash_of_question(asked: Request, *about: str) -> str:
    """Return the sha256 of a question: of all that it binds but the number of rounds, which may be fewer.

    Args:
        about: what it binds beside the request: protocol, plan, class, dataset and use.
    """
    bound: dict[str, Any] = {name: getattr(asked, name) for name in (*SECTIONS, *WHOLE)}
    if asked.gpus:  # which of them is the node's affair
        bound[GPUS[0]] = True
    return hashlib.sha256(pack([list(about), in_order(bound)])).hexdigest()


def deviations(approved: Request, asked: Request) -> list[Deviation]:
    """Return the entries in which a question differs from an approved one, in the order of `SECTIONS` and `WHOLE`."""
    found: list[Deviation] = []
    if asked.gpus and _too_few_gpus(approved, asked):
        found.append(Deviation(GPUS, list(approved.gpus or ()), list(asked.gpus)))
    if asked.needs == ("data",):  # whatever would run on the data
        same = is_same(approved.project, asked.project)
        return found if same else [*found, Deviation(("project",), approved.project, asked.project)]
    for section in SECTIONS:
        found += _between((section,), getattr(approved, section), getattr(asked, section))
    for name in WHOLE:
        before, now = getattr(approved, name), getattr(asked, name)
        if not is_same(before, now):
            found.append(Deviation((name,), before, now))
    if asked.rounds > approved.rounds:
        found.append(Deviation(ROUNDS, approved.rounds, asked.rounds))
    return found


def _too_few_gpus(approved: Request, asked: Request) -> bool:
    """Tell whether an approval names fewer of the devices that are lent now than the job asks for."""
    number = asked.resources.get("gpus", 0)
    named = set(approved.gpus or ()) & set(asked.gpus or ())
    return isinstance(number, int) and len(named) < number


def not_allowed(approved: Request, asked: Request, limits: GrantLimits) -> list[Deviation]:
    """Return the deviations that the owner's ranges do not allow."""
    return [found for found in deviations(approved, asked) if not _is_free(found, asked, limits)]


def is_bounded(found: Deviation, limits: GrantLimits) -> bool:
    """Tell whether a difference is in an argument that the owner gave a range, which it does not keep."""
    named = bounds_for(limits.args, found.path)
    return bool(named) and found.asked is not NOTHING and not any(one.get("exact") for one in named)


def not_in_agreement(asked: Request, limits: GrantLimits, protocol: str) -> list[Deviation]:
    """Return the arguments that a standing agreement with ranges does not name, or that it names and are not given.

    An agreement without ranges is about any arguments: its owner wrote none.
    """
    if not limits.args or limits.any_args:
        return []
    # settings that are as they would be without being given are not given
    nothing = replace(asked, config=defaults_of(protocol), model_args={}, training_args={}, props={})
    found = [one for one in not_allowed(nothing, asked, limits) if one.asked is not NOTHING]
    given = [path for path, _ in entries(asked)]
    for name in limits.args:
        if name != ROUNDS[0] and not any(is_named(name, path) for path in given):
            found.append(Deviation(("training_args", *name.split(".")), "required", NOTHING))
    return found


def defaults_of(protocol: str) -> dict[str, Any]:
    """Return the settings that a protocol has where none are given, as plain data."""
    settings = {}
    for entry in fields(PROTOCOLS.find(protocol)):  # type: ignore[arg-type]
        if entry.default is not MISSING:
            settings[entry.name] = to_plain(entry.default)
        elif entry.default_factory is not MISSING:
            settings[entry.name] = to_plain(entry.default_factory())
    return settings


def entries(asked: Request) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of every entry that an owner may bound, nested ones after the one that holds them."""
    for section in SECTIONS:
        yield from _within((section,), getattr(asked, section))
    yield ROUNDS, asked.rounds


def is_named(name: str, path: tuple[str, ...]) -> bool:
    """Tell whether an owner's name of an argument means this entry.

    Args:
        name: `lr`, `optimizer.lr`, or with the section, `model_args.width`.
    """
    return bool(bounds_for({name: {}}, path))


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two plain values are the same: 1, 1.0, True and "1" are four different ones."""
    return pack(in_order(one)) == pack(in_order(other))


def broken(asked: Request, limits: GrantLimits) -> str:
    """Say which of an owner's bounds a question does not keep; empty for none."""
    if words := lacking(limits.protections, asked.protect):
        return words
    for path, value in entries(asked):
        for bounds in bounds_for(limits.args, path):
            if not all_fit(value, bounds, asked):
                name = next(name for name in limits.args if is_named(name, path))
                found = _outside(value, bounds, asked)
                return f"the argument {name} is {found}; the owner allows {describe_bounds(bounds)}"
    return ""


def all_fit(value: Any, bounds: Mapping[str, Any], asked: Request) -> bool:
    """Tell whether an entry lies within bounds, in every round if it follows a schedule."""
    try:
        return all(fits(one, bounds) for one in asked.values_of(value))
    except SpecError:  # of a schedule that is none
        return False


def _outside(value: Any, bounds: Mapping[str, Any], asked: Request) -> str:
    """Return, as text, the first value of an entry that lies outside of bounds."""
    try:
        return _short(next((one for one in asked.values_of(value) if not fits(one, bounds)), value))
    except SpecError:
        return _short(value)


def _is_free(found: Deviation, asked: Request, limits: GrantLimits) -> bool:
    section, named = found.path[0], bounds_for(limits.args, found.path)
    if named:
        given = found.asked is not NOTHING
        return given and all(not one.get("exact") and all_fit(found.asked, one, asked) for one in named)
    if not limits.any_args:
        return False
    return section in ("model_args", "training_args") or (section == "config" and not asked.has_plan)


def _between(path: tuple[str, ...], before: Any, now: Any) -> Iterator[Deviation]:
    if before is NOTHING and isinstance(now, Mapping) and now and not is_schedule(now):
        before = {}  # what is in it is given one by one, and may be allowed one by one
    both_maps = isinstance(before, Mapping) and isinstance(now, Mapping)
    if both_maps and not is_schedule(before) and not is_schedule(now):
        for name in sorted({*before, *now}):
            yield from _between((*path, name), before.get(name, NOTHING), now.get(name, NOTHING))
    elif before is NOTHING or now is NOTHING or not is_same(before, now):
        yield Deviation(path, before, now)


def _within(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > 1:
        yield path, value
    if isinstance(value, Mapping) and not is_schedule(value):
        for name in sorted(value):
            yield from _within((*path, name), value[name])


def _short(value: Any) -> str:
    text = repr(value) if value is NOTHING else ascii(value)  # nobody takes a letter for another one
    return text if len(text) <= 80 else text[:77] + "..."
