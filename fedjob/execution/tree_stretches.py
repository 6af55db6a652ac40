"""The stretches of tree noise that the tasks of a job are given: what makes two tasks go on with the same trees, and a local job's record."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.files import write_atomic
from fedjob.messaging.messages import Task
from fedjob.privacy.dp.tree_terms import TreeStretch, TreeTerms, fresh_seed
from fedjob.training_plans.training_args import merged_args

RECORD_NAME = "noise_trees"
"""Name of a site's record in a local job's folder."""


def tree_of(task: Task, terms: TreeTerms, *, researcher: str, job: str, version: str) -> str:
    """Name the trees that a task goes on with: 64 hex digits.

    A record must keep its block through all steps of a pass. So it covers everything that decides which examples there
    are and in which order, and who pays: with anything of that changed a task begins trees of its own, and pays for them.

    Args:
        version: of the dataset's content.
    """
    what = [
        *(
            researcher,
            job,
            version,
            task.dataset,
            task.project,
            task.protocol,
            task.entry,
            task.use,
            task.seed,
        ),
        *(None if task.plan is None else task.plan.sha256, task.config, task.model_args, task.props),
        *(merged_args(task.training_args, task.round_args), task.preprocess, task.items, task.split),
        *({name: ref.sha256 for name, ref in task.artifacts.items()}, terms.to_plain()),
    ]
    return hashlib.sha256(pack(to_plain(what))).hexdigest()


class LocalTrees:
    """The record of one site of a local job: how far its trees are, and which steps each task was given.

    A task that is computed again, because the job was ended in the middle of it, has the steps and the noise that it
    had: of the first attempt nothing was kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def stretch(self, terms: TreeTerms, tree: str, key: str) -> TreeStretch:
        """Return the steps of a task, and record them before they are taken."""
        trees = unpack(self._path.read_bytes()) if self._path.exists() else {}
        found = trees.setdefault(tree, {"seed": fresh_seed(), "next": 0, "given": {}})
        if key not in found["given"]:
            found["given"][key] = found["next"]
            found["next"] += terms.steps
            write_atomic(self._path, pack(trees))
        return TreeStretch(terms=terms, seed=found["seed"], first=found["given"][key])
