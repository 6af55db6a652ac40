"""The distribution of the tests over the workers of pytest-xdist: which stay together, and in which order.

A test that starts its federation for itself goes to whichever worker is free. Tests that share a federation
go to one worker, or each worker would start nodes, and import torch in each of them, for itself.
"""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadGroupScheduling

WORKERS_PER_CORE = 3
"""Tests wait for other processes more often than they compute."""
MOST_WORKERS = 16

SHARED = ("rough", "federation")
"""The fixtures of a session that are expensive to make."""

ALONE = (
    "e2e/test_notebooks.py",
    "e2e/test_readme.py",
    "e2e/test_functions_in_scripts.py",
    "e2e/test_hub.py",
    "integration/test_submitted_jobs.py",
    "integration/test_job_commands.py",
    "integration/test_node_limits.py",
    "integration/test_node_notices.py",
    "integration/test_jobs_at_strict_nodes.py",
    "integration/test_jobs_that_do_not_start.py",
)
"""Files whose tests share nothing, and together take longer than one worker should be busy with a file."""

LONGEST_FIRST = (
    "e2e/test_deaths.py",
    "e2e/test_resume.py",
    "e2e/test_notebooks.py",
    "e2e/test_node_kills.py",
    "e2e/test_hospitals.py",
    "e2e/test_bad_input.py",
    "e2e/test_commands.py",
    "e2e/test_same_bytes.py",
    "e2e/test_life.py",
    "e2e/test_readme.py",
    "integration/test_flamby_heart.py",
    "e2e/",
    "integration/",
)
"""No worker may begin with something long when the others are about to end."""


def num_workers() -> int:
    """Return how many workers `-n auto` starts."""
    return min(MOST_WORKERS, WORKERS_PER_CORE * len(os.sched_getaffinity(0)))


def rank(item: pytest.Item) -> int:
    """Return how early a test is to begin; the smallest comes first."""
    path = item.path.as_posix()
    found = (place for place, part in enumerate(LONGEST_FIRST) if f"/tests/{part}" in path)
    return next(found, len(LONGEST_FIRST))


def mark_shared(item: pytest.Item) -> None:
    """Keep a test on one worker with all that use the same federation."""
    for name in SHARED:
        if name in getattr(item, "fixturenames", ()):
            callspec = getattr(item, "callspec", None)
            kind = callspec.params.get(name, "") if callspec is not None else ""
            item.add_marker(pytest.mark.xdist_group(f"{name}-{kind}".rstrip("-")))


class Distribution(LoadGroupScheduling):
    """Tests by group where they have one, else by file, else one by one."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        path = nodeid.partition("::")[0]
        return path if scope == nodeid and not path.endswith(ALONE) else scope
