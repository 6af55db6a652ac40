"""The frozen part of a model: parameters that no optimizer trains, in one file that every node is sent once.

The file is an object like any other, named by its hash. Its metadata list the frozen parameters that it does not hold:
those that each side has from a file of its own, see `model_files`, and those that are tied to another one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fedjob.common.errors import DecodeError, PlanError
from fedjob.parameters.files import FileParams, raw_bytes, save_params
from fedjob.parameters.safetensors_header import read_metadata

FROZEN = "frozen parameters"
"""The name under which a job sends the file along: no name that a researcher can give to a file."""

_ELSEWHERE = "elsewhere"

_SAMPLED = 16
"""Numbers of a frozen parameter, about, by which a change of it is noticed."""


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """The frozen parameters of a model.

    Args:
        sent: those that the file holds.
        elsewhere: the names of the others.
    """

    sent: Mapping[str, torch.Tensor]
    elsewhere: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset((*self.sent, *self.elsewhere))

    def put_into(self, model: torch.nn.Module) -> None:
        """Have a model use the values of the file, memory-mapped, and freeze all of the parameters.

        Raises:
            PlanError: the model has no such parameter, or one of another shape or dtype.
        """
        own = dict(model.named_parameters(remove_duplicate=False))
        for name in sorted(self.names):
            parameter, value = own.get(name), self.sent.get(name)
            if parameter is None:
                raise PlanError(
                    f"the model has no parameter {name}, which is frozen where the job was made: init_model has to "
                    "build the same model everywhere"
                )
            if parameter.requires_grad:
                raise PlanError(_unfrozen(name))
            if value is None:
                continue
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise PlanError(
                    f"frozen parameter {name}: expected {parameter.dtype} {list(parameter.shape)}, found "
                    f"{value.dtype} {list(value.shape)}"
                )
            parameter.data = value


class FrozenWatch:
    """A watch over a model's frozen parameters, which nothing may change while it is trained.

    Torch counts what is written to a tensor, but not through its `.data`: of each a few numbers are compared as well.

    Args:
        names: of the frozen parameters.
    """

    def __init__(self, model: torch.nn.Module, names: Collection[str]) -> None:
        self._model, self._names = model, names
        self._seen = self._facts()

    def problem(self) -> str:
        """Say which frozen parameter was changed, or is trained by now; empty for none."""
        own = dict(self._model.named_parameters(remove_duplicate=False))
        for name in sorted(self._names):
            if name not in own or own[name].requires_grad:
                return _unfrozen(name)
        now = self._facts()
        changed = [name for name, seen in self._seen.items() if now[name] != seen]
        return _unfrozen(min(changed)) if changed else ""

    def _facts(self) -> dict[str, tuple[int, int, bytes]]:
        """Return which tensor each is, how often it was written to, and the bytes of a few of its numbers."""
        named = self._model.named_parameters(remove_duplicate=False)
        return {name: (id(one), one._version, _sample(one)) for name, one in named if name in self._names}


def _sample(tensor: torch.Tensor) -> bytes:
    """Return the bytes of some numbers all over a tensor; of a large file in memory few pages are read for them."""
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()
    return bytes(raw_bytes(flat[:: max(1, flat.numel() // _SAMPLED)]))


def _unfrozen(name: str) -> str:
    return (
        f"parameter {name} was frozen when the job was made, so that its value does not travel, and is trained or "
        "changed now: freeze in init_model what stays frozen, and nothing else, or give Job(share='all')"
    )


def frozen_names(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the names of the parameters that a model does not train, sorted; none where it trains none at all.

    Args:
        tensors: what its `state_dict` gives; what a hook gives there in another form is no frozen parameter.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    if not any(parameter.requires_grad for parameter in own.values()):
        return ()
    return tuple(
        sorted(
            name
            for name, parameter in own.items()
            if not parameter.requires_grad and name in tensors and _is_same(parameter, tensors[name])
        )
    )


def _is_same(parameter: torch.Tensor, tensor: torch.Tensor) -> bool:
    return (
        parameter.data_ptr() == tensor.data_ptr()
        and parameter.shape == tensor.shape
        and parameter.dtype == tensor.dtype
    )


def check_some_trained(model: torch.nn.Module) -> None:
    """Refuse a model that has parameters, and trains none of them.

    Raises:
        PlanError: it says what to do.
    """
    names = [name for name, _ in model.named_parameters()]
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise PlanError(
            f"every parameter of the model is frozen ({len(names)}, such as {names[0]}), so that there is nothing to "
            f"train: freeze in init_model what stays as it is, and leave the rest with requires_grad=True{_adapters(model)}; "
            "a plan that thaws parameters later takes Job(share='all')"
        )


def why_no_gradient(model: torch.nn.Module) -> str:
    """Return why a loss may have no gradient, and what to do."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return f"every parameter of the model is frozen: leave requires_grad=True for what is trained{_adapters(model)}"
    if merged := [name for name, module in model.named_modules() if getattr(module, "merged", False) is True]:
        return (
            f"the adapter of {merged[0]} is merged into its layer, and the layer is frozen: merge adapters after the "
            "training, not in init_model"
        )
    return "compute it from what the model gives, without detach() and torch.no_grad()"


def _adapters(model: torch.nn.Module) -> str:
    """Return what else is to be done for adapters of `peft`; empty for a model without."""
    if hasattr(model, "peft_config"):
        return " (adapters are frozen by LoraConfig(inference_mode=True) and by PeftModel.from_pretrained without is_trainable=True)"
    return ""


def part_of(
    model: torch.nn.Module, names: Collection[str], files: Iterable[Mapping[str, torch.Tensor]]
) -> FrozenPart:
    """Return the frozen part of a model, with the values that have to be sent.

    Args:
        names: of the frozen parameters.
        files: what every node has already.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    known = [tensor for file in files for tensor in file.values()]
    sent: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name in sorted(names):
        parameter = own[name]
        if id(parameter) not in seen and not _is_among(parameter, known):
            sent[name] = parameter.detach()
        seen.add(id(parameter))
    return FrozenPart(sent, tuple(sorted(set(names) - set(sent))))


def _is_among(tensor: torch.Tensor, tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether a tensor is equal to another one bit by bit."""
    return any(
        other.shape == tensor.shape
        and other.dtype == tensor.dtype
        and torch.equal(_bits(other), _bits(tensor))
        for other in tensors
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)


def save_frozen(part: FrozenPart, path: Path) -> None:
    """Write the file of a model's frozen part."""
    save_params(part.sent, path, {_ELSEWHERE: json.dumps(part.elsewhere)})


def read_frozen(path: Path) -> FrozenPart:
    """Open the file of a model's frozen part; its tensors are mapped into memory.

    Raises:
        DecodeError: it is none.
    """
    sent = FileParams(path)
    try:
        elsewhere = json.loads(read_metadata(path)[_ELSEWHERE])
    except (KeyError, ValueError) as error:
        raise DecodeError(f"{path.name} is no file of frozen parameters") from error
    if not isinstance(elsewhere, list) or not all(isinstance(name, str) for name in elsewhere):
        raise DecodeError(f"{path.name} is no file of frozen parameters")
    return FrozenPart(sent, tuple(elsewhere))


def whole(params: Mapping[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return trained parameters together with the frozen ones of the model that they are in.

    Tensors of one storage are given once for each of their names.
    """
    own = model.state_dict()
    return {**{name: own[name].detach() for name in own if name not in params}, **params}
