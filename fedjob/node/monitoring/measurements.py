"""The health and the metrics of a node, from its pulse and its database; nothing of it names data, jobs or people."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from urllib.parse import quote

from fedjob._version import __version__
from fedjob.common.lifecycle import State
from fedjob.common.telemetry.health import Health, free_bytes
from fedjob.common.telemetry.metrics import MetricFamily, by_label, counter, gauge
from fedjob.node.config.home import NodeHome
from fedjob.node.monitoring.pulse import Pulse

STANDSTILL_S = 30.0
"""A daemon whose loop has not turned for so long is not at work."""

RESERVE_BYTES = 64 << 20
"""Free space below which a node's disk counts as full."""


class Measurements:
    """What can be measured of one node.

    Args:
        home: its database is opened for each look, so that one that was removed or replaced is seen.
    """

    def __init__(self, home: NodeHome, pulse: Pulse) -> None:
        self._home = home
        self._pulse = pulse
        self._inode = _inode(home)

    def health(self) -> Health:
        """Return the outcome of each check."""
        facts = self._pulse.facts
        return Health(
            {
                "loop": time.monotonic() - self._pulse.beaten_at < STANDSTILL_S,
                "broker": bool(facts.get("connected")),
                "database": self._has_database(),
                "disk": free_bytes(self._home.root) >= RESERVE_BYTES,
                "settings": not facts.get("faults"),
            }
        )

    def families(self) -> Iterator[MetricFamily]:
        """Yield every metric."""
        facts = self._pulse.facts
        yield MetricFamily(
            "fedjob_node_info",
            "gauge",
            "The node's version; its value is 1.",
            {(("version", __version__),): 1.0},
        )
        yield self.health().metric("fedjob_node_healthy")
        yield gauge(
            "fedjob_node_connected",
            "Whether the node is connected to the broker.",
            bool(facts.get("connected")),
        )
        yield gauge(
            "fedjob_node_twin", "Whether another daemon runs under the node's name.", bool(facts.get("twin"))
        )
        yield gauge(
            "fedjob_node_settings_faults", "Settings that can't be read.", len(facts.get("faults", ()))
        )
        workers = facts.get("workers", {}).get("warm", ())
        yield gauge("fedjob_node_worker_processes", "Processes of workers, busy and idle.", len(workers))
        yield gauge(
            "fedjob_node_workers",
            "Tasks that may run at the same time.",
            facts.get("settings", {}).get("workers", 0),
        )
        yield gauge(
            "fedjob_node_replies_unconfirmed", "Messages without a receipt.", facts.get("undelivered", 0)
        )
        reached = {str(state): 0.0 for state in State} | {s: float(n) for s, n in self._pulse.reached.items()}
        yield by_label(
            "counter",
            "fedjob_node_tasks_total",
            "Tasks that reached a state since the start.",
            "state",
            reached,
        )
        yield by_label(
            "counter",
            "fedjob_node_messages_dropped_total",
            "Messages that were dropped, and other counts of trouble, since the start.",
            "cause",
            {str(cause): float(count) for cause, count in facts.get("counters", {}).items()},
        )
        yield gauge(
            "fedjob_node_disk_free_bytes", "Free bytes of the home's disk.", free_bytes(self._home.root)
        )
        with suppress(sqlite3.Error), self._reading() as database:
            yield from _from_database(database)

    def _has_database(self) -> bool:
        """True if the database is still the file that the daemon opened, and can be read."""
        if not self._inode or _inode(self._home) != self._inode:
            return False
        try:
            with self._reading() as database:
                database.execute("SELECT count(*) FROM datasets").fetchone()
        except sqlite3.Error:
            return False
        return True

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return closing(
            sqlite3.connect(f"file:{quote(str(self._home.database))}?mode=ro", uri=True, timeout=2.0)
        )


def _from_database(database: sqlite3.Connection) -> Iterator[MetricFamily]:
    def number(query: str) -> float:
        return float(database.execute(query).fetchone()[0])

    states = dict(database.execute("SELECT state, count(*) FROM tasks GROUP BY state"))
    here = {str(state): float(states.get(str(state), 0)) for state in State}
    yield by_label("gauge", "fedjob_node_tasks", "Tasks that are here now, by state.", "state", here)
    yield gauge(
        "fedjob_node_last_task_timestamp_seconds",
        "When a task ended last, seconds since 1970; 0 for never.",
        max(number(f"SELECT coalesce(max(ended), 0) FROM {table}") for table in ("tasks", "history")),
    )
    yield gauge(
        "fedjob_node_grants_pending",
        "Requests that wait for their owner.",
        number("SELECT count(*) FROM grants WHERE status = 'pending'"),
    )
    yield gauge(
        "fedjob_node_datasets", "Datasets that are registered.", number("SELECT count(*) FROM datasets")
    )
    yield counter(
        "fedjob_node_audit_records_total",
        "Records of the audit log.",
        number("SELECT coalesce(max(seq), 0) FROM audit_head"),
    )


def _inode(home: NodeHome) -> int:
    try:
        return home.database.stat().st_ino
    except OSError:
        return 0
