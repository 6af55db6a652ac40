"""The demo's display of training: a table that grows by a row each round, over a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.terminal.colours import BUSY, rich_style
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.measurements import OVERALL, Measurement

if TYPE_CHECKING:
    from fedjob.researcher.storage.event import JobEvent
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.position import Position
    from fedjob.training_plans.base import TrainingPlan

Cells = dict[str, dict[str, float]]
"""Node (or all) -> metric -> value."""

MAX_NODES_IN_TABLE = 6


def of_shared_model(rows: Sequence[Measurement]) -> dict[int, Cells]:
    """Return the nodes' validation metrics of the shared model, by the number of rounds trained.

    The model of 4 rounds is what the nodes validate before they train in round 5; that of
    the last round is validated once more at the end.
    """
    found: dict[int, Cells] = {}
    for row in rows:
        if row.phase in ("before", "validate"):
            trained = row.round - (row.phase == "before")
            found.setdefault(trained, {}).setdefault(row.node, {})[row.metric] = row.value
    return found


class RoundDisplay(Hook):
    """A hook that draws the rounds in a terminal, and elsewhere prints a line for each."""

    def __init__(self, console: Any, nodes: Sequence[str]) -> None:
        self._console = console
        self._nodes = list(nodes)[:MAX_NODES_IN_TABLE]
        self._shown = 0
        self._live: Any = None
        self._table = self._columns()

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds  {task.description}"),
            console=self._console,
        )
        self._task = self._bar.add_task("asking the nodes", total=rounds)
        if self._console.is_terminal:
            self._live = Live(self._drawn(), console=self._console, refresh_per_second=12)
            self._live.start()
        else:
            self._print([str(column.header) for column in self._table.columns])

    def event(self, event: JobEvent) -> None:
        if self._live is not None and event.type == "ask" and event.round == 1:
            self._bar.update(
                self._task, description="each node starts a process with torch, once: the slowest step"
            )

    def round_done(self, report: RoundReport) -> str | None:
        self._show(report.position.rows)
        self._bar.update(self._task, completed=report.round, description=f"{report.seconds:.2f} s a round")
        return None

    def finish(self, rows: Sequence[Measurement]) -> None:
        """Add the metrics measured after the last round, and leave the table on the screen."""
        self._show(rows)
        if self._live is not None:
            self._live.update(self._table, refresh=True)
            self._live.stop()
            self._live = None

    def end(self, outcome: str) -> None:
        if outcome != "completed" and self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, rows: Sequence[Measurement]) -> None:
        measured = of_shared_model(rows)
        while self._shown in measured:
            cells = [str(self._shown) if self._shown else "start"]
            cells += [_cell(measured[self._shown].get(node, {})) for node in (OVERALL, *self._nodes)]
            self._table.add_row(*cells)
            self._shown += 1
            if self._live is None:
                self._print(cells)

    def _print(self, cells: Sequence[str]) -> None:
        self._console.print(cells[0].rjust(5), *(cell.rjust(12) for cell in cells[1:]), soft_wrap=True)

    def _columns(self) -> Any:
        from rich.table import Table

        table = Table(box=None, header_style="bold", padding=(0, 1))
        table.add_column("round", justify="right")
        table.add_column("all nodes", justify="right", style=f"bold {rich_style(BUSY)}")
        for node in self._nodes:
            table.add_column(node, justify="right")
        return table

    def _drawn(self) -> Any:
        from rich.console import Group

        return Group(self._table, self._bar)


def _cell(values: Mapping[str, float]) -> str:
    if "loss" not in values:
        return "left out"
    return f"{values['loss']:.2f} {values['accuracy']:6.1%}"


class Diary(Hook):
    """A hook that keeps the shared model of every round in memory; it is a small model."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = []

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._write(position)

    def round_done(self, report: RoundReport) -> str | None:
        self._write(report.position)
        return None

    def _write(self, position: Position) -> None:
        params = position.state["params"]
        self.models.append({name: params[name].clone() for name in params})


def examine(diary: Diary, plan: TrainingPlan, test: tuple[Any, Any]) -> list[dict[str, float]]:
    """Return loss and accuracy of the model of every round on a test set that no node has.

    Args:
        test: inputs, float32 `[rows, 64]`, and targets, int64 `[rows]`.
    """
    import torch

    anything: Any = plan
    model = anything.model.eval()
    inputs, targets = (torch.as_tensor(part) for part in test)
    marks = []
    for params in diary.models:
        plan.set_params(params)
        with torch.no_grad():
            scores = model(inputs)
        loss = torch.nn.functional.cross_entropy(scores, targets).item()
        marks.append({"loss": loss, "accuracy": (scores.argmax(1) == targets).double().mean().item()})
    return marks
