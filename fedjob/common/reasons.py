"""Why a job or a task stands where it stands: a closed map, one word to its meaning.

A state says where; the reason beside it says why, for programs to branch on. A
test compares this map with what the code uses.
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "bring": "a node takes no data that researchers bring",
    "busy": "a node has too many open requests or tasks",
    "cancelled": "its owner withdrew it before it began",
    "config": "a home, its config.toml or a FEDJOB_* variable is wrong",
    "connection_lost": "the connection broke and did not come back in time",
    "exception": "code of the job raised",
    "expired": "the time, the runs or the rows of a grant are used up",
    "interrupted": "Ctrl+C in the process that ran it",
    "killed": "its owner ended it",
    "limits_exceeded": "its arguments or protections are outside what the owner granted",
    "min_rows": "it would be, or was, computed on fewer rows than the owner allows",
    "missing_packages": "a node lacks packages that the plan imports",
    "no_dataset": "a node does not have the dataset any more",
    "no_mock": "the dataset has no mock",
    "no_reply": "a node did not answer in time",
    "no_space": "a disk is full",
    "no_workers": "nodes have no workers: no free worker will come until their owners start some",
    "outside_hours": "nodes are outside their working hours",
    "pending": "an owner has yet to decide",
    "plan": "the plan can't be read or built",
    "plan_not_approved": "the owner has not approved this text for this use of these data",
    "project": "the node takes no part in this project",
    "protocol": "a node does not know the protocol",
    "quorum_lost": "too few nodes are left for it to count",
    "rejected": "the owner of a node that it needs said no",
    "repository": "objects can't be stored or fetched",
    "required_missing": "a node that the quorum requires is not there",
    "resources": "nodes lack resources that the job asks for",
    "revoked": "the owner of a node that it needs took the grant back",
    "runner_died": "the process that ran it is gone",
    "spec": "the job's definition does not hold together",
    "start": "it could not be set up at a node that it needs",
    "timeout": "it took longer than it was given",
    "too_few_nodes": "fewer nodes are there than the quorum needs",
    "unknown_researcher": "the node serves only researchers whose keys its owner knows",
    "worker_died": "the process that computed it is gone",
}
