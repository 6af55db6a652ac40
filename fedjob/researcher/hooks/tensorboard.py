"""A hook that writes scalars for TensorBoard, per node and round, and live ones as nodes train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.errors import MissingPackage
from fedjob.common.files import PRIVATE, make_folder
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position


@dataclass
class TensorBoard(Hook):
    """Write `<folder>/<node>` runs that TensorBoard shows side by side.

    Args:
        log_dir: None for `tensorboard` in the job's folder.
    """

    log_dir: str | None = None
    name: ClassVar[str] = "tensorboard"
    _writers: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _root: Path = field(default=Path(), init=False, repr=False)
    _steps: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingPackage(
                "the TensorBoard hook needs the extra: pip install 'fedjob[tensorboard]'"
            ) from error
        self._root = Path(self.log_dir) if self.log_dir else folder.path / "tensorboard"

    def round_done(self, report: RoundReport) -> str | None:
        for row in report.rows:
            self._writer(row.node).add_scalar(f"{row.metric}/{row.phase}", row.value, row.round)
        for writer in self._writers.values():
            writer.flush()
        return None

    def event(self, event: JobEvent) -> None:
        if event.type == "metrics" and event.node:
            step = self._steps[event.node] = self._steps.get(event.node, 0) + 1
            for name, value in event.body.items():
                if isinstance(value, float) and name not in ("iteration", "epoch"):
                    self._writer(event.node).add_scalar(f"{name}/live", value, step)

    def end(self, outcome: str) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, node: str) -> Any:
        if node not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._root / node
            if self.log_dir is None:
                make_folder(folder)
            self._writers[node] = SummaryWriter(str(folder))
            if self.log_dir is None:  # in the home
                for path in folder.iterdir():
                    path.chmod(PRIVATE)
        return self._writers[node]
