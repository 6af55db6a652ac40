"""The hub's HTTP side: rights, odd names, slow and endless bodies, life and end of objects."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from fedjob.common.errors import (
    ConfigError,
    NotPermitted,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    SpecError,
)
from fedjob.common.http_client import Patience
from fedjob.common.types import Ref
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.monitoring import MonitoringSources
from fedjob.hub.storage.objects import ObjectStore
from fedjob.identity.enrolment import save_membership
from fedjob.identity.loopback import SECRET_NAME, proof_of
from fedjob.identity.membership import Invitation, enrol, fetch_hub, load_membership
from fedjob.identity.party_list import Party, PartyList, fetch_parties
from fedjob.repository.http import HttpRepository
from tests.hubs import HASTY, HubThread, keys_of
from tests.on_disk import in_memory_alone, need_a_disk_that_waits
from tests.parts import program
from tests.processes import wait_until

TIGHT = HubLimits(min_body_bytes=1000, object_bytes=1 << 20, reserve_bytes=0, header_bytes=8 << 10)
HURRIED = replace(TIGHT, idle_s=0.5)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    with HubThread(tmp_path / "hub", limits=TIGHT) as hub:
        yield hub


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[HubThread]:
    """A hub that cuts off what stands still for half a second, be it only a busy machine."""
    with HubThread(tmp_path / "hurried", limits=HURRIED) as hub:
        yield hub


def request(
    hub: HubThread,
    method: str,
    path: str,
    *,
    token: str = "",
    body: bytes | list[bytes] | None = None,
    **headers: str,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def raw(hub: HubThread) -> socket.socket:
    host, port = urlsplit(hub.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def send_until_cut_off(connection: socket.socket, start: bytes, more: bytes, *, limit_bytes: int) -> int:
    """Return how much could be sent before the other side broke the connection."""
    sent = 0
    with suppress(ConnectionError):
        connection.sendall(start)
        while sent < limit_bytes:
            connection.sendall(more)
            sent += len(more)
    return sent


def is_served(connection: socket.socket) -> bool:
    """Whether the hub, which runs in this process, holds its end of a connection."""
    here = connection.getsockname()
    return any(found.raddr == here for found in psutil.Process().net_connections("tcp"))


def sent_by(hub: HubThread, token: str) -> float:
    """Return how many bytes of bodies the hub says that it has sent."""
    _, page = request(hub, "GET", "/metrics", token=token)
    line = next(
        line for line in page.decode().splitlines() if line.startswith("fedjob_hub_http_sent_bytes_total")
    )
    return float(line.split()[-1])


def stored_files(hub: HubThread) -> list[Path]:
    return [path for path in (hub.folder / "storage").rglob("*") if path.is_file()]


def test_only_readers_read(hub: HubThread) -> None:
    alice = hub.repository("alice", "researcher")
    for_a = alice.put(b"for node a", job="job_1", readers=["node-a"])
    for_all = alice.put(b"for both", job="job_1", readers=["node-a", "node-b"])
    a, b = hub.repository("node-a"), hub.repository("node-b")
    assert a.get_bytes(for_a, limit_bytes=100) == b"for node a"
    assert a.get_bytes(for_all, limit_bytes=100) == b.get_bytes(for_all, limit_bytes=100) == b"for both"
    with pytest.raises(ObjectMissing, match="no such object that node-b may read"):
        b.get_bytes(for_a, limit_bytes=100)
    assert a.exists(for_a)
    assert not b.exists(for_a)


def test_a_guess_at_a_content_is_answered_the_same_whether_the_hub_has_it_or_not(hub: HubThread) -> None:
    there = hub.repository("alice", "researcher").put(b"age 61, sick 1", job="job_1")
    absent = hashlib.sha256(b"age 61, sick 0").hexdigest()
    token = hub.join("node-c").token
    for method in ("GET", "HEAD", "POST", "DELETE"):
        answers = [
            request(hub, method, f"/v1/objects/{sha256}", token=token, X_Fedjob_Job="job_2")
            for sha256 in (there.sha256, absent)
        ]
        assert answers[0] == answers[1], method
        assert answers[0][0] == 404, method


def test_who_has_the_bytes_may_put_them_and_opens_them_to_nobody_else(hub: HubThread) -> None:
    secret = hub.repository("alice", "researcher").put(b"secret", job="job_1")
    b, c = hub.repository("node-b"), hub.repository("node-c")
    assert b.put(b"secret", job="job_2") == secret
    assert b.get_bytes(secret, limit_bytes=10) == b"secret"
    with pytest.raises(ObjectMissing):
        c.get_bytes(secret, limit_bytes=10)
    # Naming it without its bytes gives nothing.
    assert not c.hold_object(secret.sha256, job="job_3", readers=("node-c",))
    status, _ = request(
        hub, "PUT", f"/v1/objects/{secret.sha256}", token=hub.join("node-c").token, body=b"guess",
        X_Fedjob_Job="job_3", X_Fedjob_Readers="node-c",
    )  # fmt: skip
    assert status == 422
    with pytest.raises(ObjectMissing):
        c.get_bytes(secret, limit_bytes=10)


@pytest.mark.parametrize("token", ["", "x", "00" * 32, "é"])
def test_without_a_known_token_nothing_is_given(hub: HubThread, token: str) -> None:
    ref = hub.repository("alice", "researcher").put(b"x", job="job_1")
    for method, path in (
        ("GET", f"/v1/objects/{ref.sha256}"),
        ("HEAD", f"/v1/objects/{ref.sha256}"),
        ("PUT", f"/v1/objects/{ref.sha256}"),
        ("POST", f"/v1/objects/{ref.sha256}"),
        ("DELETE", f"/v1/objects/{ref.sha256}"),
        ("DELETE", "/v1/jobs/job_1"),
        ("GET", "/v1/parties"),
    ):
        status, _ = request(hub, method, path, token=token, body=b"x" if method == "PUT" else None)
        assert status == 401, (method, path)
    assert hub.repository("alice").exists(ref)


def test_a_revoked_party_is_out_at_once(hub: HubThread) -> None:
    ref = hub.repository("alice", "researcher").put(b"x", job="job_1", readers=["node-a"])
    a = hub.repository("node-a")
    assert a.exists(ref)
    hub.parties.revoke("node-a")
    with pytest.raises(NotPermitted):
        a.get_bytes(ref, limit_bytes=1)
    assert fetch_parties(hub.join("alice"))["node-a"].revoked


def test_a_list_of_parties_is_fetched_once_and_followed_after_that(hub: HubThread) -> None:
    alice = hub.join("alice", "researcher")
    followed = PartyList(alice)
    for k in range(20):
        hub.join(f"node-{k}")
    assert len(followed.fetch()) == 21
    hub.join("node-new")
    hub.parties.revoke("node-3")
    found = followed.fetch()
    assert found == fetch_parties(alice)
    assert found["node-3"].revoked
    assert not found["node-new"].revoked
    mark = followed._mark
    status, body = request(hub, "GET", f"/v1/parties?after={mark}", token=alice.token)
    assert (status, body) == (200, b"[]")


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc%2fpasswd", "../../hub.sqlite", "%2e%2e/%2e%2e/hub.sqlite", "a" * 63, "A" * 64, "g" * 64,
        "0" * 65, "0" * 63 + "%00", "0" * 64 + "/", "0" * 64 + "/x", "", "con", "%", "0" * 5000,
        "%c3%a9" * 64, "0" * 63 + "%0a",
    ],
)  # fmt: skip
def test_an_odd_name_is_no_object(hub: HubThread, name: str) -> None:
    token = hub.join("alice", "researcher").token
    before = stored_files(hub)
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        body = b"x" if method == "PUT" else None
        status, _ = request(hub, method, f"/v1/objects/{name}", token=token, body=body, X_Fedjob_Job="j")
        assert status in (307, 400, 404, 405), method
    assert stored_files(hub) == before == []


@pytest.mark.feature("NV-02")
@pytest.mark.parametrize(
    ("job", "readers"),
    [
        ("", ""),
        ("../up", ""),
        ("../../etc", ""),
        ("a/b", ""),
        ("j" * 129, ""),
        ("j", "Node"),
        ("j", "a,,b"),
        ("j", "../x"),
        ("j", "é"),
    ],
)
def test_odd_jobs_and_readers_are_refused(hub: HubThread, job: str, readers: str) -> None:
    token = hub.join("alice", "researcher").token
    name = hashlib.sha256(b"x").hexdigest()
    status, said = request(
        hub, "PUT", f"/v1/objects/{name}", token=token, body=b"x", X_Fedjob_Job=job, X_Fedjob_Readers=readers
    )
    assert status == 400
    assert b"named" in said
    assert stored_files(hub) == []


def test_bytes_that_are_followed_by_their_hash_are_stored_under_it_and_others_are_not(hub: HubThread) -> None:
    alice = hub.join("alice", "researcher")
    for size in (0, 1, 300_000, TIGHT.object_bytes):
        content = os.urandom(size)
        name = hashlib.sha256(content)
        sent = {"token": alice.token, "X_Fedjob_Job": "job_1"}
        for wrong in (bytes(32), name.digest()[:-1] + bytes([name.digest()[-1] ^ 1])):
            status, _ = request(hub, "POST", "/v1/objects", body=content + wrong, **sent)
            assert status == 422
            assert stored_files(hub) == []
        status, _ = request(hub, "POST", "/v1/objects", body=content + name.digest(), **sent)
        assert status == 201
        assert [path.name for path in stored_files(hub)] == [name.hexdigest()]
        assert request(hub, "GET", f"/v1/objects/{name.hexdigest()}", token=alice.token)[1] == content
        assert request(hub, "DELETE", f"/v1/objects/{name.hexdigest()}", **sent)[0] == 204


def test_an_upload_without_a_name_needs_room_for_its_hash_a_job_and_a_token(hub: HubThread) -> None:
    token = hub.join("alice", "researcher").token
    body = b"x" + hashlib.sha256(b"x").digest()
    too_large = bytes(TIGHT.object_bytes + 1)
    for status, said, sent in (
        (400, b"at least 32", {"body": b"short", "token": token, "X_Fedjob_Job": "job_1"}),
        (400, b"named", {"body": body, "token": token, "X_Fedjob_Job": "../x"}),
        (413, b"at most", {
            "body": too_large + hashlib.sha256(too_large).digest(), "token": token, "X_Fedjob_Job": "job_1"
        }),
    ):  # fmt: skip
        found = request(hub, "POST", "/v1/objects", **sent)  # type: ignore[arg-type]
        assert found[0] == status
        assert said in found[1]
    assert request(hub, "POST", "/v1/objects", token="", body=body, X_Fedjob_Job="job_1")[0] in (401, 403)
    assert stored_files(hub) == []


@pytest.mark.feature("FB-22")
def test_curl_is_all_that_an_upload_takes(hub: HubThread, tmp_path: Path) -> None:
    member = hub.join("alice", "researcher")
    plan = tmp_path / "plan.py"
    plan.write_text("class Plan: ...\n")
    sha256 = hashlib.sha256(plan.read_bytes()).hexdigest()
    url = f"{hub.url}/v1/objects/{sha256}"
    curl = [
        program("curl"),
        "--silent",
        "--show-error",
        "--fail",
        "-H",
        f"Authorization: Bearer {member.token}",
    ]
    for _ in range(2):  # the second time is a success too
        subprocess.run([*curl, "-H", "X-Fedjob-Job: job_1", "-T", plan, url], check=True, timeout=20)
    got = subprocess.run([*curl, url], check=True, timeout=20, capture_output=True)
    assert got.stdout == plan.read_bytes()
    part = subprocess.run([*curl, "-r", "6-9", url], check=True, timeout=20, capture_output=True)
    assert part.stdout == b"Plan"
    subprocess.run([*curl, "-X", "DELETE", f"{hub.url}/v1/jobs/job_1"], check=True, timeout=20)
    assert subprocess.run([*curl, url], timeout=20, capture_output=True, check=False).returncode == 22


def test_ranges(hub: HubThread) -> None:
    alice = hub.repository("alice", "researcher")
    ref = alice.put(b"0123456789", job="job_1")
    token = hub.join("alice").token
    path = f"/v1/objects/{ref.sha256}"
    for asked, status, content in (
        ("bytes=0-", 206, b"0123456789"),
        ("bytes=9-", 206, b"9"),
        ("bytes=2-4", 206, b"234"),
        ("bytes=2-400", 206, b"23456789"),
        ("bytes=10-", 416, b""),
        ("bytes=5-2", 416, b""),
        ("bytes=-3", 200, b"0123456789"),  # what is not understood is answered with all of it
        ("lines=1-2", 200, b"0123456789"),
    ):
        assert request(hub, "GET", path, token=token, Range=asked) == (status, content), asked


def test_a_slow_body_is_cut_off_and_leaves_nothing(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub") as hub:
        token = hub.join("alice", "researcher").token
    name = hashlib.sha256(b"x" * 5000).hexdigest()
    with HubThread(tmp_path / "hub", limits=HURRIED) as hub, raw(hub) as connection:
        with suppress(ConnectionError):  # of a machine that stalls, the head is too slow already
            connection.sendall(
                f"PUT /v1/objects/{name} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
                "X-Fedjob-Job: j\r\nContent-Length: 5000\r\n\r\n".encode()
            )
        began, said = time.monotonic(), b""
        connection.settimeout(0.1)
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"x")  # a byte now and then is no progress
                said += connection.recv(1000)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 20
        assert not said or b" 408 " in said
    assert stored_files(hub) == []


def test_a_slow_head_is_cut_off(hurried: HubThread) -> None:
    for start in (b"", b"GET /v1/hub HTTP/1.1\r\nX: "):
        began = time.monotonic()
        with raw(hurried) as connection:
            with suppress(ConnectionError):
                connection.sendall(start)
                assert connection.recv(100) == b""
            assert 0.2 < time.monotonic() - began < 20


def test_an_endless_head_is_cut_off(hub: HubThread) -> None:
    for start in (b"GET /v1/hub HTTP/1.1\r\nX: ", b"GET /"):
        with raw(hub) as connection:
            assert send_until_cut_off(connection, start, b"x" * 10_000, limit_bytes=10 << 20) < 10 << 20


def test_a_body_ends_at_the_limit_whatever_it_said(hub: HubThread) -> None:
    token = hub.join("alice", "researcher").token
    name = "ab" * 32
    status, _ = request(
        hub, "PUT", f"/v1/objects/{name}", token=token, body=bytes(TIGHT.object_bytes + 1), X_Fedjob_Job="j"
    )
    assert status == 413
    with raw(hub) as connection:  # chunked, without a length, without an end
        connection.sendall(
            f"PUT /v1/objects/{name} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
            "X-Fedjob-Job: j\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        limit = 100 * TIGHT.object_bytes
        assert send_until_cut_off(connection, b"", chunk, limit_bytes=limit) < 20 * TIGHT.object_bytes
    assert stored_files(hub) == []
    content = b"of no known size"
    for method, path, body in (
        ("PUT", f"/v1/objects/{hashlib.sha256(content).hexdigest()}", [content]),
        ("POST", "/v1/objects", [content, hashlib.sha256(content).digest()]),
    ):
        status, said = request(hub, method, path, token=token, body=body, X_Fedjob_Job="j")  # sent in chunks
        assert (status, b"Content-Length" in said) == (400, True)
    assert stored_files(hub) == []


def test_a_reader_that_stops_reading_is_let_go(tmp_path: Path) -> None:
    limits = replace(TIGHT, object_bytes=64 << 20)
    with HubThread(tmp_path / "hub", limits=limits) as hub:
        token = hub.join("alice", "researcher").token
        ref = hub.repository("alice", patience=Patience()).put(os.urandom(60 << 20), job="j")
    with HubThread(tmp_path / "hub", limits=replace(limits, idle_s=2.0)) as hub, raw(hub) as connection:
        connection.sendall(
            f"GET /v1/objects/{ref.sha256} HTTP/1.1\r\nHost: h\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        assert connection.recv(10)
        wait_until(lambda: not is_served(connection), timeout_s=30, what="the hub to let go")
        got = 0
        with suppress(ConnectionError):
            while more := connection.recv(1 << 20):
                got += len(more)
        assert got < ref.size_bytes


def test_large_and_small_answers_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    content = os.urandom((5 << 20) + 3)
    with HubThread(tmp_path / "hub", limits=replace(TIGHT, object_bytes=8 << 20)) as hub:
        ref = hub.repository("alice", "researcher").put(content, job="j")
        token = hub.join("alice").token
        with raw(hub) as connection:
            head = f"/v1/objects/{ref.sha256} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
            asked = (  # all at once, so that the later ones wait for their turn
                f"GET {head}\r\n"
                f"GET {head}Range: bytes=1000001-\r\n\r\n"
                f"HEAD {head}\r\n"
                f"GET {head}Range: bytes=7-5000006\r\n\r\n"
                f"GET {head}Range: bytes=3-5\r\n\r\n"
                f"GET {head}Connection: close\r\n\r\n"
            )
            connection.sendall(asked.encode())
            found = bytearray()
            while more := connection.recv(1 << 20):
                found += more
        bodies = [content, content[1000001:], b"", content[7:5000007], content[3:6], content]
        for body in bodies:
            start, _, rest = bytes(found).partition(b"\r\n\r\n")
            assert start.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206"))
            assert rest[: len(body)] == body
            found = bytearray(rest[len(body) :])
        assert found == b""


def test_a_revoked_party_whose_download_stands_still_is_cut_off_at_once(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub", limits=replace(TIGHT, object_bytes=64 << 20)) as hub:
        token = hub.join("alice", "researcher").token
        ref = hub.repository("alice", patience=Patience()).put(os.urandom(60 << 20), job="j")
        hub.repository("bob", "researcher").put(b"x", job="other")
        with raw(hub) as connection:
            get = f"GET /v1/objects/{ref.sha256} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"
            connection.sendall(get.encode())
            assert connection.recv(10)
            time.sleep(0.3)  # the buffers between the two fill up, and the hub waits for the reader
            hub.parties.revoke("alice")
            hub.end_revoked()
            wait_until(lambda: not is_served(connection), timeout_s=10, what="the hub to let go")
        assert (
            hub.repository("bob").get_bytes(Ref(hashlib.sha256(b"x").hexdigest(), 1), limit_bytes=1) == b"x"
        )


def test_what_the_system_sends_is_counted_like_the_rest(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    monitoring = MonitoringSources(token="t" * 32)
    limits = replace(TIGHT, object_bytes=8 << 20)
    with HubThread(tmp_path / "hub", limits=limits, monitoring=monitoring) as hub:
        alice = hub.repository("alice", "researcher")
        ref = alice.put(content, job="j")
        before = sent_by(hub, monitoring.token)
        assert alice.get_bytes(ref, limit_bytes=8 << 20) == content
        after = sent_by(hub, monitoring.token)
        assert len(content) <= after - before < len(content) + 100_000


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n" * 10, bytes(100), b"PUT / HTTP/9.9\r\n\r\n"],
)
def test_garbage_is_no_request(hurried: HubThread, garbage: bytes) -> None:
    with raw(hurried) as connection:
        try:
            connection.sendall(garbage)
            said = connection.recv(1000)
        except ConnectionError:
            said = b""
        assert not said or b" 400 " in said or b" 404 " in said
    assert fetch_hub(hurried.url).federation == hurried.ledger.federation


def test_quota_and_reserve(tmp_path: Path) -> None:
    with HubThread(tmp_path / "q", limits=replace(TIGHT, party_bytes=1000)) as hub:
        alice = hub.repository("alice", "researcher")
        alice.put(bytes(900), job="job_1")
        with pytest.raises(NotPermitted, match="900 of 1000"):
            alice.put(os.urandom(200), job="job_1")
        alice.end_job("job_1")
        alice.put(os.urandom(200), job="job_2")
    with HubThread(tmp_path / "r", limits=replace(TIGHT, reserve_bytes=1 << 60)) as hub:
        status, said = request(
            hub, "PUT", f"/v1/objects/{'ab' * 32}", token=hub.join("alice", "researcher").token, body=b"x",
            X_Fedjob_Job="j",
        )  # fmt: skip
        assert (status, b"disk is full" in said) == (507, True)
        assert stored_files(hub) == []


def test_the_owner_of_a_job_ends_it_for_everybody(hub: HubThread) -> None:
    alice, bob = hub.repository("alice", "researcher"), hub.repository("bob", "researcher")
    node = hub.repository("node-a")
    task = alice.put(b"task", job="job_1", readers=["node-a"])
    reply = node.put(b"reply", job="job_1", readers=["alice"])
    kept = node.put(b"task", job="job_of_bob", readers=["bob"])
    for other in (bob, node):
        with pytest.raises(NotPermitted, match="belongs to another"):
            other.end_job("job_1")
    with pytest.raises(NotPermitted, match="belongs to another"):
        bob.put(b"x", job="job_1")
    alice.end_job("job_1")
    with pytest.raises(ObjectMissing):
        alice.get_bytes(reply, limit_bytes=10)
    assert not alice.exists(task)
    assert node.exists(kept)
    assert [path.name for path in stored_files(hub)] == [kept.sha256]


def test_a_part_that_is_there_is_not_sent_again(hub: HubThread, tmp_path: Path) -> None:
    alice = hub.repository("alice", "researcher", part_bytes=100_000)
    content = os.urandom(350_000)
    alice.put(content[:87_500], job="job_1")  # the first of four equal parts
    sent: list[str] = []
    store = alice.store_object

    class Counting(HttpRepository):
        def store_object(self, sha256: str, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            sent.append(sha256)
            store(sha256, *args, **kwargs)  # type: ignore[arg-type]

    member = hub.join("alice")
    with Counting(hub.url, token=member.token, part_bytes=100_000, patience=HASTY) as counting:
        ref = counting.put(content, job="job_2", readers=["node-a"])
        assert len(sent) == 4  # three parts and the manifest
        counting.put(content, job="job_3")
        assert len(sent) == 5  # the manifest
    assert hub.repository("node-a", part_bytes=100_000).get(ref, tmp_path / "copy").read_bytes() == content


def test_what_nobody_ended_is_swept_when_its_time_is_up(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub", limits=TIGHT) as hub:
        alice = hub.repository("alice", "researcher")
        old = alice.put(b"old", job="job_1")
        stray = hub.folder / "storage" / "incoming" / f"{'0' * 32}.tmp"
        stray.write_bytes(b"left by a kill")
        others = [
            hub.folder / "storage" / "incoming" / "mail.txt",
            hub.store.path("ab" * 32).parent / "notes",
        ]
        for path in others:
            path.write_text("of the owner, who chose the folder")
        lost = hub.store.path("ab" * 32)
        lost.write_bytes(b"renamed, never committed")
        assert hub.store.sweep().num_objects == 0
        assert alice.exists(old)
        later = ObjectStore(
            hub.folder / "storage", hub.ledger, TIGHT, clock=lambda: time.time() + TIGHT.ttl_s + 7200
        )
        swept = later.sweep()
        assert (swept.num_jobs, swept.num_objects, swept.num_files) == (1, 1, 2)
        for path in others:
            path.unlink()  # they are there still
        assert stored_files(hub) == []
        assert not alice.exists(old)


def test_an_object_is_on_the_disk_when_the_hub_confirms_it(tmp_path: Path) -> None:
    need_a_disk_that_waits(tmp_path)
    with HubThread(tmp_path / "hub", limits=replace(TIGHT, object_bytes=32 << 20)) as hub:
        for size in (1000, (20 << 20) + 5):  # one that is written at once, and one while it arrives
            hub.repository("alice", "researcher").put(os.urandom(size), job="job_1")
            assert len(found := [path for path in stored_files(hub) if path.stat().st_size == size]) == 1
            assert not in_memory_alone(found[0])


def test_a_killed_hub_keeps_what_it_confirmed(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub", limits=TIGHT) as hub:
        refs = [hub.repository("alice", "researcher").put(bytes([i]) * 50, job="job_1") for i in range(20)]
        token = hub.join("alice").token
    with HubThread(tmp_path / "hub", limits=TIGHT) as again:
        with HttpRepository(again.url, token=token, patience=HASTY) as repository:
            assert [repository.get_bytes(ref, limit_bytes=50)[0] for ref in refs] == list(range(20))
        assert again.ledger.federation == hub.ledger.federation


def test_enrolment_by_invitation(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub", invited_only=True) as hub:
        path = tmp_path / "node-a.invitation"

        def invite(party: str, role: str = "node") -> Path:
            path.write_bytes(Invitation(hub.url, party, role, hub.parties.invite(party, role)).dump())
            return path

        keys, others = keys_of("node-a"), keys_of("node-a")
        with pytest.raises(NotPermitted, match="fedjob hub invite node-a"):
            enrol(hub.url, "node-a", "node", keys)
        with pytest.raises(SpecError, match="invites node 'node-a', not node 'node-b'"):
            enrol(None, "node-b", "node", keys_of("node-b"), invite("node-a"))
        member = enrol(None, "node-a", "node", keys, invite("node-a"))
        assert fetch_parties(member)["node-a"] == Party("node-a", "node", keys.signing, False, keys.sealing)
        with pytest.raises(NotPermitted, match="used already"):
            enrol(None, "node-a", "node", others, path)
        earlier = Invitation.load(invite("node-c"))
        invite("node-c")
        path.write_bytes(earlier.dump())
        with pytest.raises(NotPermitted, match="not known"):
            enrol(None, "node-c", "node", keys_of("node-c"), path)
        # A lost key: the owner invites again, and the old token is void.
        new = enrol(None, "node-a", "node", others, invite("node-a"))
        assert fetch_parties(new)["node-a"].key_hex == others.signing
        with pytest.raises(NotPermitted):
            fetch_parties(member)


def test_enrolment_on_loopback(hub: HubThread) -> None:
    member = enrol(hub.url, "node-a", "node", keys_of("node-a"))
    with pytest.raises(NotPermitted, match="is taken"):
        enrol(hub.url, "node-a", "node", keys_of("node-a"))
    with pytest.raises(SpecError, match="expected role researcher or node, found 'boss'"):
        enrol(hub.url, "node-b", "boss", keys_of("node-b"))
    with pytest.raises(RepositoryError, match=r"expected a public Ed25519 key .* found 'xyz'"):
        enrol(hub.url, "node-b", "node", replace(keys_of("node-b"), signing="xyz"))
    for foreign in (keys_of("node-b"), keys_of("node-c")):
        swapped = replace(keys_of("node-b"), sealing=foreign.sealing, binding=foreign.binding)
        with pytest.raises(
            RepositoryError, match="expected the sealing key of 'node-b' signed with its Ed25519 key"
        ):
            enrol(hub.url, "node-b", "node", swapped)
    with pytest.raises(RepositoryError, match="2432 lower-case hex digits, found 4 characters, 'abcd'"):
        enrol(hub.url, "node-b", "node", replace(keys_of("node-b"), sealing="abcd"))
    with pytest.raises(SpecError, match="a party is named"):
        enrol(hub.url, "Node B", "node", keys_of("node-b"))
    keys = keys_of("node-b")
    who = ("node-b", "node", keys.signing, "cd" * 32)
    proof = proof_of((hub.folder / SECRET_NAME).read_text().strip(), *who)
    wanted = {**dict(zip(("party", "role", "key", "token"), who, strict=True)), "proof": proof}
    wanted |= {"sealing": keys.sealing, "binding": keys.binding}
    for _ in range(2):  # asked again after a lost answer: the same
        status, said = request(hub, "POST", "/v1/parties", body=json.dumps(wanted).encode())
        assert (status, json.loads(said)["token"]) == (201, "cd" * 32)
    # Everybody on this machine, or behind a proxy, reaches loopback; a proof is good for what it was made for.
    stranger = keys_of("node-c")
    other = {
        "party": "node-c",
        "key": stranger.signing,
        "sealing": stranger.sealing,
        "binding": stranger.binding,
    }
    for made in (other, {**other, "proof": ""}, {**other, "proof": "ab" * 32}):
        status, _ = request(hub, "POST", "/v1/parties", body=json.dumps({**wanted, **made}).encode())
        assert status == 403
    body = json.dumps(wanted).encode()
    assert request(hub, "POST", "/v1/parties", body=body, Origin="http://127.0.0.1:9")[0] == 403
    for body in (b"", b"[]", b"{}", b"\xff", b"[" * 10_000, json.dumps({**wanted, "role": 3}).encode()):
        assert request(hub, "POST", "/v1/parties", body=body)[0] == 400
    assert request(hub, "POST", "/v1/parties", body=bytes(1 << 20))[0] == 413
    assert member.token not in (hub.folder / "hub.sqlite").read_bytes().decode("latin1")


def test_a_membership_is_kept_in_the_home(hub: HubThread, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to no federation"):
        load_membership(tmp_path)
    member = hub.join("node-a")
    save_membership(tmp_path, member)
    assert load_membership(tmp_path) == member
    assert (tmp_path / "membership.mpk").stat().st_mode & 0o777 == 0o600
    assert member.token not in repr(member)
    assert member.broker_password not in repr(member)
    (tmp_path / "membership.mpk").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="not readable"):
        load_membership(tmp_path)


def test_an_object_that_is_too_large_is_refused_by_the_client_too(hub: HubThread) -> None:
    alice = hub.repository("alice", "researcher")
    with pytest.raises(ObjectTooLarge):
        alice.put(bytes(TIGHT.object_bytes + 1), job="j")
    assert not alice.exists(Ref(hashlib.sha256(bytes(TIGHT.object_bytes + 1)).hexdigest(), 1))
