"""Tell nodes that a job is over, also those that are away just now.

A node that never hears so would keep the job's files until its own limit. What
was not receipted is written down in the home, one file per job and node, and
said again by whichever session of this home comes next.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.files import write_atomic
from fedjob.common.types import Address
from fedjob.messaging.messages import End

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
GOODBYE_S = 2.0

"""How long the end of a job waits for the nodes' receipts."""
MAX_AGAIN = 100

"""Goodbyes that a session says again at most."""
KEPT_S = 30 * 86400.0

"""After which a node has let go by itself."""


@dataclass(frozen=True, slots=True)
class EndMessage:
    """What one node is to be told of one job."""

    job: str
    end: End
    epoch: int


def release(session: Connection, goodbyes: Mapping[str, EndMessage], *, wait_s: float = GOODBYE_S) -> None:
    """Send each node its goodbye; write down those that are not receipted in time."""
    with session.lock:
        endpoint = session.endpoint
        sent = {
            endpoint.send(Address(node), goodbye.end, job=goodbye.job, epoch=goodbye.epoch): node
            for node, goodbye in goodbyes.items()
        }
        deadline = time.monotonic() + wait_s
        while (waiting := session.unreceipted() & sent.keys()) and time.monotonic() < deadline:
            endpoint.settle(endpoint.receive(0.1))
        endpoint.withdraw(waiting)
    folder = session.home / "unreleased"
    for id_, node in sent.items():
        path = folder / f"{goodbyes[node].job}.{node}"
        if id_ not in waiting:
            path.unlink(missing_ok=True)
        elif not path.exists():
            folder.mkdir(exist_ok=True)
            write_atomic(path, pack(to_plain(goodbyes[node])))


def release_again(session: Connection) -> None:
    """Say the goodbyes that nodes have not receipted yet, without waiting for those that are still away."""
    present = session.endpoint.presence()
    found = sorted((session.home / "unreleased").glob("job_*.*"))[:MAX_AGAIN]
    for path in found:
        node = path.name.partition(".")[2]
        if time.time() - path.stat().st_mtime > KEPT_S:
            path.unlink(missing_ok=True)
        elif present.get(node):
            try:
                goodbye = from_plain(EndMessage, unpack(path.read_bytes()))
            except (OSError, DecodeError):
                path.unlink(missing_ok=True)
                continue
            release(session, {node: goodbye}, wait_s=0.5)


def forget_goodbyes(home: Path, job: str) -> None:
    """A job that runs again is not over: what was to be said of its end is void."""
    for path in (home / "unreleased").glob(f"{job}.*"):
        path.unlink(missing_ok=True)
