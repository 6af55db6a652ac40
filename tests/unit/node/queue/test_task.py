"""The contents of a task's row: read once, and kept without what came attached to it; the words of what went wrong."""

from __future__ import annotations

import errno
import hashlib
import sqlite3
from dataclasses import replace

import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import NoSpace, SpecError
from fedjob.common.types import Ref
from fedjob.messaging.messages import Task
from fedjob.node.queue.task import HUB_FULL, NODE_FULL, ReadTasks, failure_words, order_of

CONTENT = b"parameters"
NAME = hashlib.sha256(CONTENT).hexdigest()
TASK = Task(
    dataset="toy",
    protocol="fedavg",
    params={"params": Ref(NAME, len(CONTENT))},
    attached={NAME: CONTENT},
    seed=3,
)


def test_a_row_keeps_all_of_a_task_but_what_came_attached_to_it() -> None:
    order = order_of(TASK)
    assert order == pack(to_plain(replace(TASK, attached={})))
    assert ReadTasks().of(order) == replace(TASK, attached={})


def test_a_task_is_read_once_and_the_longest_unused_one_again() -> None:
    tasks = ReadTasks(most=2)
    orders = [order_of(replace(TASK, seed=seed)) for seed in range(3)]
    first, second = tasks.of(orders[0]), tasks.of(orders[1])
    assert tasks.of(orders[0]) is first
    assert tasks.of(orders[2]).seed == 2
    assert tasks.of(orders[0]) is first
    assert tasks.of(orders[1]) is not second
    assert tasks.of(orders[1]) == second


def _of_a_full_database() -> sqlite3.Error:
    database = sqlite3.connect(":memory:")
    try:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE t (x)")
    except sqlite3.Error as error:
        return error
    finally:
        database.close()
    raise AssertionError("the database has no limit")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/srv/node/spool"), ("no_space", NODE_FULL)),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/srv/node/spool"), ("no_space", NODE_FULL)),
        (_of_a_full_database(), ("no_space", NODE_FULL)),
        (NoSpace("no space left to write /srv/node/spool/x: free some"), ("no_space", NODE_FULL)),
        (NoSpace("PUT /v1/objects: no space left at the hub"), ("no_space", HUB_FULL)),
        (NoSpace("no space is left"), ("no_space", "no space is left")),
        (OSError(errno.EACCES, "Permission denied", "/srv/node/spool"), ("internal", "PermissionError")),
        (SpecError("no such thing"), ("spec", "no such thing")),
        (SpecError("no such thing as /srv/data"), ("spec", "SpecError")),
    ],
)
def test_an_error_at_a_node_is_named_without_its_places_and_a_full_disk_with_what_to_do(
    error: Exception, words: tuple[str, str]
) -> None:
    assert failure_words(error) == words
