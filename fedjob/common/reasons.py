"""Why a job or a task stands where it stands: a closed map, one word to its meaning.

A state says where; the reason beside it says why, for programs to branch on. A
test compares this map with what the code uses.
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "bring": "a node takes no data that researchers bring",
    "cancelled": "its owner withdrew it before it began",
    "config": "a home, its config.toml or a FEDJOB_* variable is wrong",
    "connection_lost": "the connection broke and did not come back in time",
    "exception": "code of the job raised",
    "expired": "the time, the runs or the rows of a grant are used up",
    "interrupted": "Ctrl+C in the process that ran it",
    "killed": "its owner ended it",
    "limits_exceeded": "its arguments or protections are outside what the owner granted",
    "min_rows": "it would be, or was, computed on fewer rows than the owner allows",
    "no_reply": "a node did not answer in time",
    "no_space": "a disk is full",
    "plan_not_approved": "the owner has not approved this text for this use of these data",
    "project": "the node takes no part in this project",
    "quorum_lost": "too few nodes are left for it to count",
    "rejected": "the owner of a node that it needs said no",
    "revoked": "the owner of a node that it needs took the grant back",
    "runner_died": "the process that ran it is gone",
    "start": "it could not be set up at a node that it needs",
    "timeout": "it took longer than it was given",
    "unknown_researcher": "the node serves only researchers whose keys its owner knows",
    "worker_died": "the process that computed it is gone",
}
