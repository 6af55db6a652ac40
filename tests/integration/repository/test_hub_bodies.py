"""Large bodies that threads receive from the connection itself: their order, their bounds, and what follows them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedjob.common.errors import FedjobError, NoSpace
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.app import NUM_THREADS
from fedjob.hub.server.bodies import TooSlow, receive_by_threads
from fedjob.hub.server.connection_limits import BodyLine, ClientGone
from fedjob.hub.server.monitoring import MonitoringSources
from tests.hubs import HubThread
from tests.processes import wait_until

LIMITS = HubLimits(
    reserve_bytes=0, object_bytes=8 << 20, min_body_bytes=1000, party_uploads=256, party_requests=256
)
LARGE = os.urandom(3_000_001)
NAME = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    with HubThread(tmp_path / "hub", limits=LIMITS, monitoring=MonitoringSources(token="t" * 32)) as hub:
        yield hub


def connected(hub: HubThread) -> socket.socket:
    host, port = urlsplit(hub.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(hub: HubThread, path: str, length: int, *more: str, method: str = "PUT") -> bytes:
    token = hub.join("alice", "researcher").token
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Authorization: Bearer {token}", "X-Fedjob-Job: j"]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


def answers(connection: socket.socket, count: int) -> list[int]:
    """Return the statuses of so many answers, fewer if the hub closes the connection before."""
    got = b""
    while got.count(b"HTTP/1.1 ") < count or not got.endswith(b"\r\n\r\n"):
        block = connection.recv(1 << 16)
        if not block:
            break
        got += block
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]


def stored(hub: HubThread) -> list[Path]:
    return [path for path in (hub.folder / "storage").rglob("*") if path.is_file()]


@pytest.mark.parametrize("piece_bytes", [1 << 30, 100_003])
def test_large_and_small_uploads_and_downloads_follow_each_other_on_one_connection(
    hub: HubThread, piece_bytes: int
) -> None:
    small = b"small"
    small_name = hashlib.sha256(small).hexdigest()
    sent = b"".join(
        [
            head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE,
            head(hub, f"/v1/objects/{small_name}", len(small)) + small,
            head(hub, "/v1/objects", len(LARGE) + 32, method="POST") + LARGE + bytes.fromhex(NAME),
            head(hub, f"/v1/objects/{NAME}", 0, method="HEAD"),
            head(hub, f"/v1/objects/{'0' * 64}", len(LARGE)) + LARGE,
            head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE,
        ]
    )
    with connected(hub) as connection:

        def send() -> None:
            for at in range(0, len(sent), piece_bytes):
                connection.sendall(sent[at : at + piece_bytes])

        sender = threading.Thread(target=send)
        sender.start()
        got = b""
        while got.count(b"HTTP/1.1 ") < 6 or not got.endswith(b"\r\n\r\n"):
            block = connection.recv(1 << 16)
            assert block, got
            got += block
        sender.join(20)
    assert [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]] == [201, 201, 201, 200, 422, 201]
    assert sorted(path.name for path in stored(hub)) == sorted([NAME, small_name])
    assert hub.store.path(NAME).read_bytes() == LARGE


def test_who_asks_first_whether_to_send_is_answered_before_a_large_body(hub: HubThread) -> None:
    with connected(hub) as connection:
        connection.sendall(head(hub, f"/v1/objects/{NAME}", len(LARGE), "Expect: 100-continue"))
        assert answers(connection, 1) == [100]
        connection.sendall(LARGE)
        assert answers(connection, 1) == [201]


def test_a_large_body_in_chunks_is_refused_since_room_is_set_aside_before_it_comes(hub: HubThread) -> None:
    token = hub.join("alice", "researcher").token
    with connected(hub) as connection:
        connection.sendall(
            f"PUT /v1/objects/{NAME} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
            f"X-Fedjob-Job: j\r\nTransfer-Encoding: chunked\r\n\r\n{len(LARGE):x}\r\n".encode()
        )
        connection.sendall(LARGE + b"\r\n0\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert not hub.store.path(NAME).exists()


def test_what_threads_receive_is_counted_like_the_rest(hub: HubThread) -> None:
    def received() -> float:
        with connected(hub) as connection:
            token = "t" * 32
            connection.sendall(
                f"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
            )
            page = b""
            while block := connection.recv(1 << 16):
                page += block
        lines = page.decode().splitlines()
        return float(
            next(x for x in lines if x.startswith("fedjob_hub_http_received_bytes_total")).split()[-1]
        )

    alice = hub.repository("alice", "researcher")
    before = received()
    alice.put(LARGE, job="j")
    assert len(LARGE) <= received() - before < len(LARGE) + 1000


def test_a_client_that_goes_in_the_middle_of_a_large_body_leaves_nothing(
    hub: HubThread, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(hub) as connection:
        connection.sendall(head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE[:-1])
        wait_until(lambda: stored(hub) != [], timeout_s=10, what="the upload to begin")
    wait_until(lambda: stored(hub) == [], timeout_s=10, what="the upload to be removed")
    hub.repository("bob").put(b"x", job="j")
    assert not caplog.records, "it is no trouble of the hub's"


def test_a_revoked_party_whose_upload_stands_still_is_cut_off_at_once(hub: HubThread) -> None:
    with connected(hub) as connection:
        connection.sendall(head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE[:1_000_000])
        wait_until(lambda: stored(hub) != [], timeout_s=10, what="the upload to begin")
        time.sleep(0.3)  # what came is in the file, and the hub waits for more
        hub.parties.revoke("alice")
        hub.end_revoked()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    wait_until(lambda: stored(hub) == [], timeout_s=10, what="the upload to be removed")


def test_a_large_body_that_stands_still_is_cut_off_and_leaves_nothing(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub", limits=replace(LIMITS, idle_s=1.0)) as hub, connected(hub) as connection:
        connection.sendall(head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE[:500_000])
        began = time.monotonic()
        answer = b""
        while block := connection.recv(1 << 16):  # the connection ends with it
            answer += block
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"expected at least 1000 bytes every 1 s, found 0" in answer
        assert time.monotonic() - began < 15
        wait_until(lambda: stored(hub) == [], timeout_s=10, what="the upload to be removed")


def test_a_hundred_slow_uploads_need_no_thread_each_and_the_others_are_served(hub: HubThread) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(hub)) for _ in range(100)]
        for connection in slow:
            connection.sendall(head(hub, f"/v1/objects/{NAME}", len(LARGE)) + LARGE[:300_000])
        wait_until(lambda: len(stored(hub)) == 100, timeout_s=30, what="the uploads to begin")
        assert threading.active_count() <= before + NUM_THREADS + 2, "a pool, the server and its ledger"
        began = time.monotonic()
        hub.repository("bob").put(os.urandom(1_000_000), job="j")
        assert time.monotonic() - began < 10
        for connection in slow:
            connection.sendall(LARGE[300_000:])
            assert answers(connection, 1) == [201]
    assert hub.store.path(NAME).read_bytes() == LARGE


class Ends:
    """What the owner of a connection is notified of, once."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool]] = []

    def note(self, num_bytes: int, is_complete: bool) -> None:
        self.seen.append((num_bytes, is_complete))


def received(
    sent: bytes, size: int, take: Callable[[memoryview], object], limits: HubLimits, *, closed: bool = False
) -> Ends:
    """Receive a body whose first byte had come already; raise what that raises."""
    ends = Ends()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    line = BodyLine(ours, sent[:1], size - 1, lost=lambda: False, ended=ends.note)

    def send() -> None:
        theirs.sendall(sent[1:])
        if closed:
            theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            asyncio.run(receive_by_threads(line, take, pool, limits))
    except FedjobError as error:
        error.args += (ends,)
        raise
    finally:
        sender.join(20)
        theirs.close()
    return ends


def test_a_body_is_handed_on_in_order_and_to_its_last_byte() -> None:
    got = bytearray()
    ends = received(LARGE, len(LARGE), got.extend, LIMITS)
    assert got == LARGE
    assert ends.seen == [(len(LARGE), True)]


def test_bytes_behind_a_body_are_left_to_the_next_request() -> None:
    got = bytearray()
    received(LARGE, len(LARGE) - 1000, got.extend, LIMITS)
    assert got == LARGE[:-1000]


def test_a_full_disk_in_the_middle_is_reported_after_the_rest_of_the_body() -> None:
    taken: list[int] = []

    def take(block: memoryview) -> None:
        taken.append(len(block))
        if sum(taken) > 1 << 20:
            raise NoSpace("the disk is full")

    with pytest.raises(NoSpace, match="the disk is full") as caught:
        received(LARGE, len(LARGE), take, LIMITS)
    assert caught.value.args[-1].seen == [(len(LARGE), True)]
    assert sum(taken) < len(LARGE), "nothing is handed on after it failed"


def test_a_body_that_breaks_off_or_stands_still_is_no_complete_one() -> None:
    got = bytearray()
    with pytest.raises(ClientGone) as gone:
        received(LARGE[:70_000], len(LARGE), got.extend, LIMITS, closed=True)
    assert gone.value.args[-1].seen == [(70_000, False)]
    with pytest.raises(TooSlow, match=r"expected at least 1000 bytes every 0\.3 s, found 0") as slow:
        received(LARGE[:70_000], len(LARGE), got.extend, replace(LIMITS, idle_s=0.3))
    assert slow.value.args[-1].seen == [(70_000, False)]
