"""The distribution of the tests over the workers of pytest-xdist: which stay together, and in which order.

A test that starts its federation for itself goes to whichever worker is free. Tests that share a federation
go to one worker, or each worker would start nodes, and import torch in each of them, for itself.
"""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadFileScheduling

WORKERS_PER_CORE = 3
"""Tests wait for other processes more often than they compute."""
MOST_WORKERS = 16

TOGETHER = {
    "rough": ("e2e/test_deaths.py", "e2e/test_resume.py"),
    "federation": (
        "e2e/test_hospitals.py",
        "e2e/test_bad_input.py",
        "e2e/test_commands.py",
        "e2e/test_same_bytes.py",
        "e2e/test_secure_aggregation.py",
    ),
}
"""The files that share a federation of the session, by the name of its fixture."""

ALONE = (
    "e2e/test_notebooks.py",
    "e2e/test_readme.py",
    "e2e/test_functions_in_scripts.py",
    "e2e/test_hub.py",
    "integration/test_submitted_jobs.py",
    "integration/test_resumed_jobs.py",
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
    "e2e/test_pages.py",
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


def scope_of(nodeid: str) -> str:
    """Return what goes to one worker with a test: the same name for all of it."""
    path, _, test = nodeid.partition("::")
    for name, files in TOGETHER.items():
        if path.endswith(files):
            return f"{name}, amqtt" if "amqtt" in test else name  # there is one federation for each broker
    return nodeid if path.endswith(ALONE) else path


class Distribution(LoadFileScheduling):
    """Scheduling for `--dist loadfile` that knows more than the file."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
