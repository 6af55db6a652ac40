"""What an attempt has fetched counts with the commit that ends it, and not before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fedjob.common.lifecycle import State
from fedjob.node.daemon.attempts import TaskAttempt, _count_fetched
from fedjob.node.daemon.turn import Turn
from fedjob.node.grants.permissions import Charge
from fedjob.node.queue.book import Book, TaskRow

ROW = TaskRow(
    key="k1", job="job", researcher="ann", dataset="toy", round=1, step="train", epoch=1, attempt=1,
    reply_to="ann/s1", message="m1", order=b"", seq=1, state=State.RUNNING,
)  # fmt: skip


class Ledger:
    """Counts the charges that turns commit."""

    def __init__(self) -> None:
        self.counted = 0

    def charge(self, row: TaskRow, result: Any, counted: Any, started: float, **fetched: Any) -> Charge:
        return Charge(result=result, count=self._count)

    def _count(self) -> None:
        self.counted += 1


def test_what_was_fetched_counts_once_though_the_first_commit_fails() -> None:
    ledger, attempt = Ledger(), TaskAttempt(1, uncounted=True)
    context: Any = SimpleNamespace(permissions=ledger)
    failed = Turn(Book())
    _count_fetched(context, failed, ROW, attempt)
    failed.bring_back()  # the database had no room
    turn = Turn(Book())
    for _ in range(2):  # such as its worker's death and the end of its time
        _count_fetched(context, turn, ROW, attempt)
    for change in turn.rows:
        change()
    assert (ledger.counted, attempt.uncounted) == (1, False)
