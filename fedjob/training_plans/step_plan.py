"""`Plan`: a computation on the items of a dataset in batches, within the limits of the node's owner.

    from fedjob import Items, Job, Plan

    class Sizes(Plan):
        def step(self, ctx):
            return [file.stat().st_size for file in ctx.data.items]

    Job(Sizes, data={"tags": ["scans"]}, items=Items(batch=16, tolerate=5)).run()

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from fedjob.common.checks import shown
from fedjob.common.errors import PlanError, SpecError
from fedjob.data.item_choice import places_of
from fedjob.training_plans.context import Context
from fedjob.training_plans.plan_checks import overrides


def _no_limits() -> SimpleNamespace:
    return SimpleNamespace(dp=None, min_rows=0)


@dataclass
class StepContext(Context):
    """The context of a `Plan`: that of every plan, with its items, its arguments and the limits of the owner.

    Args:
        data: the items of this batch; in `setup` and `finish` all of them.
        task_id: of the node's task.
        project: namespace of the job.
        args, model_args: the job's `training_args` and `model_args`.
        values: what the plan's `coordinate` gave to this pass.
        previous: what the step before returned, in a pipeline; None in its first step.
        split: name of a part -> the items of `data` in it, where the job has a `split`.
        limits: the owner's limits as attributes, such as `limits.dp` and `limits.min_rows`.
        secrets: what the node's owner lets this plan use with this dataset, by name. They must not leave the node.
        artifacts: name -> file that the job sends along; see `fetch`.
    """

    data: Any = None
    task_id: str = ""
    project: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    previous: Any = None
    split: Mapping[str, Any] = field(default_factory=dict)
    limits: SimpleNamespace = field(default_factory=_no_limits)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    artifacts: Mapping[str, str] = field(default_factory=dict, repr=False)
    narrow: Callable[[Sequence[int]], None] | None = field(default=None, repr=False)

    def ids(self) -> list[str]:
        """Return the id of each item of `data`: a file's path in its folder, or a row's hash."""
        return [identity.id for identity in self.data.identities()]

    def select(self, items: Any) -> None:
        """Narrow the work to some items: in `setup` only.

        Args:
            items: places in `data`, a mask with a truth value for each item, or some of `ids()`.

        Raises:
            PlanError: not in `setup`, or the job has no data.
            SpecError: it names items that do not exist.
        """
        if self.narrow is None:
            raise PlanError("ctx.select works in setup, before the first batch, and with data")
        given = items.tolist() if hasattr(items, "tolist") else list(items)
        with_ids = any(isinstance(item, str) for item in given)
        self.narrow(places_of(given, self.data.identities() if with_ids else None, self.data.num_rows))

    def fetch(self, name: str) -> Path:
        """Return the file of an artifact that the job sends along, `Job(..., artifacts={name: file})`.

        Raises:
            PlanError: the job sends no artifact of that name.
        """
        if name not in self.artifacts:
            listed = ", ".join(sorted(self.artifacts)) or "none"
            raise PlanError(f"the job sends no artifact {shown(name)}; it sends {listed}")
        return Path(self.artifacts[name])


class Plan:
    """A computation on items in batches: write `step`, and the other methods where they are needed.

    At a node one object lives through a whole job: what `setup` assigns to it, `step` finds. It is made
    without arguments. On the researcher's side `coordinate` may say in which order nodes are asked.
    """

    steps: ClassVar[Sequence[type[Plan]]] = ()
    """Plans that are run one after another on the same batch, in place of `step`: a pipeline."""

    primary: ClassVar[str] = ""
    """The file that matters most, of a plan that returns files: `{"report.csv": table, "notes.txt": text}`."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages, by the name they are imported by, that a node needs beside the plan's own imports."""

    launches: ClassVar[Sequence[Any]] = ()
    """Functions that the plan may start as child tasks, `ctx.launch(...)`."""

    def setup(self, ctx: Any) -> None:
        """Prepare, once, before the first batch; may narrow the items by `ctx.select`."""

    def step(self, ctx: Any) -> Any:
        """Work on one batch, `ctx.data`; return plain data, arrays or a table."""
        raise NotImplementedError

    def finish(self, ctx: Any, parts: Iterator[Any]) -> Any:
        """Make one answer of what `step` returned for each batch, in the order of the items.

        Without this method, lists, arrays and tables are joined, and other values are put into a list.
        """
        raise NotImplementedError

    def coordinate(self, job: Any) -> Any:
        """Decide at the researcher which nodes are asked and in which order; return the job's result.

        Args:
            job: see `fedjob.researcher.rounds.coordination.Coordination`.
        """
        raise NotImplementedError


_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,98}\.[A-Za-z0-9]{1,10}")
_KEPT = ("params.safetensors", "table.csv", "value.mpk")
"""The names of the files that fedjob itself writes into a result; a plan can't use them."""


def is_file_name(name: object) -> bool:
    """Tell whether a plan may return a file of this name: it has a suffix and no folders."""
    return isinstance(name, str) and _FILE.fullmatch(name) is not None and name not in _KEPT


def check_step_plan(cls: type[Plan]) -> type[Plan]:
    """Return a plan's class if it is complete.

    Raises:
        PlanError: it has no `step` and lists no `steps`, has both, or takes other arguments than it will be given.
    """
    name = cls.__name__
    if not isinstance(cls.steps, (list, tuple)):
        raise PlanError(f"{name}.steps is a list of plans, not {cls.steps!r:.80}", name=name)
    if bool(cls.steps) == overrides(cls, Plan, "step"):
        both = (
            "has both step and steps: keep one" if cls.steps else "lacks step(self, ctx), or a list of steps"
        )
        raise PlanError(f"{name} {both}", name=name)
    for part in cls.steps:
        if not (isinstance(part, type) and issubclass(part, Plan)):
            raise PlanError(f"{name}.steps lists classes derived from Plan; found {shown(part)}", name=name)
        check_step_plan(part)
        if part.steps:
            raise PlanError(f"{part.__name__} is one of {name}.steps: list its own steps there", name=name)
        if overrides(part, Plan, "finish") or overrides(part, Plan, "coordinate"):
            raise PlanError(
                f"{part.__name__} is one of {name}.steps: write finish and coordinate in {name}", name=name
            )
    if cls.primary and not is_file_name(cls.primary):
        raise PlanError(f"{name}.primary is the name of a file, not {cls.primary!r:.80}", name=name)
    for method, arguments in (("setup", 1), ("step", 1), ("finish", 2), ("coordinate", 1)):
        _check_arguments(cls, method, arguments)
    try:
        cls()
    except TypeError as error:
        raise PlanError(f"{name} is made without arguments: {error}", name=name) from error
    return cls


def _check_arguments(cls: type[Plan], method: str, count: int) -> None:
    import inspect

    try:
        inspect.signature(getattr(cls, method)).bind(*[None] * (count + 1))
    except TypeError as error:
        given = {"finish": "ctx, parts", "coordinate": "job"}.get(method, "ctx")
        raise PlanError(
            f"{cls.__name__}.{method} is written as {method}(self, {given}): {error}", name=cls.__name__
        ) from error


def check_split(split: Any) -> dict[str, Any]:
    """Return a split as plain data: fractions by the name of their part with a seed, or a column.

    Args:
        split: `{"test": 0.2, "seed": 0}`, where the rest is `train`; the name of a column whose values name
            the parts; None for no split.

    Raises:
        SpecError: it is neither, or the fractions are not within 0 and 1 together.
    """
    if split is None:
        return {}
    if isinstance(split, str):
        return {"column": split}
    if not isinstance(split, Mapping) or not split:
        raise SpecError(f'split is {{"test": 0.2, "seed": 0}} or the name of a column, not {shown(split)}')
    plain = dict(split)
    if set(plain) == {"column"} and isinstance(plain["column"], str):
        return plain
    seed = plain.pop("seed", 0)
    if type(seed) is not int:
        raise SpecError(f"split['seed'] is a whole number, not {shown(seed)}")
    for name, fraction in plain.items():
        if not isinstance(name, str) or name == "train" or not isinstance(fraction, (int, float)):
            raise SpecError(f"split[{shown(name)}] is a fraction of the items; what is left is 'train'")
    if not plain or not all(0 < fraction < 1 for fraction in plain.values()) or sum(plain.values()) >= 1:
        raise SpecError(f"the fractions of split lie above 0 and together below 1; found {shown(plain)}")
    return {**{name: float(fraction) for name, fraction in plain.items()}, "seed": seed}
