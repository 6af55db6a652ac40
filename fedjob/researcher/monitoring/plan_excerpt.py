"""The lines of a plan at which nodes failed, with the failing one marked: notes of the error that ends a job.

A node names the class of an error and numbers of lines, and never lines of its own: what is shown is the text that the
researcher's job holds.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fedjob.common.errors import FedjobError
from fedjob.training_plans.source.plan_source import PLAN_FILENAME, PlanSource, line_words

_AT_LINES = re.compile(
    r"(?:(?P<nodes>[\w.:-]+(?:, [\w.:-]+)*(?: and \d+ more)?): \w+: )?"
    r"(?P<kind>\w+) at plan line (?P<lines>\d{1,7}(?:, \d{1,7})*)"
)
"""What `where` of a node says, behind the nodes and the reason that they are left out for."""

_AROUND = 1
_MAX_EXCERPTS = 3
_MAX_NODES = 5
_MAX_LINE = 140


@contextmanager
def excerpts_added(source: PlanSource) -> Iterator[None]:
    """Add to an error that ends a job the lines of its plan at which nodes failed."""
    try:
        yield
    except FedjobError as error:
        for excerpt in excerpts_of(error, source):
            error.add_note(excerpt)
        raise


def excerpts_of(error: BaseException, source: PlanSource) -> list[str]:
    """Return the excerpts of a plan that an error is about: one for each place, with its nodes."""
    places: dict[tuple[str, int], list[str]] = {}
    unnamed: dict[tuple[str, int], int] = {}
    for found in _AT_LINES.finditer(str(error)):
        place = found["kind"], int(found["lines"].rpartition(", ")[2])
        names, _, more = (found["nodes"] or "").partition(" and ")
        places.setdefault(place, []).extend(filter(None, names.split(", ")))
        unnamed[place] = unnamed.get(place, 0) + int(more.partition(" ")[0] or 0)
    own = error.__cause__
    if not places and own is not None:
        lines = [
            frame.lineno or 0
            for frame in traceback.extract_tb(own.__traceback__)
            if frame.filename.startswith(PLAN_FILENAME)
        ]
        if lines:
            places[type(own).__name__, lines[-1]] = []
    rows = source.text.splitlines()
    return [
        _excerpt(place, sorted(nodes), unnamed.get(place, 0), rows, source)
        for place, nodes in list(places.items())[:_MAX_EXCERPTS]
        if 0 < place[1] <= len(rows)
    ]


def _excerpt(
    place: tuple[str, int], nodes: list[str], num_unnamed: int, rows: list[str], source: PlanSource
) -> str:
    """Return the excerpt of one place.

    Args:
        place: the class of the error, and the line of the plan.
        num_unnamed: nodes that failed there, too, beside those that are named.
    """
    kind, line = place
    num_more = max(len(nodes) - _MAX_NODES, 0) + num_unnamed
    more = f" and {num_more} more" if num_more else ""
    at = f" at {', '.join(nodes[:_MAX_NODES])}{more}" if nodes else ""
    label, _ = _origin(line, source)
    shown = [
        number
        for number in range(max(1, line - _AROUND), min(len(rows), line + _AROUND) + 1)
        if _origin(number, source)[0] == label
    ]
    width = max(len(str(_origin(number, source)[1])) for number in shown)
    lines = [
        f"{'---->' if number == line else '     '} {_origin(number, source)[1]:>{width}} "
        f"{rows[number - 1][:_MAX_LINE]}".rstrip()
        for number in shown
    ]
    return "\n".join([f"{kind}{at} in {line_words(line, source.origins)}:", *lines])


def _origin(line: int, source: PlanSource) -> tuple[str, int]:
    """Return the user's file or cell and the line there; the plan's own line with no name where that is not known."""
    known = source.origins[line - 1] if line <= len(source.origins) else ("", 0)
    return known if known[0] else ("", line)
