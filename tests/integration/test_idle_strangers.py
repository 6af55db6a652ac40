"""Strangers who open connections to a hub and do nothing with them."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedjob.hub.config.limits import HubLimits
from fedjob.identity.membership import fetch_hub
from tests.hubs import HubThread

HELD = 150
LIMITS = HubLimits(reserve_bytes=0, num_connections=40)


@pytest.mark.parametrize(
    "said", [b"", b"GET /v1/hub HTTP/1.1\r\nHost: h\r\n"], ids=["nothing", "half a head"]
)
def test_idle_connections_of_strangers_keep_nobody_out(tmp_path: Path, said: bytes) -> None:
    with HubThread(tmp_path, limits=LIMITS) as hub, ExitStack() as stack:
        member = hub.join("node-a")
        port = int(hub.url.rpartition(":")[2])
        for _ in range(HELD):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            idle.sendall(said)
        began = time.monotonic()
        assert fetch_hub(hub.url).federation == hub.ledger.federation
        with hub.repository("node-a") as repository:
            assert repository.get_bytes(repository.put(b"bytes", job="job_1"), limit_bytes=10) == b"bytes"
        assert time.monotonic() - began < 5
        assert member.party == "node-a"
