"""A plan that works on in the same process, and is set back before each step.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedjob.common.errors import PlanError
from fedjob.training_plans.state.snapshot import PlanSnapshot

_OF_EXAMPLES = ("tensors", "dataset", "collate", "settings")
"""What the examples of a torch plan hold of the user's own."""


class NotSetBack(PlanError):
    """A warm plan that has to load its data again can't be set back to what it was when it was built: it has to be built anew."""


class Warm:
    """The part of a plan by which one that stays in a worker is set back to what it was before its first step."""

    _as_loaded: PlanSnapshot | None = None

    def is_as_loaded(self) -> bool:
        """Set the plan back to as it was before its first step; tell whether that could be done."""
        return self._as_loaded is not None and self._as_loaded.set_back()

    def _note_parts(self, *parts: Any) -> None:
        """Take note of objects and functions of the plan's text, of a plan that is not one itself: steps begin with those."""
        self._as_loaded = PlanSnapshot(self, apart=(*vars(self), "_as_loaded"), parts=parts)


class WarmPlan(Warm):
    """The part of a training plan by which one that has done many steps computes what a new one does."""

    _data: Any = None
    _test: Any = None
    _as_built: PlanSnapshot | None = None

    def note_built(self) -> None:
        """Take note of the plan as it is built: what loads its data begins with that."""
        self._as_built = PlanSnapshot(self, apart=("_fedjob_ctx", "_as_built"), given=self._given_anew())

    def note_loaded(self) -> None:
        """Take note of the plan with its data loaded: every step begins with that."""
        parts = (self._data, self._test)
        data = [
            *(item for part in parts if isinstance(part, tuple) for item in part),
            *(getattr(part, name) for part in parts for name in _OF_EXAMPLES if hasattr(part, name)),
        ]
        self._as_loaded = PlanSnapshot(
            self, apart=_own_names(type(self)), data=data, given=self._given_anew()
        )

    def is_as_built(self) -> bool:
        """Set the plan back to as it was built; tell whether that could be done."""
        return self._as_built is not None and self._as_built.set_back()

    def begin_as_built(self) -> None:
        """Set a plan that is about to load its data again back to as it was built, if that was noted.

        Raises:
            NotSetBack: only a plan that is built anew would be so.
        """
        if self._as_built is not None and not self._as_built.set_back():
            raise NotSetBack("the plan can't be set back to what it was when it was built")

    def _given_anew(self) -> Iterator[Any]:
        """Yield the tensors that each step is given anew."""
        return iter(())


def _own_names(kind: type) -> set[str]:
    """Return the attributes that fedjob's own classes keep in a plan, which each step sets itself."""
    found = {"device", "model_args", "timing", "training_args"}
    for cls in kind.__mro__:
        if cls.__module__.partition(".")[0] == "fedjob":
            found |= {
                name for name in (*vars(cls), *vars(cls).get("__annotations__", {})) if name.startswith("_")
            }
    return found | {"_fedjob_ctx"}
