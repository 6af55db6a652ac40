"""What a node asks its hub at its start, counted at the hub."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from fedjob.common.errors import NotPermitted
from fedjob.hub.server.service import ServiceThread
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import load_membership
from fedjob.identity.pinned_roster import open_roster
from fedjob.node.config.home import NodeHome
from fedjob.node.startup import open_daemon, wait_for_hub
from tests.hubs import HubThread


@pytest.mark.timeout(60)
def test_a_node_fetches_the_list_of_parties_once_at_its_start(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    with HubThread(tmp_path / "hub") as hub:
        inner = hub.application()

        async def counting(scope: Scope, receive: Receive, send: Send) -> None:
            asked[str(scope.get("path"))] += 1
            await inner(scope, receive, send)

        with ServiceThread(lambda: counting) as counted:
            hub.join("alice", "researcher")
            home = NodeHome(tmp_path / "site")
            home.create()
            enrol_home(home.root, "site", "node", hub=counted.url, invite=None)
            asked.clear()
            roster = wait_for_hub(home, threading.Event())
            assert roster is not None
            daemon = open_daemon(home, roster)
            assert asked["/v1/parties"] == 1
            assert roster.has("alice", "researcher")
            hub.join("bob", "researcher")  # who came since is looked up at once
            assert roster.key_of("bob") is not None
            assert asked["/v1/parties"] == 2
            daemon.stop()


@pytest.mark.timeout(60)
def test_a_party_that_the_hub_refuses_hears_so_at_its_start(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub") as hub:
        enrol_home(tmp_path / "site", "site", "node", hub=hub.url, invite=None)
        hub.parties.revoke("site")
        with pytest.raises(NotPermitted, match="revoked"):
            open_roster(tmp_path / "site", load_membership(tmp_path / "site"))
