"""The sum of the bounded gradients of single records, each computed from that record alone.

Opacus and its like take the gradients of records out of the gradient of a batch, which are what they claim only if
no record's loss depends on another record. Here the loss is computed of one record after the other, vectorised by
`torch.func` where the plan's code bears it, so that no loss, layer or collation that couples the records of a batch
can break the bound on what one record changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.func import grad, vmap

from fedjob.common.errors import PlanError
from fedjob.training_plans.together.loss_step import Loss, LossStep, stacked, without_advice

MAX_BYTES = 128 * 2**20
"""Of the gradients of records that are held at once."""

MAX_RECORDS = 256


def num_bytes_held(sizes: Collection[int], records: int) -> int:
    """Return the bytes that the sum of the gradients of records takes at most, without what the model computes for them.

    Args:
        sizes: of the trained parameters, in bytes; taken for float32, so that float64 of one has twice as many.
        records: of one sum.
    """
    width, largest = sum(sizes), max(sizes, default=0)
    found = width + 2 * width  # gradients as they are, and as float64
    norms = 2 * 2 * largest  # by the largest number, and squared, one parameter after the other
    return min(records, _at_once(width)) * (found + norms) + 2 * width


class RecordGradients:
    """Sums of the gradients of records, each scaled to a norm of at most `bound`.

    Args:
        trained: name in the model -> parameter; the norm is that over all of them, computed in float64.
        loss: of a batch of one record.
        bound: above 0.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        trained: Mapping[str, torch.nn.Parameter],
        loss: Loss,
        bound: float,
    ) -> None:
        self._model, self._trained, self._loss, self._bound = model, dict(trained), loss, bound
        self._step = LossStep(model, loss)
        self.vectorised = True
        """Whether records are computed together; False once the plan's code did not bear it."""
        self.ignored = 0
        """Records so far whose gradient was not finite; they count as zero, so that they tell nothing."""
        self._at_once = _at_once(sum(p.numel() * p.element_size() for p in self._trained.values()))

    def total(self, records: Iterator[Any], count: int) -> dict[str, torch.Tensor]:
        """Return the sum over the next `count` records, float64 by parameter, in the parameters' shapes.

        Args:
            records: batches of one record each.
        """
        sums = {
            name: torch.zeros(p.shape, dtype=torch.float64, device=p.device)
            for name, p in self._trained.items()
        }
        left = count
        while left:
            part = list(islice(records, min(left, self._at_once)))
            if not part:
                raise PlanError("training_data gave fewer examples than it has by its length")
            self._add(sums, part)
            left -= len(part)
        return sums

    def _add(self, sums: dict[str, torch.Tensor], part: list[Any]) -> None:
        if self.vectorised and len(part) > 1:
            batch = stacked(part)
            found = None if batch is None else self._together(batch)
            if found is not None:
                self._bounded(sums, found)
                return
        for record in part:
            self._bounded(sums, self._alone(record))

    def _together(self, records: Any) -> dict[str, torch.Tensor] | None:
        """Return the gradients of records that were stacked; None where the plan's code can't be vectorised."""

        values = {name: p.detach() for name, p in self._trained.items()}
        try:
            with without_advice():
                found = vmap(grad(self._step.at), in_dims=(None, 0), randomness="different")(values, records)
        except Exception:  # whatever it was, one record after the other shows it as the plan's own error
            self.vectorised = False
            return None
        return dict(found)

    def _alone(self, record: Any) -> dict[str, torch.Tensor]:
        """Return the gradient of one record, with a first dimension of 1."""
        loss = self._loss(self._model, record)
        if not loss.requires_grad:
            return {name: torch.zeros_like(p).unsqueeze(0) for name, p in self._trained.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(loss, list(self._trained.values()), allow_unused=True)
        return {
            name: (torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g).unsqueeze(0)
            for (name, p), g in zip(self._trained.items(), found, strict=True)
        }

    def _bounded(self, sums: dict[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
        """Add gradients, records first, each scaled to the bound."""
        norms = _norms([_rows(g).double() for g in found.values()])
        finite = torch.isfinite(norms)
        factors = self._bound / norms.clamp(min=self._bound)
        kept = finite.nonzero().flatten()
        self.ignored += len(finite) - len(kept)
        for name, g in found.items():
            rows = _rows(g) if len(kept) == len(finite) else _rows(g)[kept]
            weights = factors[kept].to(rows.device)
            sums[name] += (weights @ rows.double()).reshape(sums[name].shape)


def _at_once(width: int) -> int:
    """Return of how many records gradients of so many bytes are held at once."""
    return max(1, min(MAX_RECORDS, MAX_BYTES // max(1, width)))


def _rows(gradients: torch.Tensor) -> torch.Tensor:
    """Return a parameter's gradients as one row a record; a parameter without axes, such as a temperature, has rows of one."""
    return gradients.detach().unsqueeze(-1).flatten(1)


def _norms(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm of each row over all parts, by its largest number: squares of tiny or huge ones would be lost."""
    device = parts[0].device
    peaks = torch.stack([_peaks(part).to(device) for part in parts]).amax(0)
    by = torch.where(peaks > 0, peaks, 1.0)
    squares = [(part / by.to(part.device)[:, None]).square().sum(1).to(device) for part in parts]
    return torch.stack(squares).sum(0).sqrt() * by


def _peaks(part: torch.Tensor) -> torch.Tensor:
    return part.abs().amax(1) if part.shape[1] else part.new_zeros(len(part))
