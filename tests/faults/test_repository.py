"""The repository's client through faults: the right bytes or a named error, in bounded time, whatever is on the way."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedjob.common.errors import FedjobError, RepositoryError, RepositoryUnreachable
from fedjob.common.http_client import Patience
from fedjob.common.network.connections import REUSE_S, LineAdapter, unsent_bytes, wait_for_departure
from fedjob.identity.membership import Membership, fetch_hub
from fedjob.identity.party_list import PartyList, fetch_parties
from fedjob.repository.http import HttpRepository
from tests.faults.forward_proxy import ForwardProxy
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.script import HTTP_FAULTS, Fault, Script
from tests.faults.serving import LoopThread
from tests.hubs import HubThread

pytestmark = pytest.mark.timeout(90)

HASTY = Patience(connect_s=2, idle_s=1, num_retries=7, backoff_s=0.01, max_backoff_s=0.05)


@dataclass
class Way:
    """A repository behind a line and a proxy with faults."""

    repository: HttpRepository
    hub: HubThread
    member: Membership
    url: str
    proxy: ForwardProxy
    line: FaultyLine

    def become(self, *faults: Fault, line: LineProperties | None = None) -> Script:
        script = Script(faults, seed=5)
        self.proxy.become(script)
        self.line.become(line or LineProperties(), Script())
        return script


@pytest.fixture(scope="module")
def lasting_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with LoopThread() as loop, HubThread(tmp_path_factory.mktemp("hub")) as hub:
        proxy = ForwardProxy(loop)
        line = FaultyLine(loop, proxy.port)
        member = hub.join("node-a")
        with HttpRepository(hub.url, token=member.token, proxy=line.url, patience=HASTY) as repository:
            yield Way(repository, hub, member, hub.url, proxy, line)


@pytest.fixture
def way(lasting_way: Way) -> Way:
    """The way without the faults of the test before it."""
    lasting_way.become()
    return lasting_way


@pytest.mark.parametrize("kind", HTTP_FAULTS)
def test_objects_go_there_and_back_through_faults_of_every_kind(kind: str, way: Way) -> None:
    script = way.become(Fault(kind=kind, rate=0.3, num=503 * (kind == "status"), seconds=0.02))
    for _ in range(8):
        data = secrets.token_bytes(5000)
        assert way.repository.get_bytes(way.repository.put(data, job="j"), limit_bytes=5000) == data
    assert script.done[kind] >= 1


def test_a_list_of_parties_is_the_hubs_whatever_becomes_of_its_answers(way: Way) -> None:
    """An answer of another time with today's mark would otherwise hide a party for ever."""
    followed = PartyList(replace(way.member, proxy=way.line.url))
    script = way.become(
        *(
            Fault(kind=kind, rate=0.2)
            for kind in ("stale", "other_object", "truncate", "flip_answer", "portal")
        )
    )
    for number in range(40):
        way.hub.join(f"late-{number}")
        with contextlib.suppress(FedjobError):
            assert followed.fetch() == fetch_parties(way.member)
    assert script.done["stale"] >= 1
    assert script.done["other_object"] >= 1
    way.become()
    assert len(followed.fetch()) == 41


def test_a_page_for_people_is_not_taken_for_an_answer_of_the_hub(way: Way) -> None:
    kept = way.repository.put(b"kept", job="j")
    way.become(Fault(kind="portal"))
    began = time.monotonic()
    for call in (
        lambda: way.repository.put(b"x" * 100, job="j"),
        lambda: way.repository.get_bytes(kept, limit_bytes=10),
        lambda: fetch_hub(way.url, proxy=way.line.url),
    ):
        with pytest.raises(RepositoryUnreachable, match="does this network want a login in a browser first"):
            call()
    assert time.monotonic() - began < 10
    with pytest.raises(RepositoryUnreachable):
        way.repository.exists(kept)
    way.become()
    assert way.repository.exists(kept)


def test_a_server_that_always_sends_elsewhere_is_named_soon(way: Way) -> None:
    way.become(Fault(kind="redirect"))
    with pytest.raises(RepositoryError, match=r"sends elsewhere \(status 302\); give its final URL"):
        way.repository.put(b"y" * 100, job="j")


def test_an_upload_and_a_download_take_as_long_as_a_slow_line_needs(way: Way, tmp_path: Path) -> None:
    """At 256 kbit/s this takes longer than the client waits for an answer, and than a block of the size it reads."""
    way.become(line=LineProperties(bits_per_s=1_000_000))
    data = secrets.token_bytes(400_000)
    before = way.line.num_bytes("up")
    began = time.monotonic()
    ref = way.repository.put(data, job="j")
    assert way.repository.get(ref, tmp_path / "back").read_bytes() == data
    assert time.monotonic() - began > 4 * HASTY.idle_s
    assert way.line.num_bytes("up") - before < 1.1 * len(data)  # sent once


def test_a_connection_that_a_box_on_the_way_may_have_forgotten_is_not_used_again() -> None:
    pool = LineAdapter().poolmanager.connection_from_url("http://127.0.0.1:9")
    connection = pool._new_conn()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection.sock = ours
        connection._used_at = time.monotonic() - REUSE_S + 5
        assert connection.is_connected
        connection._used_at -= 6
        assert not connection.is_connected


def test_bytes_that_still_leave_this_machine_are_waited_for_and_silence_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        with socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            with theirs:
                ours.setblocking(False)
                try:
                    while True:
                        ours.send(bytes(100_000))
                except BlockingIOError:
                    pass
                assert unsent_bytes(ours) > 0
                began = time.monotonic()
                wait_for_departure(ours, silence_s=0.6)  # nobody reads
                assert 0.4 < time.monotonic() - began < 5
                theirs.sendall(b"an answer before the end")
                began = time.monotonic()
                wait_for_departure(ours, silence_s=30)
                assert time.monotonic() - began < 5
