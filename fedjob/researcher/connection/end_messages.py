"""The messages that end a job at its nodes, and their repetition for nodes that are away.

A node that never receives its message would keep the job's files until its own
limit. A message that was not receipted is kept in the home, one file per job and
node, and the next session of this home sends it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.files import make_folder, write_atomic
from fedjob.common.types import Address
from fedjob.messaging.messages import End

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection

RECEIPTS_S = 2.0
"""Time that the end of a job waits for the nodes' receipts, unless they still come."""

MAX_RECEIPTS_S = 30.0
"""Time that it waits while receipts keep coming: a thousand nodes need more than ten."""

MAX_AGAIN = 100
"""Messages that a session sends again at most."""

KEPT_S = 30 * 86400.0
"""Time after which a node has let go of a job by itself."""


@dataclass(frozen=True, slots=True)
class EndMessage:
    """The message that ends one job at one node."""

    job: str
    end: End
    epoch: int


def release(session: Connection, endings: Mapping[str, EndMessage], *, wait_s: float = RECEIPTS_S) -> None:
    """Send each node its message; keep those that are not receipted in time for `release_again`."""
    with session.lock:
        endpoint = session.endpoint
        sent = {
            endpoint.send(Address(node), ending.end, job=ending.job, epoch=ending.epoch): node
            for node, ending in endings.items()
        }
        began = time.monotonic()
        deadline, num_waiting = began + wait_s, len(sent)
        while (waiting := session.unreceipted() & sent.keys()) and time.monotonic() < deadline:
            if len(waiting) < num_waiting:
                num_waiting = len(waiting)
                deadline = max(deadline, min(time.monotonic() + 0.5 * wait_s, began + MAX_RECEIPTS_S))
            endpoint.settle(endpoint.receive(0.1))
        endpoint.withdraw(waiting)
    folder = session.home / "unreleased"
    for id_, node in sent.items():
        path = folder / f"{endings[node].job}.{node}"
        if id_ not in waiting:
            path.unlink(missing_ok=True)
        elif not path.exists():
            make_folder(folder)
            write_atomic(path, pack(to_plain(endings[node])))


def release_again(session: Connection) -> None:
    """Send again what nodes have not receipted, without waiting for nodes that are still away."""
    present = session.endpoint.presence()
    found = sorted((session.home / "unreleased").glob("job_*.*"))[:MAX_AGAIN]
    for path in found:
        node = path.name.partition(".")[2]
        if time.time() - path.stat().st_mtime > KEPT_S:
            path.unlink(missing_ok=True)
        elif present.get(node):
            try:
                ending = from_plain(EndMessage, unpack(path.read_bytes()))
            except (OSError, DecodeError):
                path.unlink(missing_ok=True)
                continue
            release(session, {node: ending}, wait_s=0.5)


def forget_end_messages(home: Path, job: str) -> None:
    """Delete the kept messages of a job that runs again: it is not over."""
    for path in (home / "unreleased").glob(f"{job}.*"):
        path.unlink(missing_ok=True)
