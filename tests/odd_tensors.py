"""A linear network beside parameters and buffers of every odd kind that a torch model may have."""

from __future__ import annotations

import torch

from fedjob import TorchPlan

KINDS = (
    "scalar",
    "empty",
    "double",
    "half",
    "bfloat",
    "whole",
    "normalised",
    "zeros",
    "constant",
    "huge",
    "denormal",
    "transposed",
    "strided",
    "tied",
    "unused",
    "frozen",
    "long",
)
"""Of tensors that every job takes, whatever its protocol and its compressor."""

NUM_UPDATES = 3
LONG = "n" * 200


class OddTensors(TorchPlan):
    """The network of `model_args["kinds"]`; each trained tensor is part of the loss."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return Network(model_args["kinds"].split())

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0])[:, 0], batch[1])


class Network(torch.nn.Module):
    """Two layers, and tensors of some kinds beside them."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 80), torch.nn.Linear(80, 1)
        self.added = []
        for kind in kinds:
            getattr(self, f"_add_{kind}")()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.body(inputs)
        if hasattr(self, "normalised"):
            hidden = self.normalised(hidden)
        if self.training and hasattr(self, "steps"):
            for name in self.whole:
                getattr(self, name).add_(2)
            self.steps += 2
        found: torch.Tensor = self.head(torch.tanh(hidden))
        for name in self.added:
            found = found + 0.01 * getattr(self, name).float().square().mean()
        return found

    def _add(self, name: str, value: torch.Tensor, *, used: bool = True) -> None:
        self.register_parameter(name, torch.nn.Parameter(value))
        self.added += [name] if used else []

    def _add_scalar(self) -> None:
        self._add("scalar", torch.tensor(0.5))
        self._add("one", torch.tensor([0.5]))

    def _add_empty(self) -> None:
        self._add("empty", torch.zeros(0), used=False)
        self._add("flat", torch.zeros(3, 0), used=False)
        self.register_buffer("none", torch.zeros(0, 2, dtype=torch.int64))

    def _add_double(self) -> None:
        self._add("double_ones", torch.linspace(-1, 1, 100, dtype=torch.float64))

    def _add_half(self) -> None:
        self._add("half_ones", torch.linspace(-1, 1, 100).half())

    def _add_bfloat(self) -> None:
        self._add("bfloat_ones", torch.linspace(-1, 1, 100).bfloat16())

    def _add_whole(self) -> None:
        dtypes = {
            "i64": torch.int64,
            "i32": torch.int32,
            "i16": torch.int16,
            "i8": torch.int8,
            "u8": torch.uint8,
        }
        self.whole = list(dtypes)
        for name, dtype in dtypes.items():
            self.register_buffer(name, torch.ones(70, dtype=dtype))
        self.register_buffer("mask", torch.arange(70) % 2 == 0)
        self.register_buffer("steps", torch.tensor(0))

    def _add_normalised(self) -> None:
        self.normalised = torch.nn.BatchNorm1d(80)

    def _add_zeros(self) -> None:
        self._add("zeros", torch.zeros(100))

    def _add_constant(self) -> None:
        self._add("constant", torch.full((100,), 3.25))

    def _add_huge(self) -> None:
        self._add("huge", torch.full((100,), 1e38), used=False)

    def _add_denormal(self) -> None:
        self._add("denormal", torch.full((100,), 1e-41), used=False)

    def _add_transposed(self) -> None:
        self._add("transposed", torch.linspace(-1, 1, 120).reshape(10, 12).t())

    def _add_strided(self) -> None:
        self._add("strided", torch.linspace(-1, 1, 200)[::2])

    def _add_tied(self) -> None:
        self.tied = torch.nn.Linear(4, 80)
        self.tied.weight = self.body.weight

    def _add_unused(self) -> None:
        self._add("unused", torch.linspace(-1, 1, 100), used=False)

    def _add_frozen(self) -> None:
        self._add("frozen", torch.linspace(-1, 1, 100), used=False)
        self.frozen.requires_grad_(False)

    def _add_long(self) -> None:
        self._add(LONG, torch.linspace(-1, 1, 100))

    def _add_infinite(self) -> None:
        self._add("infinite", torch.tensor([torch.inf] * 100), used=False)

    def _add_masked(self) -> None:
        self.register_buffer("masked", torch.tensor([0.0, -torch.inf]))

    def _add_expanded(self) -> None:
        self._add("expanded", torch.zeros(1, 4).expand(3, 4))

    def _add_overlapping(self) -> None:
        whole = torch.zeros(100)
        self._add("left", whole[:60])
        self._add("right", whole[40:])

    def _add_complex(self) -> None:
        self._add("complex", torch.ones(100, dtype=torch.complex64), used=False)

    def _add_accented(self) -> None:
        self._add("gr\u00f6\u00dfe", torch.ones(100))
