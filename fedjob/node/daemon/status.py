"""The status of a node, as it answers a ping and as `fedjob node status` shows it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from fedjob._version import __version__
from fedjob.common.codec import to_plain
from fedjob.messaging.messages import Message, Pong
from fedjob.node.config.capacity import read_labels
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.hours import is_open_now
from fedjob.node.queue.book import Book
from fedjob.node.queue.store import TaskStore

MAX_SHOWN_JOBS = 500
PACKAGES = ("torch", "numpy", "scikit-learn", "pandas")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The status of a node at one moment.

    Args:
        ready: a task would begin: there are workers, these are working hours.
        busy, free: workers.
        last_task: when one ended last, seconds since 1970; 0 for never.
        versions: package -> version, of what plans are run with.
    """

    ready: bool
    busy: int
    free: int
    last_task: float
    versions: dict[str, str] = field(default_factory=dict)


def node_status(config: NodeConfig, tasks: TaskStore, *, busy: int) -> NodeStatus:
    """Return the status of a node.

    Args:
        busy: tasks that run.
    """
    return NodeStatus(
        ready=config.workers > 0 and is_open_now(config.hours),
        busy=busy,
        free=max(0, config.workers - busy),
        last_task=tasks.last_ended(),
        versions=versions(),
    )


def pong(
    message: Message,
    config: NodeConfig,
    tasks: TaskStore,
    *,
    num_datasets: int,
    book: Book,
    busy: int,
    faults: int,
    sandbox: str,
    twin: bool = False,
) -> Pong:
    """Return the answer to a ping.

    Args:
        busy: tasks that run.
        sandbox: the kind that is in force.
        twin: another daemon runs under the node's name.
        faults: number of the owner's settings that can't be read.
    """
    now = node_status(config, tasks, busy=busy)
    jobs = {row.job for row in book.unfinished() if row.researcher == message.sender}
    return Pong(
        of=message.id,
        version=__version__,
        num_datasets=num_datasets,
        busy=now.busy,
        free=now.free,
        ready=now.ready,
        last_task=now.last_task,
        versions=now.versions,
        workers=config.workers,
        contacts=to_plain(config.contacts),
        labels=sorted(read_labels(config.labels)),
        projects=sorted(read_labels(config.projects)),
        jobs=sorted(jobs)[:MAX_SHOWN_JOBS],
        twin=twin,
        faults=faults,
        sandbox=sandbox,
    )


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of fedjob, Python and the packages in `PACKAGES` that are installed here."""
    found = {"fedjob": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
