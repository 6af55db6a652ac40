"""The state of a node for its owner: whether it runs, its trust, its queue and workers, and how it is stopped."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from typing import Any

from fedjob.common.codec import unpack
from fedjob.common.errors import FedjobError
from fedjob.identity.keys import Identity
from fedjob.identity.membership import load_membership
from fedjob.identity.pinned_roster import PinnedRoster
from fedjob.identity.roster import ON_FIRST_USE, Roster
from fedjob.node.config.capacity import read_labels
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.home_lock import running_pid
from fedjob.node.config.hours import is_open_now
from fedjob.node.daemon.settings import InForce
from fedjob.node.daemon.status import node_status
from fedjob.node.data.datasets import Datasets
from fedjob.node.execution.preload import lacking_libraries
from fedjob.node.grants.deciders import decider
from fedjob.node.grants.decisions import Grants
from fedjob.node.queue.store import TaskStore
from fedjob.node.sandbox.support import find_support
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.home_database import open_database

STOP_WITHIN_S = 30.0

SANDBOXES = {
    "namespaces": "namespaces: a worker sees one dataset, and neither the network nor another process",
    "landlock": "landlock: a worker reads one dataset and opens no socket, but sees that there are other processes",
    "none": "NONE: an approved plan can do at this machine whatever its user can (sandbox = none)",
    "refused": "NONE CAN BE CLOSED HERE, so no worker is started",
}
"""How workers are closed in -> what that means, in words."""


def stop_node(home: NodeHome, *, by: str | None = None) -> bool:
    """Stop the running node; unfinished tasks continue at its next start. False where none runs.

    Raises:
        FedjobError: it has not ended in time.
    """
    pid = running_pid(home)
    if pid is None:
        return False
    who = decider(by)
    with open_database(home) as database:
        Audit(database).add("node", home.node, {"status": "stopped", "by": who})
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN_S
    while running_pid(home) == pid:
        if time.monotonic() > deadline:
            raise FedjobError(f"process {pid} has not ended within {STOP_WITHIN_S:.0f} s")
        time.sleep(0.05)
    return True


def node_facts(home: NodeHome, settings: InForce) -> dict[str, Any]:
    """Return how a node is: whether it runs, its trust, its queue, its workers, what it lends."""
    config = settings.config
    with open_database(home) as database:
        pid = running_pid(home)
        row = database.row("SELECT facts FROM live")
        live = unpack(row["facts"]) if row is not None and pid is not None else {}
        tasks = TaskStore(database)
        queue = tasks.counts()
        return {
            "node": home.node,
            "key": Identity.load_or_create(home.keys).public_key_hex,
            "home": str(home.root),
            "running": pid is not None,
            "pid": pid,
            "connected": bool(live.get("connected")),
            "trouble": live.get("trouble", ""),
            "twin": bool(live.get("twin")),
            "clock": live.get("clock", ""),
            "version_trouble": live.get("version_trouble", ""),
            "roster": live.get("roster") or _roster_of(home),
            "settings_faults": list(settings.faults),
            "encrypted": bool(live.get("encrypted")),
            "encryption": live.get("encryption") or f"{config.encryption}, from its next start on",
            "approval": config.approval,
            "verifier": config.verifier,
            "workers": config.workers,
            "threads": config.torch_threads,
            **asdict(node_status(config, tasks, busy=queue.get("running", 0))),
            "datasets": [dataset.name for dataset in Datasets(database).all()],
            "pending_grants": len(Grants(database).all("pending")),
            "queue": queue,
            "undelivered": database.rows("SELECT count(*) AS n FROM outbox")[0]["n"],
            "hours": config.hours,
            "open": is_open_now(config.hours),
            "launcher": config.launcher,
            "lacking": lacking_libraries(config.launcher),
            "sandbox": live.get("workers", {}).get("sandbox") or find_support().in_force(config.sandbox),
            "sandbox_advice": live.get("workers", {}).get("sandbox_advice", ""),
            "labels": sorted(read_labels(config.labels)),
            "resources": _resources(config),
            "held": live.get("resources", []),
            "worker_processes": live.get("workers", {}).get("warm", []),
            "fork_server": live.get("workers", {}).get("fork_server", False),
            "dropped": live.get("counters", {}),
        }


def _roster_of(home: NodeHome) -> dict[str, str]:
    """Return what a home that no daemon runs in says of its roster."""
    membership = load_membership(home.root)
    if membership.federation_keys is None:
        return {"trust": ON_FIRST_USE, "waiting": "", "trouble": ""}
    pinned = PinnedRoster(home.root, membership, membership.federation_keys)
    roster = Roster(pinned.parties(), pin=lambda: pinned.pin)
    return {
        "trust": roster.describe(),
        "waiting": roster.waiting(membership.party),
        "trouble": roster.trouble(),
    }


def _resources(config: NodeConfig) -> dict[str, Any]:
    capacity = config.capacity()
    return {
        "cpus": capacity.whole.cpus,
        "memory_bytes": capacity.whole.memory_bytes,
        "gpus": list(capacity.whole.gpus),
        "pools": {
            name: {
                "workers": part.workers,
                "cpus": part.cpus,
                "memory_bytes": part.memory_bytes,
                "gpus": list(part.gpus),
            }
            for name, part in capacity.pools.items()
        },
    }
