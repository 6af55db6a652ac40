"""The embedded broker: amqtt in a process of its own, with the same users and rules as Mosquitto.

    python -m fedjob.hub.broker.embedded SOCKET PASSWORD_FILE

It is meant for demos, tests and small pilots: queued messages are lost at a restart, and its
throughput is a quarter of Mosquitto's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext, BrokerConfig, ListenerConfig, ListenerType
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from fedjob.hub.broker.access import may_read, may_write
from fedjob.hub.storage.parties import password_fits

MAX_UNACKNOWLEDGED = 2000
"""Messages on their way to one client; amqtt keeps any number of them for a client that does not acknowledge them."""

_LOOK_EVERY_S = 0.5


class PasswordFile:
    """The users of a password file, which is read again whenever it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._hashes: dict[str, str] = {}

    def hash_of(self, user: str | None) -> str | None:
        """Return the hash of a user's password; None if there is no such user (any more)."""
        found = self._path.stat()
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._hashes = dict(line.split(":", 1) for line in lines if ":" in line)
            self._seen = seen
        return self._hashes.get(user or "")


@dataclass
class FileConfig:
    """The options of both plugins, as amqtt's configuration gives them."""

    password_file: str = ""


class Passwords(BaseAuthPlugin):  # type: ignore[misc]
    """The authentication plugin: it accepts the users of the password file."""

    Config = FileConfig

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._accounts = PasswordFile(Path(self._get_config_option("password_file")))

    async def authenticate(self, *, session: Session) -> bool:
        """Check the name, the password, and the topic of the last will."""
        hashed = self._accounts.hash_of(session.username)
        if hashed is None or not password_fits(session.password or "", hashed):
            return False
        # amqtt publishes a will without asking the topic rules.
        return not session.will_flag or may_write(session.username or "", session.will_topic or "")


class Topics(BaseTopicPlugin):  # type: ignore[misc]
    """The topic plugin: each user may read and write its own topics only."""

    Config = FileConfig

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._accounts = PasswordFile(Path(self._get_config_option("password_file")))

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Answer as Mosquitto's ACL file would."""
        user = None if session is None else session.username
        if not user or not topic or self._accounts.hash_of(user) is None:
            return False
        return may_write(user, topic) if action == Action.PUBLISH else may_read(user, topic)


class _GateWriter(StreamWriterAdapter):  # type: ignore[misc]
    """The writing side of a connection from the hub's gate; a Unix socket has no address of its own."""

    def get_peer_info(self) -> tuple[str, int]:
        return "gate", 0


async def serve(socket: Path, password_file: Path) -> None:
    """Run the broker on a Unix socket until SIGTERM or SIGINT."""
    listener = ListenerConfig(type=ListenerType.EXTERNAL, bind="127.0.0.1:0")
    options: dict[str, Any] = {"password_file": str(password_file)}
    config = BrokerConfig(
        listeners={"default": listener},
        plugins={
            "fedjob.hub.broker.embedded.Passwords": options,
            "fedjob.hub.broker.embedded.Topics": options,
        },
    )
    broker = Broker(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await broker.external_connected(StreamReaderAdapter(reader), _GateWriter(writer), "default")

    socket.unlink(missing_ok=True)
    old = os.umask(0o077)
    try:
        server = await asyncio.start_unix_server(connected, socket, backlog=512)
    finally:
        os.umask(old)
    parting = asyncio.create_task(_part_with_the_silent(broker))
    await stop.wait()
    parting.cancel()
    server.close()
    await broker.shutdown()


async def _part_with_the_silent(broker: Broker) -> None:
    """End the sessions of clients that acknowledge nothing, before their messages fill the memory."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        for session, handler in list(broker.sessions.values()):
            if session.inflight_out_count > MAX_UNACKNOWLEDGED:
                await handler.handle_connection_closed()


def main() -> None:
    """Run with the arguments of the process."""
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s")
    socket, password_file = map(Path, sys.argv[1:])
    asyncio.run(serve(socket, password_file))


if __name__ == "__main__":
    # Imported under its full name, so that the plugins that amqtt looks up by name are these.
    from fedjob.hub.broker import embedded

    embedded.main()
