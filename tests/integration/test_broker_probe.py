"""The probe of whether something that takes connections answers a login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fedjob.hub.broker.probe import answers_login
from tests.conftest import Mosquitto

CONNACK_REFUSED = b"\x20\x02\x00\x05"

Serve = Callable[[Callable[[socket.socket], object]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that does one thing with its first connection; return its port. All is closed at the end."""
    with ExitStack() as stack:

        def start(action: Callable[[socket.socket], object]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)

            def run() -> None:
                connection = stack.enter_context(listener.accept()[0])
                action(connection)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join, 10)
            return int(listener.getsockname()[1])

        yield start


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_silent_or_closes_answers_no_login(serve: Serve, tls: bool) -> None:
    assert not answers_login("127.0.0.1", serve(lambda connection: None), tls=tls, timeout_s=1)
    assert not answers_login("127.0.0.1", serve(lambda connection: connection.close()), tls=tls, timeout_s=5)


def test_a_refusal_is_an_answer_and_no_tls_is_none_where_tls_is_expected(serve: Serve) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(CONNACK_REFUSED)

    assert answers_login("127.0.0.1", serve(refuse), tls=False)
    assert not answers_login("127.0.0.1", serve(refuse), tls=True)


def test_a_mosquitto_answers(mosquitto: Mosquitto) -> None:
    assert answers_login(mosquitto.host, mosquitto.port, tls=False)
