"""The picture of a result that is asked for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.analysis import plot_tables
from fedjob.researcher.results.pictures.classification import draw_calibration, draw_confusion, draw_roc
from fedjob.researcher.results.pictures.history import plot_history
from fedjob.researcher.results.pictures.measured_states import states_of

if TYPE_CHECKING:
    from typing import Protocol

    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.measurements import Measurement
    from fedjob.researcher.storage.spec import Component

    class Measured(Protocol):
        """A result, as far as it is drawn."""

        @property
        def rows(self) -> tuple[Measurement, ...]: ...

        @property
        def tables(self) -> Mapping[str, Any]: ...

        @property
        def kind(self) -> str: ...


OF_STATES = {
    "roc": ("roc_auc", "auc", draw_roc),
    "calibration": ("roc_auc", "auc", draw_calibration),
    "confusion": ("confusion_matrix", "confusion", draw_confusion),
}
"""Name of a picture -> the metric that it needs, the kind of its states, and what draws it."""


def picture_of(
    result: Measured,
    folder: JobFolder,
    protocol: Component,
    what: str | Sequence[str] | None,
    round_: int | None,
) -> Any:
    """Return the figure; see `JobResult.plot`."""
    if isinstance(what, str) and what in OF_STATES:
        metric, kind, draw = OF_STATES[what]
        return draw(states_of(folder, result.rows, metric, kind, round_))
    if round_ is not None:
        raise SpecError(
            f"round= is for the pictures {', '.join(OF_STATES)}, not for {what or 'metrics over the rounds'}"
        )
    if result.rows or result.kind == "params":
        names = [what] if isinstance(what, str) else what
        return plot_history(result.rows, names)
    if what is not None:
        raise SpecError(
            f"nothing was measured in rounds: this result has one picture, plot() without {what!r}"
        )
    return plot_tables(result.tables, protocol.name, protocol.config)
