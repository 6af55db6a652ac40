"""From a home on disk to a daemon that can run: settings, membership, keys, transport, repository."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fedjob.common.config import Scalar
from fedjob.common.errors import ConfigError, RepositoryUnreachable
from fedjob.common.telemetry.logs import RotatedFile, formatter_of
from fedjob.common.types import Address
from fedjob.identity.enrolment import ensure_certificate
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership, hub_of, load_membership
from fedjob.identity.pinned_roster import open_roster
from fedjob.identity.roster import Roster
from fedjob.messaging.clock import hub_ahead_s
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.daemon import Daemon
from fedjob.node.daemon.settings import Settings
from fedjob.node.monitoring.measurements import Measurements
from fedjob.node.monitoring.pages import NodePages
from fedjob.node.monitoring.pulse import Pulse
from fedjob.repository import open_repository

log = logging.getLogger(__name__)


HUB_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between questions to a hub that is away."""


def wait_for_hub(
    home: NodeHome, stopping: threading.Event, tell: Callable[[str], object] = log.warning
) -> Roster | None:
    """Return the roster once the hub answers, however long that takes; None where this was stopped first.

    Args:
        tell: is given each new reason why it does not.

    Raises:
        FedjobError: no membership, or the hub refuses.
    """
    membership = load_membership(home.root)
    problem, num_failed = "", 0
    while not stopping.is_set():
        try:
            ensure_certificate(membership)
            return open_roster(home.root, membership)
        except RepositoryUnreachable as error:
            if str(error) != problem:
                problem = str(error)
                tell(f"the node waits for its hub, and asks again until it answers: {problem}")
            stopping.wait(HUB_AGAIN_S[min(num_failed, len(HUB_AGAIN_S) - 1)])
            num_failed += 1
    return None


def clock_of_hub(membership: Membership) -> float | None:
    """Return by how many seconds the hub's clock is ahead of this machine's; None where it reports no time.

    Raises:
        RepositoryUnreachable: it does not answer.
    """
    found = hub_of(membership)
    return hub_ahead_s(found.time, found.asked, found.answered)


def open_daemon(
    home: NodeHome,
    roster: Roster | None = None,
    *,
    options: dict[str, Scalar | None] | None = None,
    crash_at: Callable[[str], None] | None = None,
) -> Daemon:
    """Put a daemon together for a home that `init_node` made.

    Args:
        roster: as `wait_for_hub` returned it; None for one that the hub is asked for now.

    Raises:
        FedjobError: no membership, or the hub does not answer; see `wait_for_hub`.
    """
    from fedjob.messaging.transport.mqtt import transport_of

    home.check()
    membership = load_membership(home.root)
    identity = Identity.load_or_create(home.keys)
    settings = Settings(home, options)
    ensure_certificate(membership)
    hub = hub_of(membership)
    if roster is None:
        roster = open_roster(home.root, membership)
    transport = transport_of(replace(membership, broker_url=hub.broker_url), Address(identity.party))
    return Daemon(
        home=home,
        settings=settings(),
        identity=identity,
        federation=membership.federation,
        roster=roster,
        transport=transport,
        repository=open_repository(
            membership.hub_url,
            token=membership.token,
            verify=membership.verify,
            proxy=membership.proxy,
            credentials=membership.credentials,
        ),
        reload=settings,
        hub_ahead_s=lambda: clock_of_hub(membership),
        crash_at=crash_at,
    )


@contextmanager
def served(home: NodeHome, config: NodeConfig, pulse: Pulse) -> Iterator[str]:
    """Serve health and metrics while the block runs, where the owner wants them; yield why they are not served.

    A node does its work without them, too.
    """
    if not config.metrics_port:
        yield ""
        return
    try:
        pages = NodePages(Measurements(home, pulse), config.metrics_port)
    except ConfigError as error:
        yield str(error)
        return
    with pages:
        yield ""


def log_to(home: NodeHome, config: NodeConfig) -> None:
    """Write fedjob's log to the home; as lines of JSON to stderr as well, where a supervisor collects them."""
    home.create()
    handlers: list[logging.Handler] = [
        RotatedFile(home.log, max_bytes=int(config.log_file_mb * (1 << 20)), num_old=config.log_files)
    ]
    if config.log_format == "json":
        handlers.append(logging.StreamHandler())
    logger = logging.getLogger("fedjob")
    for handler in handlers:
        handler.setFormatter(formatter_of(config.log_format, {"node": home.node}))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
