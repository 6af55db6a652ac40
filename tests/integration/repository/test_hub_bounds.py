"""Parties and strangers who ask too much of a hub's HTTP side are slowed or refused by name; the others are served."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import requests

from fedjob.common.errors import NotPermitted, ObjectMissing, RepositoryUnreachable
from fedjob.common.http_client import Patience
from fedjob.common.types import Ref
from fedjob.hub.config.limits import HubLimits
from fedjob.identity.membership import fetch_hub
from fedjob.repository.http import HttpRepository
from tests.hubs import HubThread

NOWHERE = Ref("0" * 64, 1)

LIMITS = HubLimits(
    reserve_bytes=0,
    requests_per_s=20,
    requests_at_once=30,
    patience_s=0.0,
    stranger_requests_per_s=5,
    stranger_requests_at_once=100,
    refusals_per_s=1,
    refusals_at_once=20,
    party_requests=4,
    party_uploads=2,
    party_objects=5,
    party_watches=2,
    address_connections=60,
    num_connections=80,
    idle_s=3.0,
    min_body_bytes=100,
    header_bytes=8 << 10,
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    with HubThread(tmp_path, limits=LIMITS) as made:
        yield made


def get(hub: HubThread, path: str, token: str = "") -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(hub.url + path, headers=headers, timeout=20)


def connection(hub: HubThread) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), timeout=10)


def answer_to(hub: HubThread, sent: bytes) -> bytes:
    """Return all that the hub sends."""
    with connection(hub) as raw:
        raw.sendall(sent)
        got = b""
        with suppress(ConnectionResetError, TimeoutError):
            while block := raw.recv(1 << 16):
                got += block
                raw.settimeout(0.5)  # for what should not come after it, where the connection stays open
        return got


def test_a_party_that_asks_too_often_is_slowed_then_told_when_to_come_again(hub: HubThread) -> None:
    hasty, calm = hub.join("node-a").token, hub.join("node-b").token
    answers: list[requests.Response] = []

    def hurry() -> None:
        answers.extend(get(hub, "/v1/parties", hasty) for _ in range(30))

    threads = [threading.Thread(target=hurry) for _ in range(4)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(10):
        began = time.monotonic()
        assert get(hub, "/v1/parties", calm).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    for thread in threads:
        thread.join(60)
    assert slowest < 2
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert "node-a sends more than 20 requests a second (requests_per_s); try again in" in refused[0].text


def test_the_client_waits_as_it_is_told_and_gets_through(hub: HubThread) -> None:
    patient = Patience(num_retries=7, backoff_s=0.01, max_backoff_s=5)
    with hub.repository("node-a", patience=patient) as repository:
        for _ in range(60):
            with pytest.raises(ObjectMissing):
                repository.get_bytes(NOWHERE, limit_bytes=10)


def test_a_client_that_gives_up_says_why(hub: HubThread) -> None:
    def hurry(repository: HttpRepository) -> None:
        for _ in range(200):
            with suppress(ObjectMissing):
                repository.get_bytes(NOWHERE, limit_bytes=10)

    sentence = "too many requests: node-a sends more than 20 requests a second"
    with (
        hub.repository("node-a", patience=Patience(num_retries=0)) as repository,
        pytest.raises(RepositoryUnreachable, match=sentence),
    ):
        hurry(repository)


def test_strangers_of_one_address_are_refused_and_parties_behind_it_are_not(hub: HubThread) -> None:
    token = hub.join("node-a").token
    answers = [get(hub, "/v1/hub") for _ in range(150)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert "Retry-After" in answers[-1].headers or answers[-1].status_code == 200
    assert get(hub, "/v1/parties", token).status_code == 200


def test_guesses_of_tokens_and_invitations_are_counted_by_address(hub: HubThread) -> None:
    token = hub.join("node-a").token
    for number in range(20):
        assert get(hub, "/v1/parties", f"{number:064x}").status_code == 401
    refused = get(hub, "/v1/parties", "0" * 64)
    assert refused.status_code == 429
    assert "wrong" in refused.text
    assert get(hub, "/v1/parties", token).status_code == 200, "who has a token is not kept out by a neighbour"
    time.sleep(1.1)
    assert fetch_hub(hub.url).federation == hub.ledger.federation


def test_a_party_has_so_many_objects_and_watches_whichever_way_it_holds_them(hub: HubThread) -> None:
    token = hub.join("alice", "researcher").token
    headers = {"Authorization": f"Bearer {token}", "X-Fedjob-Job": "job_1"}
    for number in range(5):
        content = b"%d" % number
        url = f"{hub.url}/v1/objects/{sha256(content).hexdigest()}"
        assert requests.put(url, data=content, headers=headers, timeout=20).status_code == 201
    for refused in (
        requests.put(
            f"{hub.url}/v1/objects/{sha256(b'more').hexdigest()}", data=b"more", headers=headers, timeout=20
        ),
        requests.post(url, headers=headers | {"X-Fedjob-Job": "job_2"}, timeout=20),
    ):
        assert refused.status_code == 403
        assert "alice has 5 objects stored, as many as it may (party_objects)" in refused.text
    assert requests.delete(f"{hub.url}/v1/jobs/job_1", headers=headers, timeout=20).status_code == 204
    assert requests.put(url, data=content, headers=headers, timeout=20).status_code == 201


def test_one_party_takes_its_share_of_the_disk_and_no_more(tmp_path: Path) -> None:
    disk_bytes = shutil.disk_usage(tmp_path).total
    with (
        HubThread(tmp_path, limits=replace(LIMITS, party_disk_share=8 / disk_bytes)) as hub,
        hub.repository("node-a") as mine,
    ):
        mine.put(b"first", job="job_1")
        with pytest.raises(NotPermitted, match="party_disk_share"):
            mine.put(b"second", job="job_1")


def test_slow_uploads_of_one_party_leave_places_for_the_others(hub: HubThread) -> None:
    hub.join("alice", "researcher")
    token = hub.join("mallory").token
    name = sha256(b"x" * 10_000_000).hexdigest()
    head = (
        f"PUT /v1/objects/{name} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
        "X-Fedjob-Job: job_1\r\nContent-Length: 10000000\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connection(hub)).sendall(head.encode() + b"x" * 1000)
        began = time.monotonic()
        with hub.repository("alice", "researcher") as repository:
            assert repository.get_bytes(repository.put(b"bytes", job="job_2"), limit_bytes=10) == b"bytes"
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("kind", ["body of a stranger", "many requests", "half a head"])
def test_busy_connections_of_strangers_make_room(hub: HubThread, kind: str) -> None:
    sent = {
        "body of a stranger": b"PUT /v1/objects/"
        + b"0" * 64
        + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\nx",
        "many requests": b"GET /v1/hub HTTP/1.1\r\nHost: h\r\n\r\n" * 10,
        "half a head": b"GET /v1/hub HTTP/1.1\r\nHost: h\r\n",
    }[kind]
    token = hub.join("node-a").token
    with ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(connection(hub)).sendall(sent)
        began = time.monotonic()
        assert get(hub, "/v1/parties", token).status_code == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/hub HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /v1/hub HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /v1/hub HTTP/9.9\r\nHost: h\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v1/hub\r\n\r\n", b"HTTP/1.1 200"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HTTP/1.1 400"),
        (b"GET http://h/v1/hub HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /v1/../v1/hub HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
        (b"GET /v1/hub%00 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
        (b"GET /%ff%fe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
        (b"BREW /v1/hub HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 400"),
        (b"TRACE /v1/hub HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"HTTP/1.1 405"),
        (b"GET /v1/hub HTTP/1.1\r\nHost: h\r\nHost: i\r\nConnection: close\r\n\r\n", b"HTTP/1.1 400"),
        (
            b"GET /v1/parties HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n"
            b"Connection: close\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        (
            b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
            b"HTTP/1.1 400",
        ),
        (
            b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        (
            b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        (
            b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        (b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST /v1/parties HTTP/1.1\r\nHost: h\r\nContent-Length: 1e9\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v1/hub HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v1/hub HTTP/1.1\r\nHost: h\r\nX y: a\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v1/hub HTTP/1.1\nHost: h\n\n", b"HTTP/1.1 400"),
        (b"GET /v1/hub HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b""),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", b""),
        (b"GET /v1/hub HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 5000 + b"\r\n", b""),
    ],
)
def test_odd_requests_are_answered_once_or_cut_off_and_never_with_5xx(
    hub: HubThread, sent: bytes, status: bytes
) -> None:
    found = answer_to(hub, sent)
    assert found[:12] == status
    assert found.count(b"HTTP/1.1 ") <= 1
    assert fetch_hub(hub.url).federation == hub.ledger.federation


def test_pipelined_requests_are_answered_in_turn_and_a_flood_of_them_is_cut_off(hub: HubThread) -> None:
    one = b"GET /v1/hub HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /v1/hub HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert answer_to(hub, one * 5 + last).count(b"HTTP/1.1 200") == 6
    assert answer_to(hub, one * 20_000).count(b"HTTP/1.1 200") < 100
    assert fetch_hub(hub.url).federation == hub.ledger.federation


def test_a_hundred_nodes_behind_one_address_are_served_with_the_default_limits(tmp_path: Path) -> None:
    limits = HubLimits(reserve_bytes=0)
    with HubThread(tmp_path, limits=limits) as hub, ExitStack() as stack:
        began = time.monotonic()
        for number in range(100):
            assert fetch_hub(hub.url)
            token = hub.join(f"node-{number}").token
            session = stack.enter_context(requests.Session())
            session.headers["Authorization"] = f"Bearer {token}"
            for _ in range(3):
                assert session.get(f"{hub.url}/v1/parties", timeout=20).status_code == 200
        assert time.monotonic() - began < 60
