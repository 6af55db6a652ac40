"""A protocol of the researcher's own, which travels as a part of the training plan's text.

No package with it has to be installed anywhere: owners read and approve the class together with the plan. A node takes the
class from the plan's module, which was made of the approved text, and compiles no other text.

What leaks: what the class's own `contribute` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType
from typing import Any, ClassVar, get_type_hints

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import from_plain
from fedjob.common.errors import PlanError
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.training_plans.source.compilation import compile_text


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProtocol(FederatedProtocol):
    """A protocol that is defined by its text.

    Args:
        entry: name of the class.
        text: its source, for the researcher's half.
        config: its configuration, plain data.
    """

    entry: str
    text: str
    config: dict[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "own"

    @property
    def inner(self) -> FederatedProtocol:
        """The protocol itself, for the researcher's half.

        Raises:
            PlanError: the text does not run, or defines no protocol of that name.
        """
        return _built(_compiled(self.text, self.entry), self.entry, self.config)

    def _at(self, local: Local) -> FederatedProtocol:
        """Return the protocol for the node's half: its class is that of the approved text, the plan's."""
        return _built(_module_of(type(local.plan)).get(self.entry), self.entry, self.config)

    # --- researcher --------------------------------------------------------------------------

    def check(self, params: Mapping[str, Any]) -> None:
        self.inner.check(params)

    def start(self, params: Mapping[str, Any]) -> State:
        return self.inner.start(params)

    def instruct(self, state: State, view: View) -> Ask | Done:
        return self.inner.instruct(state, view)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = self.inner.finish(state, gathered)
        before, params = state.get("params"), after.get("params")
        if isinstance(params, dict) and isinstance(before, Mapping) and params.keys() == before.keys():
            return {**after, "params": {name: _as_before(params[name], before[name]) for name in params}}
        return after

    def report(self, gathered: Gathered) -> Mapping[str, Mapping[str, Any]]:
        return self.inner.report(gathered)

    def without_node_states(self, state: State) -> State:
        return self.inner.without_node_states(state)

    def may_follow(self, step: str) -> bool:
        return True  # its text says what its steps are, and the owner has read it

    # --- node --------------------------------------------------------------------------------

    def setup(self, local: Local) -> None:
        self._at(local).setup(local)

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        return self._at(local).contribute(instruction, local)

    def join(self, parts: Sequence[Contribution], local: Local) -> Contribution:
        return self._at(local).join(parts, local)

    def reduce(self, total: Contribution, local: Local) -> Contribution:
        return self._at(local).reduce(total, local)


def _as_before(tensor: Any, before: Any) -> Any:
    """Return a tensor with the type that it had, whole numbers rounded: half of a count of batches is no count."""
    if tensor.dtype == before.dtype:
        return tensor
    whole = not before.is_floating_point() and tensor.is_floating_point()
    return (tensor.round() if whole else tensor).to(before.dtype)


def inner_of(protocol: FederatedProtocol) -> FederatedProtocol:
    """Return a protocol; of one that is defined by its text, the protocol itself. For the researcher's half."""
    return protocol.inner if isinstance(protocol, OwnProtocol) else protocol


@lru_cache(maxsize=8)
def _compiled(text: str, entry: str) -> object:
    return compile_text(text, entry)


def _module_of(cls: type) -> dict[str, Any]:
    """Return the names of the module that a class was defined in, which is not among the loaded modules any more."""
    own = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    methods = [item for base in own for item in vars(base).values() if isinstance(item, FunctionType)]
    return methods[0].__globals__ if methods else {}


def _resolve_annotations(cls: type) -> None:
    """Give a class its annotations as types: as texts they could only be read while its module is loaded."""
    names = _module_of(cls)
    for base in cls.__mro__:
        if base.__module__ == cls.__module__ and any(
            isinstance(kind, str) for kind in vars(base).get("__annotations__", {}).values()
        ):
            hints = get_type_hints(base, globalns=names, include_extras=True)
            base.__annotations__ = {name: hints[name] for name in vars(base)["__annotations__"]}


def _built(cls: object, entry: str, config: Mapping[str, Any]) -> FederatedProtocol:
    if not isinstance(cls, type) or not issubclass(cls, FederatedProtocol):
        raise PlanError(f"the plan's text defines no protocol {entry!r}", name=entry)
    try:
        _resolve_annotations(cls)
    except NameError as error:
        raise PlanError(f"the types of {entry}'s fields can't be read: {error}", name=entry) from error
    return from_plain(cls, dict(config))
