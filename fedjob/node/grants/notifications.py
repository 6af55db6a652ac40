"""The notices to the owner that requests wait: by mail, by webhook or by a command, as the node is set.

The daemon never waits for any of them. One thread sends, within a deadline; what
fails is logged, counted and tried again, ever more seldom, until one way has
worked or nothing waits any more.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shlex
import signal
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from fedjob.common.checks import printable
from fedjob.common.errors import ConfigError
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.grant import Grant
from fedjob.node.storage.burden import Burden

SEND_WITHIN_S = 20.0
AGAIN_AFTER_S = 5.0
AGAIN_AT_MOST_S = 600.0
MAX_LISTED = 20
"""Requests that one notice describes; of more only the number is given."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice to the owner. It holds no text that a researcher wrote but names, and no data.

    Args:
        waiting: the requests that it describes, the first `MAX_LISTED`.
        num_waiting: number of all requests.
        is_test: nothing waits; the owner tries whether notices arrive.
    """

    node: str
    waiting: tuple[dict[str, Any], ...]
    num_waiting: int
    is_test: bool = False

    @property
    def subject(self) -> str:
        """One line."""
        if self.is_test:
            return f"fedjob node {self.node}: a test, nothing waits for a decision"
        several = "requests wait" if self.num_waiting != 1 else "request waits"
        return f"fedjob node {self.node}: {self.num_waiting} {several} for a decision"

    @property
    def text(self) -> str:
        """Return the text of the mail."""
        lines = [self.subject + ".", ""]
        for one in self.waiting:
            lines.append(
                f"{one['id']}  {one['researcher']} wants to run {one['entry']} on {one['dataset'] or 'no data'}"
                f" ({one['use']})"
            )
            if one["burden"]:
                lines.append(f"    it moves {one['burden']}")
            lines.append(f"    fedjob node grants show {one['id']} --code")
        if self.num_waiting > len(self.waiting):
            lines.append(f"and {self.num_waiting - len(self.waiting)} more")
        return "\n".join([*lines, ""])

    def to_json(self) -> bytes:
        """Return the JSON that a webhook is sent and a command reads."""
        plain = {
            "text": self.text,
            "node": self.node,
            "num_waiting": self.num_waiting,
            "waiting": list(self.waiting),
        }
        return json.dumps(plain).encode()


def notice_of(node: str, grants: Iterable[Grant], burden: Callable[[Grant], Burden | None]) -> Notice:
    """Return the notice about these requests.

    Args:
        burden: returns what a request costs the node.
    """
    every = list(grants)
    names = ("id", "researcher", "org", "dataset", "use", "protocol", "entry", "plan", "project", "requested")
    waiting = []
    for grant in every[:MAX_LISTED]:
        plain = grant.to_plain()
        found = burden(grant)
        words = "" if found is None else f"{found.bytes_words}; it takes {found.time_words}"
        waiting.append({**{name: _plain_text(plain[name]) for name in names}, "burden": words})
    return Notice(node, tuple(waiting), len(every))


class Notices:
    """Sends notices on a thread of its own.

    Args:
        count: called with the name of a counter: `notices_sent`, `notices_failed`.
    """

    def __init__(self, node: str, config: NodeConfig, count: Callable[[str], None]) -> None:
        self.config = config
        self._node = node
        self._count = count
        self._wanted: queue.Queue[tuple[Notice, NodeConfig] | None] = queue.Queue(maxsize=1)
        self._outcomes: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._under_way: tuple[str, ...] = ()
        self._tries = 0
        self._again_at = 0.0

    @property
    def wanted(self) -> bool:
        """True if the owner has set any way of being notified."""
        return bool(self.config.notify_mail or self.config.notify_webhook or self.config.notify_command)

    def look(
        self, waiting: Callable[[], list[Grant]], burden: Callable[[Grant], Burden | None]
    ) -> tuple[str, ...]:
        """Begin to send a notice if one is due; return the ids of requests that were notified. Never blocks.

        Args:
            waiting: returns the requests that the owner was not told of.
            burden: returns what one of them costs the node.
        """
        done: tuple[str, ...] = ()
        now = time.monotonic()
        while not self._outcomes.empty():
            num_failed, any_sent = self._outcomes.get_nowait()
            self._tries = min(self._tries + 1, 10)
            for _ in range(num_failed):
                self._count("notices_failed")
            if any_sent:
                self._count("notices_sent")
                done, self._tries = self._under_way, 0
                self._again_at = now + self.config.notify_every_s
            else:
                self._again_at = now + min(AGAIN_AFTER_S * 2 ** (self._tries - 1), AGAIN_AT_MOST_S)
            self._under_way = ()
        if done or self._under_way or not self.wanted or now < self._again_at:
            return done
        found = waiting()
        if found:
            self._under_way = tuple(grant.id for grant in found)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
                self._thread.start()
            self._wanted.put_nowait((notice_of(self._node, found, burden), self.config))
        return done

    def stop(self) -> None:
        """Let the thread go; a notice that is under way may still be sent."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._wanted.put_nowait(None)

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            outcomes = send_notice(*wanted)
            for way, error in outcomes.items():
                if error is not None:
                    log.warning("the owner could not be told by %s that something waits: %s", way, error)
            failed = [error for error in outcomes.values() if error is not None]
            self._outcomes.put((len(failed), len(failed) < len(outcomes)))


def send_notice(notice: Notice, config: NodeConfig) -> dict[str, Exception | None]:
    """Send a notice by every way that is set.

    Returns:
        `mail`, `webhook` or `command` -> why it failed; None where it was taken.
    """
    ways = {
        "mail": (config.notify_mail, send_mail),
        "webhook": (config.notify_webhook, post),
        "command": (config.notify_command, run_command),
    }
    outcomes: dict[str, Exception | None] = {}
    for way, (setting, send) in ways.items():
        if setting:
            outcomes[way] = None
            try:
                send(notice, config)
            except Exception as error:  # whatever a mail server or a command does, the others are tried
                outcomes[way] = error
    return outcomes


def send_mail(notice: Notice, config: NodeConfig) -> None:
    """Hand a mail to the mail server.

    Raises:
        ConfigError: the setting `smtp` is no URL of a mail server.
        OSError, SMTPException: it was not taken.
    """
    url = urlsplit(config.smtp)
    if url.scheme not in ("smtp", "smtps") or not url.hostname:
        raise ConfigError(
            f"smtp: expected smtp://HOST:PORT or smtps://HOST:PORT, found scheme {url.scheme!r}"
        )
    mail = EmailMessage()
    to = [address.strip() for address in config.notify_mail.split(",") if address.strip()]
    mail["Subject"] = notice.subject
    mail["From"] = f"fedjob node {notice.node} <{to[0]}>"
    mail["To"] = ", ".join(to)
    mail.set_content(notice.text)
    secure = url.scheme == "smtps"
    port = url.port or (465 if secure else 25)
    context = ssl.create_default_context()
    if secure:
        server: smtplib.SMTP = smtplib.SMTP_SSL(url.hostname, port, timeout=SEND_WITHIN_S, context=context)
    else:
        server = smtplib.SMTP(url.hostname, port, timeout=SEND_WITHIN_S)
    with server:
        if url.username:
            if not secure:
                server.starttls(context=context)  # a password never travels in the clear
            server.login(unquote(url.username), unquote(url.password or ""))
        server.send_message(mail, from_addr=to[0], to_addrs=to)


def post(notice: Notice, config: NodeConfig) -> None:
    """Post a notice as JSON.

    Raises:
        FedjobError: it was not taken.
    """
    from fedjob.common.http_client import Patience, Web

    web = Web(config.notify_webhook, patience=Patience(connect_s=5.0, idle_s=SEND_WITHIN_S, num_retries=0))
    try:
        web.call("POST", "", headers={"Content-Type": "application/json"}, body=notice.to_json())
    finally:
        web.close()


def run_command(notice: Notice, config: NodeConfig) -> None:
    """Run the owner's command; it reads the notice as JSON from its input.

    Raises:
        ConfigError: it ends with another status than 0.
        OSError, SubprocessError: it can't be run, or takes too long; then it is killed with what it started.
    """
    process = subprocess.Popen(
        shlex.split(config.notify_command),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.communicate(notice.to_json(), timeout=SEND_WITHIN_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        raise ConfigError(f"notify_command ended with status {process.returncode}")


def _plain_text(value: Any) -> Any:
    """Keep what a researcher is called from steering whatever shows it."""
    return printable(value)[:200] if isinstance(value, str) else value
