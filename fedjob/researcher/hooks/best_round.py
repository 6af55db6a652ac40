"""A hook that keeps the parameters of the round with the best value of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.common.files import link_durably, replace_durably
from fedjob.parameters.files import FileParams, save_params
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import lower_is_better, series
from fedjob.researcher.storage.position import Position

_FILE = "best.safetensors"


@dataclass
class KeepBest(Hook):
    """Keep `result/best.safetensors`: the shared parameters with the best value so far.

    A metric of phase `before` (see `test_on_global_updates`) was measured on the
    parameters that the round began with, so it is those that are kept; any
    other phase judges the parameters that the round ended with.

    Args:
        metric: a name in the history, combined over all nodes.
        mode: `min` or `max`; None decides by the metric.
        phase: as in the history.
    """

    metric: str = "loss"
    mode: str | None = None
    phase: str = "after"
    name: ClassVar[str] = "keep_best"
    _target: Path | None = field(default=None, init=False, repr=False)
    _previous: FileParams | Mapping[str, object] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.mode not in (None, "min", "max"):
            raise SpecError(f"KeepBest(mode=...) takes 'min', 'max' or None, not {shown(self.mode)}")

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._target = folder.result / _FILE
        self._previous = position.state.get("params")
        if _FILE in extras and not self._target.exists():
            _put(extras[_FILE], self._target)

    def round_done(self, report: RoundReport) -> str | None:
        params = report.position.state.get("params")
        judged, self._previous = (self._previous if self.phase == "before" else params), params
        values = series(report.position.rows, self.metric, self.phase)
        if not values:
            measured = {(row.metric, row.phase) for row in report.position.rows}
            found = ", ".join(f"{metric} ({phase})" for metric, phase in sorted(measured))
            raise SpecError(
                f"KeepBest watches {shown(self.metric)} in phase {shown(self.phase)}, but the rounds measure {found or 'nothing'}: "
                "set test_on_global_updates for phase 'before', test_on_local_updates for 'after'"
            )
        if report.round not in values or judged is None or self._target is None:
            return None
        down = self.mode == "min" or (self.mode is None and lower_is_better(self.metric))
        best = min(values.values()) if down else max(values.values())
        if values[report.round] == best:
            if isinstance(judged, FileParams):
                _put(judged.path, self._target)
            else:
                temporary = self._target.with_suffix(".tmp")
                save_params(judged, temporary)  # type: ignore[arg-type]
                replace_durably(temporary, self._target)
        return None

    def files(self) -> Mapping[str, Path]:
        return {} if self._target is None or not self._target.exists() else {_FILE: self._target}


def _put(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    link_durably(source, temporary)
    replace_durably(temporary, target)
