"""The embedded broker: amqtt in a process of its own, with the same users and rules as Mosquitto.

    python -m fedjob.hub.broker.embedded HOST PORT PASSWORD_FILE [CERT KEY]

It is meant for demos, tests and small pilots: queued messages are lost at a restart, and its
throughput is a quarter of Mosquitto's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext, BrokerConfig, ListenerConfig
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from fedjob.hub.broker.access import may_read, may_write
from fedjob.hub.storage.parties import password_fits

MAX_CONNECTIONS = 8192


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


async def serve(host: str, port: int, password_file: Path, tls: tuple[Path, Path] | None = None) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    listener = ListenerConfig(
        bind=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        max_connections=MAX_CONNECTIONS,
        ssl=tls is not None,
        certfile=None if tls is None else tls[0],
        keyfile=None if tls is None else tls[1],
    )
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
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    """Run with the arguments of the process."""
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s")
    host, port, password_file, *tls = sys.argv[1:]
    files = (Path(tls[0]), Path(tls[1])) if tls else None
    asyncio.run(serve(host, int(port), Path(password_file), files))


if __name__ == "__main__":
    # Imported under its full name, so that the plugins that amqtt looks up by name are these.
    from fedjob.hub.broker import embedded

    embedded.main()
