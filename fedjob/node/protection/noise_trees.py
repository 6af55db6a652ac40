"""The trees of noise of a node's jobs: their seeds, how many steps were given to tasks, and how many passes are paid.

Nothing here leaves the node. All of it is changed in the transactions of the ledger, see `privacy_accounts`: a step of
a tree is given to one charge, and to another one only after that charge was given back because nothing had left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedjob.node.storage.database import Database
from fedjob.privacy.dp.tree_terms import TreeTerms, fresh_seed, passes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenSteps:
    """The steps that a charge is for.

    Args:
        tree: id of the trees in the database; 0 for work without.
        passes: over the records that it pays for; others that it is in are paid by earlier ones.
    """

    tree: int = 0
    first: int = 0
    steps: int = 0
    passes: int = 0


NO_STEPS = GivenSteps()


class NoiseTrees:
    """The table `noise_trees`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, name: str, terms: TreeTerms) -> GivenSteps:
        """Return the steps that a task of the job comes to next; new trees are begun where there are none of the name."""
        row = self._row(name)
        if row is None:
            self._database.execute(
                "INSERT INTO noise_trees (name, seed, next, paid) VALUES (?, ?, 0, 0)", (name, fresh_seed())
            )
            row = self._row(name)
        first, paid = int(row["next"]), int(row["paid"])
        passes = max(0, passes_of(first, terms.steps, terms.blocks) - paid)
        return GivenSteps(tree=int(row["id"]), first=first, steps=terms.steps, passes=passes)

    def give(self, steps: GivenSteps) -> None:
        """Note that a charge has these steps."""
        self._database.execute(
            "UPDATE noise_trees SET next = ?, paid = paid + ? WHERE id = ?",
            (steps.first + steps.steps, steps.passes, steps.tree),
        )

    def take_back(self, steps: GivenSteps) -> bool:
        """Take steps back of which nothing has left; tell whether what they paid may be given back.

        It may not where others came after them, which may be of a pass that these have paid for.
        """
        if not steps.tree:
            return True
        changed = self._database.execute(
            "UPDATE noise_trees SET next = ?, paid = paid - ? WHERE id = ? AND next = ?",
            (steps.first, steps.passes, steps.tree, steps.first + steps.steps),
        )
        return changed.rowcount > 0 or not steps.passes

    def is_of(self, steps: GivenSteps, name: str) -> bool:
        """Tell whether steps are of the trees of a name."""
        row = self._row(name)
        return row is not None and int(row["id"]) == steps.tree

    def seed(self, tree: int) -> bytes:
        """Return the seed of trees that there are."""
        return bytes(self._database.rows("SELECT seed FROM noise_trees WHERE id = ?", (tree,))[0]["seed"])

    def _row(self, name: str) -> Any:
        return self._database.row("SELECT id, next, paid FROM noise_trees WHERE name = ?", (name,))
