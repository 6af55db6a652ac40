"""The interface of a server optimizer: the nodes' average change in, new shared parameters out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from fedjob.parameters.files import Params

Memory = Mapping[str, Mapping[str, Any]]
"""The state of an optimizer: one set of named tensors for each of its `slots`; empty at the start."""

_CHUNK = 1 << 18
"""Elements computed at a time, so that they fit the processor's cache and memory is bounded."""


class ServerOptimizer(ABC):
    """A rule that moves the shared parameters by the average change of the nodes' parameters.

    An optimizer is a frozen dataclass with a learning rate `lr`. It keeps no state of its own:
    the state is an argument and a result of `step`. The sign: `delta` is the average of the
    nodes' parameters minus the shared ones, so it points downhill, and parameters move along it.
    """

    name: ClassVar[str]

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that are kept for every parameter, such as `("m", "v")`."""

    lr: float

    def first(self, slot: str) -> float:
        """Return the value that a slot begins with, in every element."""
        return 0.0

    @abstractmethod
    def update(self, delta: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the change to add to the parameters, and update `memory` in place.

        Args:
            delta: one dimension; float32, or float64 where the parameters are float64.
            memory: slot -> tensor of the same shape and dtype.
        """

    def step(
        self, params: Mapping[str, torch.Tensor], delta: Mapping[str, torch.Tensor], state: Memory
    ) -> tuple[Params, dict[str, Params]]:
        """Move parameters by one step.

        Args:
            params: name -> floating tensor, any shapes; not modified.
            delta: for each of them, the nodes' average minus it, of the same shape.
            state: the state that the step before returned; empty for the first step. A name that it
                lacks begins with the `first` value of each slot.

        Returns:
            New parameters and new state, both of the dtypes of `params`; computed in float32 or wider.
        """
        moved: Params = {}
        after: dict[str, Params] = {slot: {} for slot in self.slots}
        for name in params:
            before = {slot: state[slot][name] for slot in self.slots if name in state.get(slot, ())}
            moved[name], remembered = self._step_one(params[name], delta[name], before)
            for slot, tensor in remembered.items():
                after[slot][name] = tensor
        return moved, after

    def _step_one(
        self, param: torch.Tensor, delta: torch.Tensor, before: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Params]:
        import torch

        def empty() -> torch.Tensor:
            return torch.empty_like(param, memory_format=torch.contiguous_format)

        moved, after = empty(), {slot: empty() for slot in self.slots}
        old = {slot: tensor.reshape(-1) for slot, tensor in before.items()}
        flat_param, flat_delta, flat_moved = param.reshape(-1), delta.reshape(-1), moved.view(-1)
        exact = torch.promote_types(param.dtype, torch.float32)
        for start in range(0, flat_param.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            change = flat_delta[part].to(exact)
            memory = {
                slot: old[slot][part].to(exact, copy=True)
                if slot in old
                else torch.full_like(change, self.first(slot))
                for slot in self.slots
            }
            flat_moved[part] = flat_param[part] + self.update(change, memory)
            for slot in self.slots:
                after[slot].view(-1)[part] = memory[slot]
        return moved, after
