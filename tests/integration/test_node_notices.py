"""The owner hears that something waits, by each of the ways that a node can be set to."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedjob.common.codec import unpack
from fedjob.common.config import set_config
from fedjob.common.errors import ConfigError
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Answer
from fedjob.node.cli import node as node_command
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.notifications import SEND_WITHIN_S
from tests.integration.nodes import ADD_ONE, Federation, Node
from tests.processes import wait_until


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


class _Mailbox(socketserver.StreamRequestHandler):
    """Speaks enough SMTP to take a mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        recipients, lines = [], []
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"RCPT":
                recipients.append(line.decode().strip())
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text.decode())
                self.server.mails.append((recipients, "".join(lines)))  # type: ignore[attr-defined]
            if word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


class _Silent(socketserver.BaseRequestHandler):
    """Takes the connection and says nothing until the test is over."""

    def handle(self) -> None:
        self.server.mails.append("under way")  # type: ignore[attr-defined]
        self.server.over.wait(60)  # type: ignore[attr-defined]


@contextmanager
def mail_server(handler: type[socketserver.BaseRequestHandler]) -> Iterator[Any]:
    server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.mails, server.over = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def web_server(status: int = 204) -> Iterator[Any]:
    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.posts.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.posts = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def asks(federation: Federation, rate: str = "0.1") -> str:
    ann = federation.ann
    offer = ann.offer(
        "node1",
        ADD_ONE.replace("0.1", rate),
        "AddOne",
        note="secret\r\nBcc: all@x.example",
        owner={"org": "a\x1bcme"},
    )
    return ann.answer_to(offer, Answer).grant


def counters(node: Node) -> dict[str, int]:
    """Return what `fedjob node status` shows."""
    with node.database() as database:
        row = database.row("SELECT facts FROM live")
    return {} if row is None else dict(unpack(row["facts"])["counters"])


def unnoticed(node: Node) -> int:
    with node.database() as database:
        return len(Grants(database).unnoticed())


def test_a_mail_a_webhook_and_a_command_tell_that_something_waits(
    federation: Federation, tmp_path: Path
) -> None:
    told, go = tmp_path / "told.json", tmp_path / "go"
    script = tmp_path / "tell.sh"
    waits = f"while [ ! -e {go} ]; do sleep 0.05; done"
    script.write_text(f"#!/bin/sh\ncat > {told}.part\nmv {told}.part {told}\n{waits}\n")
    script.chmod(0o755)
    with mail_server(_Mailbox) as mails, web_server() as web:
        config = NodeConfig(
            notify_mail="dpo@clinic.example, desk@clinic.example",
            smtp=f"smtp://127.0.0.1:{mails.server_address[1]}",
            notify_webhook=f"http://127.0.0.1:{web.server_address[1]}/hooks/fedjob",
            notify_command=str(script),
            notify_every_s=1.0,
        )
        node = federation.node(config=config).start()
        id_ = asks(federation)
        wait_until(told.exists, timeout_s=30, what="the command")
        ((recipients, mail),) = mails.mails
        assert [line.split("<")[1].split(">")[0] for line in recipients] == [
            "dpo@clinic.example",
            "desk@clinic.example",
        ]
        assert "Subject: fedjob node node1: 1 request waits for a decision" in mail
        assert f"fedjob node grants show {id_} --code" in mail
        assert "Bcc" not in mail  # what a researcher writes is not passed on
        ((path, kind, posted),) = web.posts
        assert (path, kind) == ("/hooks/fedjob", "application/json")
        assert posted == json.loads(told.read_text())
        (waiting,) = posted["waiting"]
        assert (waiting["id"], waiting["researcher"], waiting["org"]) == (id_, "ann", "a cme")

        more = [asks(federation, rate) for rate in ("0.2", "0.3")]
        go.touch()  # the first notice was under way until now
        wait_until(lambda: len(mails.mails) > 1, timeout_s=30, what="the second mail")
        time.sleep(1.5)
        assert len(mails.mails) == 2  # what came in between is told together, and nothing twice
        assert all(id_ in mails.mails[1][1] for id_ in more)
        wait_until(lambda: unnoticed(node) == 0, timeout_s=30, what="the note that it was told")
        wait_until(lambda: counters(node).get("notices_sent") == 2, timeout_s=30, what="the count")


def test_a_mail_server_that_says_nothing_does_not_keep_the_node_from_its_work(federation: Federation) -> None:
    with mail_server(_Silent) as mails:
        smtp = f"smtp://127.0.0.1:{mails.server_address[1]}"
        node = federation.node(config=NodeConfig(notify_mail="dpo@clinic.example", smtp=smtp)).start()
        asks(federation)
        wait_until(lambda: mails.mails, timeout_s=30, what="the mail to be under way")
        began = time.monotonic()
        asks(federation, "0.2")
        assert time.monotonic() - began < SEND_WITHIN_S / 2
        assert unnoticed(node) == 2
        node.stop()


@pytest.mark.parametrize("way", ["mail", "webhook", "command", "no such command", "quotes"])
def test_a_way_that_fails_is_counted_and_the_request_still_waits(
    federation: Federation, way: str, tmp_path: Path
) -> None:
    with web_server(500) as web:
        settings: dict[str, Any] = {
            "mail": {"notify_mail": "dpo@clinic.example", "smtp": "smtp://127.0.0.1:1"},
            "webhook": {"notify_webhook": f"http://127.0.0.1:{web.server_address[1]}"},
            "command": {"notify_command": "false"},
            "no such command": {"notify_command": str(tmp_path / "none")},
            "quotes": {"notify_command": "say 'hello"},
        }
        node = federation.node(config=NodeConfig(**settings[way])).start()
        asks(federation)
        wait_until(lambda: counters(node).get("notices_failed", 0) >= 1, timeout_s=30, what="the count")
        assert unnoticed(node) == 1
        assert asks(federation, "0.2")


def test_what_waited_while_no_way_was_set_is_told_when_one_is(federation: Federation, tmp_path: Path) -> None:
    node = federation.node(config=NodeConfig()).start()
    id_ = asks(federation)
    told = tmp_path / "told"
    node.config = NodeConfig(notify_command=f"tee {told}")
    wait_until(lambda: told.exists() and id_ in told.read_text(), timeout_s=30, what="the command")


def test_an_owner_sends_a_notice_as_a_test_and_reads_which_way_failed(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    home.create()
    Identity.load_or_create(home.keys, "ward")

    def notify() -> Result:
        return CliRunner().invoke(node_command, ["notify", "--home", str(home.root)])

    nothing = notify()
    assert isinstance(nothing.exception, ConfigError)
    assert "no way of being notified is set" in str(nothing.exception)
    received = tmp_path / "received.json"
    set_config(NodeConfig, home.root, "notify_command", f"tee {received}")
    assert notify().output == "command  sent\n"
    told = json.loads(received.read_text())
    assert told["text"].startswith("fedjob node ward: a test, nothing waits")
    assert told["waiting"] == []
    with web_server(status=500) as server:
        set_config(NodeConfig, home.root, "notify_webhook", f"http://127.0.0.1:{server.server_port}/")
        failed = notify()
    assert "webhook  failed" in failed.output
    assert "command  sent" in failed.output
    assert str(failed.exception) == "the notice did not go out by webhook"
