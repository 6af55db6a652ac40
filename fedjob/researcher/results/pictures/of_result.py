"""The picture of a result that is asked for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import shown
from fedjob.common.errors import NotReady, SpecError
from fedjob.common.lifecycle import HISTORY, State
from fedjob.protocols.analytics.survival.breslow import BASELINE, need_baseline
from fedjob.researcher.results.pictures.analysis import pictures_of
from fedjob.researcher.results.pictures.classification import draw_calibration, draw_confusion, draw_roc
from fedjob.researcher.results.pictures.figure import saved
from fedjob.researcher.results.pictures.history import plot_history
from fedjob.researcher.results.pictures.measured_states import states_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.measurements import Measurement
    from fedjob.researcher.storage.record import JobRecord
    from fedjob.researcher.storage.spec import Component

    class Measured(Protocol):
        """A result, as far as it is drawn."""

        @property
        def rows(self) -> tuple[Measurement, ...]: ...

        @property
        def tables(self) -> Mapping[str, Any]: ...

        @property
        def kind(self) -> str: ...

        @property
        def value(self) -> Any: ...


OF_STATES = {
    "roc": ("roc_auc", "auc", draw_roc),
    "calibration": ("roc_auc", "auc", draw_calibration),
    "confusion": ("confusion_matrix", "confusion", draw_confusion),
}
"""Name of a picture -> the metric that it needs, the kind of its states, and what draws it."""


PARTICIPATION = "participation"
"""The picture of a job that its result alone does not have."""


def picture_of(
    result: Measured,
    folder: JobFolder,
    protocol: Component,
    what: str | Sequence[str] | None,
    round_: int | None,
    rows: Any,
) -> Any:
    """Return the figure; see `JobResult.plot`."""
    if what == PARTICIPATION:
        raise SpecError('who took part in which round is drawn by the job: job.plot("participation")')
    if result.rows or result.kind == "params":
        if rows is not None:
            raise SpecError(
                "rows= is for the survival that a Cox regression predicts, not for what was measured"
            )
        return picture_of_measured(result.rows, folder, what, round_)
    if what == "survival" or rows is not None:
        need_baseline(result.value, protocol.name)
    pictures = pictures_of(result.tables, result.value, protocol.name, protocol.config, rows)
    if what is None:
        what = "survival" if rows is not None and "survival" in pictures else next(iter(pictures))
    if round_ is not None:
        raise SpecError(
            f"round= is for {', '.join(OF_STATES)}; of this result there are {', '.join(pictures)}"
        )
    if rows is not None and (what != "survival" or BASELINE not in result.tables):
        raise SpecError(
            f"rows= is for the survival that a Cox regression predicts; of this result there are {', '.join(pictures)}"
        )
    if not isinstance(what, str) or what not in pictures:
        raise SpecError(
            f"there is no picture {shown(what)} of this result: there are {', '.join(pictures)}, and of the job "
            f"{PARTICIPATION}"
        )
    return pictures[what]()


def has_picture(result: Measured, protocol: Component) -> bool:
    """Tell whether there is a picture of a result, without drawing it."""
    if result.rows or result.kind == "params":
        return bool(result.rows)
    try:
        return bool(pictures_of(result.tables, result.value, protocol.name, protocol.config))
    except SpecError:
        return False


def picture_of_measured(
    rows: Sequence[Measurement], folder: JobFolder, what: str | Sequence[str] | None, round_: int | None
) -> Any:
    """Return the figure of what was measured in rounds: metrics, or what is drawn from their states."""
    if isinstance(what, str) and what in OF_STATES:
        metric, kind, draw = OF_STATES[what]
        return draw(states_of(folder, rows, metric, kind, round_))
    if round_ is not None:
        raise SpecError(
            f"round= is for the pictures {', '.join(OF_STATES)}, not for {what or 'metrics over the rounds'}"
        )
    return plot_history(rows, [what] if isinstance(what, str) else what)


def picture_so_far(
    folder: JobFolder,
    record: JobRecord,
    rows: Sequence[Measurement],
    what: str | Sequence[str] | None,
    path: str | Path | None,
    round_: int | None,
) -> Any:
    """Return the figure of what a job without a result has measured so far, saved where a path is given.

    Raises:
        NotReady: nothing was measured.
    """
    if rows:
        return saved(picture_of_measured(rows, folder, what, round_), path)
    why = f" ({record.reason}: {record.detail})" if record.reason else ""
    if record.state in HISTORY:
        then = "it has no result to draw"
    elif record.state == State.DRAFT:
        then = "it has no result to draw yet: job.run() starts it"
    else:
        then = "it has no result to draw yet: job.wait() waits for it"
    raise NotReady(
        f"{folder.path.name} is {record.state}{why}, and nothing was measured: {then}. "
        f'job.plot("{PARTICIPATION}") draws who took part once a round is completed',
        id=folder.path.name,
        state=record.state,
    )
