"""The steps of a private training of a torch model: sample, bound, add noise, and let the plan's optimizer step.

DP-SGD, Abadi et al. 2016, algorithm 1, https://arxiv.org/abs/1607.00133. What a protocol adds to the gradients, and
whatever the optimizer does with them, comes after the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedjob.training_plans.private import record_gradients
from fedjob.training_plans.private.record_gradients import RecordGradients
from fedjob.training_plans.private.step_draws import Contents, StepDraws, step_draws
from fedjob.training_plans.private.torch_checks import HeldTensors, trained_parameters
from fedjob.training_plans.private.training import PrivateTraining
from fedjob.training_plans.private.unchanged import Watch
from fedjob.training_plans.together.loss_step import Loss

Rows = np.ndarray[Any, np.dtype[np.int64]]


def num_bytes_held(sizes: Collection[int], records: int) -> int:
    """Return the bytes that a private training takes at most beside the model and its gradients.

    These are a copy of the model, the sums with noise, and the sum of the gradients of a step's records.

    Args:
        sizes: of the trained parameters, in bytes.
        records: of one step.
    """
    noisy = 2 * sum(sizes)  # float64
    return sum(sizes) + noisy + record_gradients.num_bytes_held(sizes, records)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSteps:
    """The steps of a private training, and what they work with.

    Args:
        trained: name -> parameter.
        draws: of the rows of each step, and of its noise. A sum is divided by the expected size of a sample whatever the
            plan's loss does with a batch, because the loss of one record is its mean and its sum, and a divisor that was
            found by looking at losses would tell of them.
        records: returns batches of one record each, for rows in their order.
        adjust: called with the model when it has its noisy gradients; None for nothing.
        held: the model as the last step left it.
        watch: refuses steps that change what they must not.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    trained: Mapping[str, torch.nn.Parameter]
    gradients: RecordGradients
    draws: StepDraws
    records: Callable[[Iterable[Rows]], Iterator[Any]]
    adjust: Callable[[Any], None] | None
    held: HeldTensors
    watch: Watch

    def run(self, private: PrivateTraining) -> None:
        """Take all steps of the terms.

        Raises:
            NotPrivate: a step changed what it must not.
        """
        terms = private.terms
        samples = [self.draws.chosen() for _ in range(terms.steps)]
        records = self.records(row.reshape(1) for sample in samples for row in sample)
        held = self.held
        for number, sample in enumerate(samples, 1):
            try:
                total = self.gradients.total(records, len(sample))
            finally:  # what was changed is the cause of what else is wrong
                held.check()
                self.watch.check()
            self._give(total, terms.sample_size)
            if self.adjust is not None:
                self.adjust(self.model)
            self.optimizer.step()
            held.take()
            private.progress(number, terms.steps)
        self.model.zero_grad(set_to_none=True)

    def _give(self, total: Mapping[str, torch.Tensor], sample_size: float) -> None:
        """Give the model the gradients of a step, with noise."""
        self.model.zero_grad(set_to_none=True)
        sums = [total[name].flatten().cpu().numpy() for name in self.trained]
        for parameter, noisy in zip(self.trained.values(), self.draws.noisy(sums), strict=True):
            gradient = torch.from_numpy(noisy / sample_size).reshape(parameter.shape)
            parameter.grad = gradient.to(parameter.device, parameter.dtype)


def train_privately(
    private: PrivateTraining,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    rows: Rows,
    records: Callable[[Iterable[Rows]], Iterator[Any]],
    contents: Contents,
    adjust: Callable[[Any], None] | None,
    watch: Watch,
) -> None:
    """Take the steps of a private training, see `PrivateSteps`.

    Args:
        rows: of the training split.
        records: returns batches, for arrays of rows in their order.
        contents: of the examples.

    Raises:
        NotPrivate: a step changed what it must not.
    """
    trained = trained_parameters(model, optimizer)
    PrivateSteps(
        model=model,
        optimizer=optimizer,
        trained=trained,
        gradients=RecordGradients(model, trained, loss, private.terms.max_grad_norm),
        draws=step_draws(private, rows, contents),
        records=records,
        adjust=adjust,
        held=HeldTensors(model),
        watch=watch,
    ).run(private)
