"""The ledger of items that were processed or failed at this node, by plan, dataset and project."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError
from fedjob.data.item_choice import ITEMS_NAME, Known
from fedjob.messaging.messages import Task
from fedjob.node.storage.database import Database

MAX_ITEMS_BYTES = 256 << 20
_TABLES = ("processed", "failed")


def subject_of(task: Task) -> str:
    """Return what a node knows a plan by: its exact text, the class in it, and the model that it is run with.

    The mock of a dataset is another dataset.
    """
    plan = "" if task.plan is None else task.plan.sha256
    models = sorted([name, ref.sha256] for name, ref in (*task.params.items(), *task.artifacts.items()))
    return hashlib.sha256(pack([task.protocol, plan, task.entry, models, task.use])).hexdigest()


class ItemLedger:
    """The items, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, task: Task) -> Known:
        """Return what is remembered of a task's plan on its dataset."""
        whose = (subject_of(task), task.dataset, task.project)
        found: list[dict[str, tuple[float | None, str]]] = []
        for table in _TABLES:
            rows = self._database.rows(
                f"SELECT item, mtime, hash FROM {table} WHERE plan = ? AND dataset = ? AND project = ?", whose
            )
            found.append({row["item"]: (row["mtime"], row["hash"]) for row in rows})
        return Known(*found)

    def note(self, task: Task, items: dict[str, list[list[Any]]]) -> None:
        """Remember what a finished task worked on; part of the caller's transaction.

        Args:
            items: what `read_items` returned.
        """
        whose = (subject_of(task), task.dataset, task.project)
        now = time.time()
        for item, mtime, hash_ in items["processed"]:
            self._forget("failed", whose, item)
            self._database.execute(
                "INSERT OR REPLACE INTO processed VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*whose, item, mtime, hash_, now),
            )
        for item, mtime, hash_, why in items["failed"]:
            self._forget("processed", whose, item)
            self._database.execute(
                "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*whose, item, mtime, hash_, why, now),
            )

    def _forget(self, table: str, whose: tuple[str, str, str], item: str) -> None:
        self._database.execute(
            f"DELETE FROM {table} WHERE plan = ? AND dataset = ? AND project = ? AND item = ?", (*whose, item)
        )


def read_items(folder: Path) -> dict[str, list[list[Any]]]:
    """Read the items that a worker left in its output folder, for `ItemLedger.note`.

    Raises:
        DecodeError: they are not what a worker writes, or too many.
    """
    path = folder / ITEMS_NAME
    try:
        if path.is_symlink() or path.stat().st_size > MAX_ITEMS_BYTES:
            raise DecodeError(f"a task's items take at most {MAX_ITEMS_BYTES >> 20} MB")
        plain = json.loads(path.read_bytes())
        return {
            "processed": [[_text(i), _number(m), _text(h)] for i, m, h in plain["processed"]],
            "failed": [[_text(i), _number(m), _text(h), _text(why)] for i, m, h, why in plain["failed"]],
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"the items of a task can't be read: {type(error).__name__}") from error


def _text(value: Any) -> str:
    """Return it as a text that a database can keep: half of a character pair is none."""
    text = str(value)
    text.encode("utf-8")
    return text


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
