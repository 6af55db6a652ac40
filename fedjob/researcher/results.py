"""What a job is for: the trained parameters, the model, the history, a plot."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import NotReady, SpecError
from fedjob.common.params import save_params
from fedjob.researcher.history import OVERALL, Measurement, to_frame
from fedjob.researcher.position import Position

if TYPE_CHECKING:
    import torch

    from fedjob.common.plans.base import TrainingPlan


class JobResult:
    """The result of a completed job.

    Args:
        build: builds the plan from the job's own text, with these parameters in it.
    """

    def __init__(self, value: Any, position: Position, build: Any, best_path: Path | None) -> None:
        self._value = value
        self._position = position
        self._build = build
        self._best_path = best_path

    @property
    def value(self) -> Any:
        """What the protocol returned; for training, the parameters."""
        return self.params if isinstance(self._value, Mapping) else self._value

    @property
    def params(self) -> dict[str, torch.Tensor]:
        """The trained parameters, name -> tensor, in memory."""
        if not isinstance(self._value, Mapping):
            raise NotReady("this job's result has no parameters; look at .value")
        return {name: self._value[name].clone() for name in self._value}

    @property
    def best(self) -> dict[str, torch.Tensor]:
        """The parameters that the `KeepBest` hook kept."""
        if self._best_path is None or not self._best_path.exists():
            raise NotReady("no best round was kept: give the job hooks=[KeepBest('loss')]")
        from fedjob.common.params import FileParams

        kept = FileParams(self._best_path)
        return {name: kept[name].clone() for name in kept}

    @property
    def rows(self) -> tuple[Measurement, ...]:
        """Everything measured, as plain rows."""
        return self._position.rows

    @property
    def history(self) -> Any:
        """Everything measured: a DataFrame of round, phase, metric, node, value, num_examples."""
        return to_frame(self._position.rows)

    def plan(self) -> TrainingPlan:
        """Return the training plan, built, with the trained parameters in it."""
        plan: TrainingPlan = self._build(self.params)
        return plan

    def model(self) -> Any:
        """Return the trained model: a `torch.nn.Module`, or the scikit-learn estimator."""
        plan: Any = self.plan()
        return plan.model

    def save(self, path: str | Path) -> Path:
        """Write the parameters as a safetensors file and return its path."""
        target = Path(path)
        if target.is_dir():
            target = target / "model.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_params(self.params, target)
        return target

    def plot(self, metrics: list[str] | None = None, path: str | Path | None = None) -> Any:
        """Draw each metric over the rounds, every node thin and all together thick.

        Args:
            metrics: None for all.
            path: also save a PNG there.

        Returns:
            A matplotlib figure.
        """
        return plot_history(self._position.rows, metrics, path)

    def __repr__(self) -> str:
        last = _last_values(self._position.rows)
        measured = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        return f"<JobResult of {self._position.round} rounds{': ' + measured if measured else ''}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>"
            for name, value in _last_values(self._position.rows).items()
        )
        return (
            f"<b>Result after {self._position.round} rounds</b>"
            f"<table><tr><th>metric</th><th>all nodes</th></tr>{rows}</table>"
        )


def _last_values(rows: tuple[Measurement, ...]) -> dict[str, float]:
    return {f"{row.metric} ({row.phase})": row.value for row in rows if row.node == OVERALL}


_PANELS = {
    "shared model": {"before": -1, "validate": 0},
    "local models, after training": {"after": 0},
    "during local training": {"train": 0},
}
"""Title -> the phases drawn in it, and how their rounds are shifted: what is measured before round 5
is the model of 4 rounds."""


def _figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that a notebook shows by itself, whatever its backend."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return Plot(figsize=(width, height), layout="constrained")


def plot_history(rows: tuple[Measurement, ...], metrics: list[str] | None, path: str | Path | None) -> Any:
    """Draw the history; see `JobResult.plot`."""
    from matplotlib.ticker import MaxNLocator

    names = [n for n in dict.fromkeys(row.metric for row in rows) if metrics is None or n in metrics]
    panels = [
        (metric, title, shifts)
        for title, shifts in _PANELS.items()
        for metric in names
        if any(row.metric == metric and row.phase in shifts for row in rows)
    ]
    if not panels:
        known = ", ".join(sorted({row.metric for row in rows})) or "nothing"
        raise SpecError(f"nothing to plot: asked for {metrics}, the history has {known}")
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    figure = _figure(4.6 * wide, 3.4 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    nodes = sorted({row.node for row in rows if row.node != OVERALL})
    for axis, (metric, title, shifts) in zip(axes, panels, strict=False):
        for index, node in enumerate([*nodes, OVERALL]):
            points = sorted(
                (row.round + shifts[row.phase], row.value)
                for row in rows
                if row.metric == metric and row.node == node and row.phase in shifts
            )
            if points:
                overall = node == OVERALL
                axis.plot(
                    *zip(*points, strict=True),
                    label="all nodes" if overall else node,
                    linewidth=2.4 if overall else 1,
                    color="black" if overall else f"C{index}",
                    alpha=1 if overall else 0.75,
                    marker="o" if len(points) == 1 else None,
                )
        axis.set_title(f"{metric}: {title}", fontsize=9)
        axis.set_xlabel("rounds of training")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if len(nodes) <= 12:
        axes[0].legend(fontsize=7)
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure
