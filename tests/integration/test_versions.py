"""A hub of another version of fedjob is refused by name, at each place where a party meets it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedjob.common.errors import VersionMismatch
from fedjob.identity.membership import fetch_hub
from fedjob.node.daemon.connection_watch import ConnectionWatch
from tests.processes import Processes, wait_until


class OtherHub(ThreadingHTTPServer):
    """A hub that says which version it runs, and nothing else."""

    version = "0.2.0"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Facts(BaseHTTPRequestHandler):
    server: OtherHub

    def do_GET(self) -> None:
        facts = {
            "federation": "fed_1",
            "version": self.server.version,
            "broker": {"url": "mqtt://127.0.0.1:1", "kind": "mosquitto"},
            "read_urls": [],
        }
        body = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[OtherHub]:
    with OtherHub(("127.0.0.1", 0), _Facts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_a_hub_of_another_series_is_refused_and_both_versions_are_named(hub: OtherHub) -> None:
    with pytest.raises(
        VersionMismatch, match=r"runs fedjob 0\.2\.0, and this is 0\.1\.\d+: .* Install the hub's here"
    ):
        fetch_hub(hub.url)
    hub.version = "0.1.99"
    assert fetch_hub(hub.url).version == "0.1.99"
    hub.version = "0.2\x1b[2J" + "x" * 1000
    with pytest.raises(VersionMismatch) as caught:
        fetch_hub(hub.url)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("words", [("init",), ("node", "init")], ids=" ".join)
def test_nobody_joins_a_hub_of_another_series(
    words: tuple[str, ...], hub: OtherHub, processes: Processes, tmp_path: Path
) -> None:
    done = processes.run(
        "fedjob", *words, "--home", tmp_path / "home", "--id", "ann", "--hub", hub.url, expect=1
    )
    assert "runs fedjob 0.2.0, and this is 0.1" in done.stderr
    assert "Traceback" not in done.stderr


class _Connected:
    """What a watch asks of an endpoint that is connected."""

    connected, trouble, twin_seen = True, "", 0.0
    misdated: dict[str, float] = {}  # noqa: RUF012 # never written to

    def announce(self) -> None:
        pass


def test_a_running_node_whose_hub_was_upgraded_says_so_until_it_fits_again(
    hub: OtherHub, caplog: pytest.LogCaptureFixture
) -> None:
    def ahead_s() -> float | None:
        fetch_hub(hub.url)
        return 0.0

    watch = ConnectionWatch(_Connected(), ahead_s)  # type: ignore[arg-type]
    watch.look(1000.0)
    wait_until(lambda: watch.facts()["version_trouble"], timeout_s=10, what="the other version")
    assert "runs fedjob 0.2.0" in watch.facts()["version_trouble"]
    assert "runs fedjob 0.2.0" in caplog.text
    hub.version = "0.1.0"
    watch.look(2000.0)
    wait_until(lambda: not watch.facts()["version_trouble"], timeout_s=10, what="the same version")
