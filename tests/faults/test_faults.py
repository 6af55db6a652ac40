"""Every fault happens, is counted, and does what it is called."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest

from tests.faults.forward_proxy import ForwardProxy
from tests.faults.http import PAGE
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.mqtt import Packet, split
from tests.faults.script import Fault, Script
from tests.faults.serving import LoopThread

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


class Echo:
    """A server that notes what it gets; it answers with the same bytes, or to requests with `body`."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.requests: list[bytes] = []
        self.body = b"0123456789" * 20
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with client:
            while True:
                try:
                    data = client.recv(1 << 16)
                except OSError:
                    return
                if not data:
                    return
                self.got.append(data)
                if data[:4] in (b"GET ", b"PUT "):
                    self.requests.append(data)
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.body)}\r\n\r\n"
                    data = head.encode() + self.body
                client.sendall(data)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@contextmanager
def client_of(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        yield client


def everything(client: socket.socket, *, within_s: float = 2.0) -> bytes:
    """Return what comes until the end, or until nothing has come for a while."""
    client.settimeout(within_s)
    found = b""
    try:
        while data := client.recv(1 << 16):
            found += data
    except TimeoutError:
        pass
    return found


def say_until_it_ends(port: int) -> None:
    """Say something, twenty times; raise where nothing comes back."""
    with client_of(port) as client:
        for _ in range(20):
            client.sendall(b"x" * 20)
            if not client.recv(100):
                raise ConnectionResetError
            time.sleep(0.01)


# --- of TCP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuse", "cut", "reset", "half_close", "blackhole", "flip_bytes"])
def test_a_fault_of_a_connection_strikes_it_once_its_bytes_have_passed(
    kind: str, loop: LoopThread, echo: Echo
) -> None:
    line = FaultyLine(loop, echo.port)
    line.become(LineProperties(), Script([Fault(kind=kind, num=100, most=1)], seed=1))
    if kind in ("refuse", "reset"):
        with pytest.raises(ConnectionError):
            say_until_it_ends(line.port)
    else:
        with client_of(line.port) as client:
            for _ in range(20):
                try:
                    client.sendall(b"x" * 20)
                except ConnectionError:
                    break
                time.sleep(0.005)
            found = everything(client, within_s=0.3)
            assert (len(found) < 400) == (kind != "flip_bytes")
            assert (set(found) != {ord("x")}) == (kind == "flip_bytes")
    assert line.script.done == {kind: 1}
    with client_of(line.port) as client:  # it strikes once: the next connection is whole
        client.sendall(b"y" * 500)
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b"y" * 500


def test_a_slow_line_takes_the_time_that_its_bits_need_and_a_far_one_its_delay(
    loop: LoopThread, echo: Echo
) -> None:
    line = FaultyLine(loop, echo.port)
    line.become(LineProperties(bits_per_s=400_000, delay_s=0.05, jitter_s=0.02), Script())
    began = time.monotonic()
    with client_of(line.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        first_s = time.monotonic() - began
        client.sendall(b"x" * 50_000)
        client.shutdown(socket.SHUT_WR)
        assert len(everything(client, within_s=5)) == 50_000
    assert 0.1 <= first_s < 0.6
    assert 1.0 <= time.monotonic() - began < 4
    assert line.num_bytes("up") == 50_001


def test_an_outage_delays_what_is_on_the_way_and_new_connections(loop: LoopThread, echo: Echo) -> None:
    line = FaultyLine(loop, echo.port)
    line.become(LineProperties(outage_s=0.5, every_s=100.0), Script())
    began = time.monotonic()
    with client_of(line.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    assert time.monotonic() - began >= 0.4
    assert line.num_delayed_by_outages == 1


def test_a_box_forgets_a_connection_that_was_idle_and_lets_none_of_its_bytes_through(
    loop: LoopThread, echo: Echo
) -> None:
    line = FaultyLine(loop, echo.port)
    line.become(LineProperties(idle_s=0.2), Script())
    with client_of(line.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        time.sleep(0.3)
        client.sendall(b"y")
        assert everything(client, within_s=0.3) == b""
    assert line.num_forgotten == 1
    assert echo.got == [b"x"]


# --- of HTTP ---------------------------------------------------------------------------------


def asked(
    proxy: ForwardProxy, echo: Echo, path: str = "/v1/objects/a", body: bytes = b"", within_s: float = 2.0
) -> tuple[str, bytes]:
    """Ask once through a proxy; return the first line of the answer and what came after its head."""
    method = "PUT" if body else "GET"
    request = f"{method} http://127.0.0.1:{echo.port}{path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with client_of(proxy.port) as client:
        client.sendall(request.encode() + body)
        client.shutdown(socket.SHUT_WR)
        head, _, rest = everything(client, within_s=within_s).partition(b"\r\n\r\n")
    return head.decode(), rest


def test_a_request_without_a_fault_passes_as_it_is(loop: LoopThread, echo: Echo) -> None:
    proxy = ForwardProxy(loop)
    head, body = asked(proxy, echo)
    assert head.startswith("HTTP/1.1 200 OK")
    assert body == echo.body
    assert echo.requests[0].startswith(b"GET /v1/objects/a HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("fault", "first", "body", "reached"),
    [
        (Fault(kind="status", num=502), "HTTP/1.1 502", b"made by a test", 0),
        (Fault(kind="busy", seconds=3), "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3", b"", 0),
        (Fault(kind="hang_up"), "", b"", 0),
        (Fault(kind="lose_answer"), "", b"", 1),
        (Fault(kind="send_twice"), "HTTP/1.1 200", b"0123456789" * 20, 2),
        (Fault(kind="truncate"), "HTTP/1.1 200 OK\r\nContent-Length: 200", b"0123456789" * 10, 1),
        (Fault(kind="shorter_length"), "HTTP/1.1 200 OK\r\nContent-Length: 100", b"0123456789" * 20, 1),
        (Fault(kind="longer_length"), "HTTP/1.1 200 OK\r\nContent-Length: 1200", b"0123456789" * 20, 1),
        (Fault(kind="drip", seconds=0.3), "HTTP/1.1 200", b"0123456789" * 20, 1),
        (Fault(kind="redirect"), "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/elsewhere", b"", 0),
        (Fault(kind="portal"), "HTTP/1.1 200 OK\r\nContent-Type: text/html", PAGE, 0),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_fault_of_a_request_does_what_it_is_called(
    fault: Fault, first: str, body: bytes, reached: int, loop: LoopThread, echo: Echo
) -> None:
    proxy = ForwardProxy(loop)
    proxy.become(Script([fault]))
    began = time.monotonic()
    head, rest = asked(proxy, echo)
    assert head.startswith(first)
    assert body in rest
    assert len(rest) <= max(len(body), 40)
    assert len(echo.requests) == reached
    assert proxy.script.done == {fault.kind: 1}
    assert time.monotonic() - began >= fault.seconds * (fault.kind == "drip")


@pytest.mark.parametrize("kind", ["flip_answer", "flip_request"])
def test_a_flipped_bit_is_one_bit(kind: str, loop: LoopThread, echo: Echo) -> None:
    proxy = ForwardProxy(loop)
    proxy.become(Script([Fault(kind=kind)]))
    sent = b"a" * 100
    _, body = asked(proxy, echo, body=sent)
    found, right = (body, echo.body) if kind == "flip_answer" else (echo.requests[0][-100:], sent)
    wrong = [a ^ b for a, b in zip(found, right, strict=True) if a != b]
    assert [mask.bit_count() for mask in wrong] == [1]
    assert proxy.script.done == {kind: 1}


@pytest.mark.parametrize("kind", ["stale", "other_object"])
def test_the_body_of_another_answer_comes_with_a_length_that_fits(
    kind: str, loop: LoopThread, echo: Echo
) -> None:
    proxy = ForwardProxy(loop)
    proxy.become(Script([Fault(kind=kind, after=1)]))
    _, old = asked(proxy, echo, path="/v1/objects/old")
    echo.body = b"new" * 30
    head, body = asked(proxy, echo)
    assert body == old
    assert "Content-Length: 200" in head
    assert proxy.script.done == {kind: 1}


def test_where_and_how_often_a_fault_strikes_is_in_the_script_and_the_same_for_the_same_seed() -> None:
    fault = Fault(kind="status", rate=0.5, after=3, most=40, where="^GET /v1/objects")

    def struck(seed: int) -> list[bool]:
        script = Script([fault], seed=seed)
        found = []
        for _ in range(100):
            drawn = script.draw(("status",), "GET /v1/objects/a")
            if drawn is not None:
                script.count(drawn)
            assert script.draw(("status",), "PUT /v1/objects/a") is None
            found.append(drawn is not None)
        assert script.done["status"] == sum(found)
        return found

    first = struck(1)
    assert first == struck(1)
    assert first != struck(2)
    assert not any(first[:3])
    assert 30 <= sum(first) <= 40
    with pytest.raises(ValueError, match=r"expected one of refuse, .*, found 'earthquake'"):
        Fault(kind="earthquake")


# --- of MQTT ---------------------------------------------------------------------------------


def publish(number: int) -> bytes:
    """Return a PUBLISH of version 5 with quality of service 1."""
    body = (3).to_bytes(2, "big") + b"a/b" + number.to_bytes(2, "big") + b"\0" + b"payload %03d" % number
    return bytes([0x32, len(body)]) + body


CONNECT = bytes([0x10, 2, 0, 0])


def through_a_broker(loop: LoopThread, echo: Echo, script: Script, packets: list[bytes]) -> bytes:
    """Send packets through a proxy to a server that echoes them; return what it got."""
    proxy = ForwardProxy(loop)
    proxy.become(script)
    with client_of(proxy.port) as client:
        client.sendall(f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n\r\n".encode())
        assert b" 200 " in client.recv(1000)
        with suppress(ConnectionError):
            for packet in (CONNECT, *packets):
                client.sendall(packet)
                time.sleep(0.002)
        everything(client, within_s=0.4)
    return b"".join(echo.got)


@pytest.mark.parametrize(
    "kind",
    ["drop", "duplicate", "reorder", "delay", "corrupt", "replay", "garble", "disconnect", "lose_ack"],
)
def test_a_fault_of_a_packet_does_what_it_is_called(kind: str, loop: LoopThread, echo: Echo) -> None:
    sent = [publish(number) for number in range(5)]
    if kind == "lose_ack":
        sent.insert(2, bytes([0x40, 2, 0, 7]))
    script = Script([Fault(kind=kind, where=" up ", after=2 * (kind != "lose_ack"), most=1, seconds=0.2)])
    came = through_a_broker(loop, echo, script, sent)
    assert script.done == {kind: 1}
    plain = CONNECT + b"".join(sent)
    found = [packet.data for packet in split(came)[0]][1:]
    match kind:
        case "drop" | "lose_ack":
            assert found == [*sent[:2], *sent[3:]]
        case "duplicate":
            assert found == [*sent[:3], sent[2], *sent[3:]]
        case "reorder" | "delay":
            assert found == [*sent[:2], *sent[3:], sent[2]]
        case "corrupt" | "garble":
            wrong = [a ^ b for a, b in zip(came, plain, strict=True) if a != b]
            assert [mask.bit_count() for mask in wrong] == [1]
        case "replay":
            assert len(found) == len(sent) + 1
            again = Packet(3, found[3], 2)
            assert again.topic == "a/b"
            assert again.data[0] == 0x30
            assert again.data[again.topic_end :] in [packet[-12:] for packet in sent]
        case "disconnect":
            assert found == sent[:2]


def test_a_packet_that_comes_in_pieces_is_taken_as_one() -> None:
    data = publish(1) + publish(2)
    for cut in range(len(data)):
        packets, rest = split(data[:cut])
        more, left = split(rest + data[cut:])
        assert [packet.data for packet in packets + more] == [publish(1), publish(2)]
        assert left == b""
    long = bytes([0x30, 0x80, 0x02]) + b"\0\1a" + bytes(253)
    assert split(long)[0][0].data == long
