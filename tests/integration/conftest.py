"""The interpreter of the tests whose nodes run in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import preloaded

FORKED = (
    "test_absent_nodes.py",
    "test_assets.py",
    "test_batches.py",
    "test_bringing.py",
    "test_children.py",
    "test_flamby_heart.py",
    "test_functions.py",
    "test_grant_commands.py",
    "test_inference_at_nodes.py",
    "test_job_commands.py",
    "test_job_events.py",
    "test_jobs_at_strict_nodes.py",
    "test_jobs_that_do_not_start.py",
    "test_mock_and_private.py",
    "test_node_grants.py",
    "test_node_notices.py",
    "test_node_queue.py",
    "test_preprocess.py",
    "test_preprocess_learning.py",
    "test_privacy_budgets.py",
    "test_psi.py",
    "test_sandbox_federation.py",
    "test_settings_in_force.py",
    "test_statistics.py",
    "test_submitted_jobs.py",
    "test_training_protocols.py",
    "test_verifiers.py",
)
"""Files about what nodes and runners do, and not about how their processes are started: fork servers of nodes and
runners of jobs are forked from a process that has imported torch, instead of each importing it anew."""


@pytest.fixture(autouse=True, scope="module")
def _forked_children(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what this process starts with its own interpreter forked, see `tests.stand_in`."""
    if request.path.name in FORKED:
        with preloaded.interpreter(preloaded.server().python):
            yield
    else:
        yield
