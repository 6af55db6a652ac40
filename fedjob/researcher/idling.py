"""A warning for jobs whose nodes have nobody to do the work."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from fedjob.common.messages import Ping, Pong
from fedjob.researcher.connection import Connection

TIMEOUT_S = 5.0


class NoWorkersWarning(UserWarning):
    """A node of the job has no workers."""


def warn_of_no_workers(session: Connection, nodes: Iterable[str]) -> None:
    """Warn of every node that says that it has no workers; nodes that are silent are not waited for long."""
    for node, message in sorted(session.ask(list(nodes), Ping(), timeout_s=TIMEOUT_S).items()):
        if isinstance(message.body, Pong) and message.body.workers == 0:
            warnings.warn(no_workers_text(node, message.body.contact), NoWorkersWarning, stacklevel=4)


def no_workers_text(node: str, contact: str = "") -> str:
    """Return the warning about a node without workers."""
    ask = f"ask {contact}" if contact else "ask its owner"
    return (
        f"node {node} has no workers: it accepts and queues tasks but runs none; {ask} to start it with "
        "`fedjob node start --workers N`"
    )
