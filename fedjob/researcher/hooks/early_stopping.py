"""Early stopping: a hook that ends the job when a metric has stopped getting better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.measurements import lower_is_better, series


@dataclass(frozen=True)
class EarlyStopping(Hook):
    """Stop after `patience` rounds without an improvement of more than `min_delta`.

    Args:
        metric: a name in the history, combined over all nodes.
        mode: `min` or `max`; None decides by the metric.
        phase: as in the history; None for the phase that measures the shared parameters best.
    """

    metric: str = "loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: str | None = None
    phase: str | None = None
    name: ClassVar[str] = "early_stopping"

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.patience < 1:
            raise SpecError(f"EarlyStopping(patience=...) takes 1 or more rounds, not {shown(self.patience)}")
        if self.mode not in (None, "min", "max"):
            raise SpecError(f"EarlyStopping(mode=...) takes 'min', 'max' or None, not {shown(self.mode)}")

    def round_done(self, report: RoundReport) -> str | None:
        values = list(series(report.position.rows, self.metric, self.phase).values())
        if not values:
            known = sorted({row.metric for row in report.position.rows})
            raise SpecError(
                f"EarlyStopping watches {shown(self.metric)}, but the rounds measure {', '.join(known)}"
            )
        down = self.mode == "min" or (self.mode is None and lower_is_better(self.metric))
        scores = [-value for value in values] if down else values
        best, since = scores[0], 0
        for score in scores[1:]:
            if score > best + self.min_delta:
                best, since = score, 0
            else:
                since += 1
        if since >= self.patience:
            return f"{self.metric} has not improved for {since} rounds (best {-best if down else best:.4g})"
        return None
