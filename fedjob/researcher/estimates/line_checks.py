"""The check of the lines of a job's parties, as they are now: each sends a made-up object to the hub and fetches it again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fedjob.repository.line_check import LEAST_CHECK_BYTES, MAX_CHECK_BYTES, LineCheck, check_line
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.lines import OWN, WAYS, LineLedger, LineMeasure
from fedjob.researcher.federation.offers import Checks, NodeAnswer, ask_nodes
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

WITHIN_S = 120.0
"""Seconds that nodes have at least to answer whose lines are checked."""
_AIM_S = 0.25
"""Seconds that the object of a check takes about, over the researcher's line."""


def check_lines(session: Connection, spec: JobSpec, folder: JobFolder, timeout_s: float) -> Checks:
    """Time the researcher's line, then those of all nodes at once; note it in the home, and return the nodes' answers.

    A node whose owner does not let speeds be known is not timed.

    Args:
        timeout_s: after which a node counts as silent; `WITHIN_S` at least.

    Raises:
        RepositoryError: the hub does not take or give objects.
    """
    scratch = folder.path
    found = check_line(session.repository, scratch, (), LEAST_CHECK_BYTES)
    wanted = int(_AIM_S * found.size_bytes / max(found.down_s, found.up_s))
    size_bytes = max(LEAST_CHECK_BYTES, min(wanted, MAX_CHECK_BYTES))
    if size_bytes > 2 * LEAST_CHECK_BYTES:
        found = check_line(session.repository, scratch, (), size_bytes)
    answers = ask_nodes(
        session, spec, folder, dry=True, timeout_s=max(timeout_s, WITHIN_S), line_bytes=size_bytes
    )
    session.repository.meter.take()  # the checks themselves are not to count once more
    LineLedger(session.home).add(_measures(found, answers))
    return answers


def _measures(own: LineCheck, answers: Iterable[NodeAnswer]) -> list[LineMeasure]:
    """Return the measures of all lines that were timed."""
    size, now = own.size_bytes, time.time()
    seconds = {(OWN, "down"): own.down_s, (OWN, "up"): own.up_s}
    for answer in answers:
        for way in WAYS:
            if rate := answer.speed.get(f"{way}_bytes_s"):
                seconds[answer.node, way] = size / rate
    return [
        LineMeasure(party=party, way=way, size_bytes=size, seconds=took, at=now)
        for (party, way), took in seconds.items()
    ]
