"""The orders of an owner about a task: to end it, and to let its log be read by its researcher."""

from __future__ import annotations

import time
from typing import Any

from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.lifecycle import HISTORY
from fedjob.node.config.home import NodeHome
from fedjob.node.config.home_lock import running_pid
from fedjob.node.grants.deciders import decider
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

KILLED_WITHIN_S = 30.0


def end_task(home: NodeHome, database: Database, start: str, *, by: str | None = None) -> str:
    """End the one task whose key begins so, and return in words what became of it.

    Raises:
        SpecError: there is no such task, it has ended, or another one waits for it.
        FedjobError: it has not ended in time.
    """
    store, who = TaskStore(database), decider(by)
    found = store.find_task(start)
    key = found["key"]
    if found["state"] in HISTORY:
        raise SpecError(f"task {key[:12]} is {found['state']} already")
    if found["parent"]:
        raise SpecError(
            f"task {key[:12]} was launched by task {found['parent'][:12]}, which waits for it: kill that one"
        )
    with database.transaction():
        store.order("kill", key)
        Audit(database).add("order", key, {"status": "kill", "job": found["job"], "by": who})
    if running_pid(home) is None:
        return f"task {key[:12]} will be ended when the node is started"
    deadline = time.monotonic() + KILLED_WITHIN_S
    while (state := store.find_task(key)["state"]) not in HISTORY:
        if time.monotonic() > deadline:
            raise FedjobError(f"task {key[:12]} is still {state} after {KILLED_WITHIN_S:.0f} s")
        time.sleep(0.05)
    return f"task {key[:12]} is {state}"


def release_log(home: NodeHome, database: Database, found: dict[str, Any], *, by: str | None = None) -> str:
    """Let the log of a task be sent to its researcher, and return in words what happens.

    Args:
        found: the task, as `TaskStore.find_task` returns it.
    """
    who = decider(by)
    with database.transaction():
        TaskStore(database).order("release", found["key"])
        body = {"status": "release", "job": found["job"], "researcher": found["researcher"], "by": who}
        Audit(database).add("order", found["key"], body)
    later = "" if running_pid(home) is not None else ", once the node is started"
    return f"released to {found['researcher']}{later}"
