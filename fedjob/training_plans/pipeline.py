"""A `Plan` as nodes drive it: built, given data, prepared, and run on batch after batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from fedjob.common.errors import NodeFailure, SpecError
from fedjob.common.values import decode
from fedjob.training_plans.plan_checks import overrides
from fedjob.training_plans.state.warm_plan import Warm
from fedjob.training_plans.step_plan import Plan, StepContext


class Pipeline(Warm):
    """A plan, or the plans that it lists as its `steps`, over one dataset.

    Args:
        cls: compiled from its approved text and checked.
    """

    def __init__(self, cls: type[Plan]) -> None:
        self.whole = cls()
        self.steps: tuple[Plan, ...] = tuple(part() for part in cls.steps) or (self.whole,)
        self.ctx = StepContext()
        self.training_args: dict[str, Any] = {}
        self.timing: dict[str, float] = {}
        self.data: Any = None
        """The items that are left after `setup`."""
        self._split: Mapping[str, Any] = {}
        self._labels: list[str] = []

    # --- as every plan ------------------------------------------------------------------------

    def build(self, model_args: Mapping[str, Any] | None, args: Mapping[str, Any] | None) -> None:
        """Take the arguments; there is no model."""
        self.ctx.model_args = dict(model_args or {})

    def load_data(self, dataset: Any) -> None:
        """Take the dataset; nothing is read before the plan asks for it."""
        self.data = dataset
        self._labels = []
        self.bind(None)

    def start_step(self, args: Mapping[str, Any] | None) -> None:
        """Begin anew with these arguments."""
        self.training_args = dict(args or {})
        self.ctx.args = self.training_args
        self.ctx.state = {}
        self.timing = {}

    def attend(self, order: Any) -> None:
        """Tell the plan of the task that it is part of.

        Args:
            order: a `WorkOrder`.
        """
        ctx = self.ctx
        ctx.task_id, ctx.project = order.key, order.project
        ctx.limits = SimpleNamespace(**{"dp": None, "min_rows": 0, **order.limits})
        ctx.secrets, ctx.artifacts = order.secrets, order.artifacts
        self._split, self._labels = order.split, []

    @property
    def launches(self) -> Sequence[Any]:
        """The functions that it may start as child tasks."""
        return [launched for plan in {self.whole, *self.steps} for launched in plan.launches]

    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        """Go on from what `get_state` returned."""
        self.ctx.state = dict((tree or {}).get("ctx") or {})

    def get_state(self) -> dict[str, Any]:
        """Return what stays at this node; nothing where the plan kept nothing."""
        return {"ctx": dict(self.ctx.state)} if self.ctx.state else {}

    def get_params(self) -> dict[str, Any]:
        """Return no parameters: a plan of this kind has none."""
        return {}

    # --- as a plan of steps -------------------------------------------------------------------------

    @property
    def num_items(self) -> int:
        """Of the present batch, or of all where there is none; 0 without data."""
        return 0 if self.ctx.data is None else int(self.ctx.data.num_rows)

    @property
    def finishes(self) -> bool:
        """True if what `step` returns stays at the node, and `finish` makes the answer of it."""
        return overrides(self.whole, Plan, "finish")

    def set_up(self) -> None:
        """Let the plan prepare; every step begins with what it is then.

        Raises:
            NodeFailure: `no_data` when it selects no item at all.
        """
        plans = self.steps if self.whole in self.steps else (self.whole, *self.steps)
        for plan in plans:
            self.bind(None)
            self.ctx.narrow = None if self.data is None else self._narrow
            try:
                plan.setup(self.ctx)
            finally:
                self.ctx.narrow = None
        self.bind(None)
        self._note_parts(*plans)

    def bind(self, places: Sequence[int] | None) -> None:
        """Let `ctx.data` be the items at these places; None for all of them."""
        if self.data is None:
            self.ctx.data, self.ctx.split = None, {}
            return
        self.ctx.data = self.data if places is None else self.data.take(places)
        if self._split:
            if not self._labels:
                self._labels = labels_of(self.data, self._split)
            labels = self._labels if places is None else [self._labels[place] for place in places]
            self.ctx.split = {
                name: self.ctx.data.take([place for place, label in enumerate(labels) if label == name])
                for name in sorted(set(self._labels))
            }

    def step(self, values: Mapping[str, Any]) -> Any:
        """Work on the present batch; each step finds what the one before returned."""
        self.ctx.values = {name: decode(value) for name, value in values.items()}
        self.ctx.previous = None
        for plan in self.steps:
            self.ctx.previous = plan.step(self.ctx)
        return self.ctx.previous

    def join(self, values: Iterable[Any]) -> Any:
        """Make one answer of what the batches gave."""
        if self.finishes:
            self.bind(None)
            return self.whole.finish(self.ctx, iter(values))
        return joined(list(values))

    def _narrow(self, places: Sequence[int]) -> None:
        if not places:
            raise NodeFailure(self.ctx.node, "no_data", "the plan selected none of the items")
        self.data = self.data.take(places)
        self._labels = [self._labels[place] for place in places] if self._labels else []
        self.bind(None)


def joined(values: Sequence[Any]) -> Any:
    """Return lists, arrays or tables of one kind as one; a single other value as it is, else a list."""
    if values and all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    kinds = {type(value).__module__.partition(".")[0] + "." + type(value).__name__ for value in values}
    if kinds == {"pandas.DataFrame"}:
        import pandas

        return pandas.concat(values, ignore_index=True)
    if kinds and kinds <= {"numpy.ndarray", "numpy.MaskedArray"} and all(value.ndim for value in values):
        import numpy

        if kinds == {"numpy.ndarray"}:
            return numpy.concatenate(values)
        return numpy.ma.concatenate(values)  # type: ignore[no-untyped-call]
    return values[0] if len(values) == 1 else list(values)


def labels_of(data: Any, split: Mapping[str, Any]) -> list[str]:
    """Return the name of the part that each item belongs to; the same for the same items and seed.

    Raises:
        SpecError: there is no such column.
    """
    if "column" in split:
        frame = data.frame()
        if split["column"] not in frame:
            raise SpecError(
                f"split: there is no column {split['column']!r}; there are {', '.join(map(str, frame))}"
            )
        return [str(value) for value in frame[split["column"]]]
    import numpy

    count = int(data.num_rows)
    labels = ["train"] * count
    order = numpy.random.default_rng(int(split["seed"])).permutation(count)
    begin = 0
    for name in sorted(set(split) - {"seed"}):
        end = begin + round(split[name] * count)
        for place in order[begin:end]:
            labels[place] = name
        begin = end
    return labels
