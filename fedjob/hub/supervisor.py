"""The hub as a process: its repository, its broker, and what keeps both in step."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.common.web import check_http_url
from fedjob.hub.broker import Accounts, BrokerChild
from fedjob.hub.home import HubHome, Running
from fedjob.hub.ledger import Ledger
from fedjob.hub.limits import Limits
from fedjob.hub.parties import Parties
from fedjob.hub.server import Broker, HubApp
from fedjob.hub.service import listen, make_server
from fedjob.hub.store import ObjectStore
from fedjob.hub.tls import TlsFiles

SYNC_EVERY_S = 0.5
SWEEP_EVERY_S = 3600.0
BROKER_SCHEMES = ("mqtt", "mqtts", "ws", "wss")


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How to run a hub.

    Args:
        broker_url: of a broker that somebody else runs; empty for a child of ours.
        invited_only: on loopback too.
        read_urls: other servers of the same objects, told to the parties.
        public_broker: what parties are told about the broker, where a proxy stands before it.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8844
    mqtt_port: int = 1844
    broker_kind: str = "auto"
    broker_url: str = ""
    storage: Path | None = None
    tls: TlsFiles | None = None
    insecure: bool = False
    invited_only: bool = False
    read_urls: tuple[str, ...] = ()
    public_broker: str = ""
    limits: Limits = field(default_factory=Limits)

    def check(self) -> HubSettings:
        """Return itself if a hub may run like that.

        Raises:
            ConfigError, SpecError: it may not; the message says what to change.
        """
        if not is_loopback(self.host) and self.tls is None and not self.insecure:
            raise ConfigError(
                f"{self.host} is reachable by others, who could read tokens on the way: give --tls-cert and "
                "--tls-key, or --insecure if something before the hub speaks TLS"
            )
        if self.tls is not None:
            self.tls.check()
        for url in filter(None, (self.broker_url, self.public_broker)):
            check_broker_url(url)
        for url in self.read_urls:
            check_http_url(url)
        return self

    def warnings(self) -> list[str]:
        """Return what an owner who chose this should know."""
        said = []
        if not is_loopback(self.host) and self.tls is None:
            said.append(
                f"the hub listens on {self.host} without TLS: whoever is on the way can read tokens and "
                "parameters, unless a proxy before it speaks TLS"
            )
        for url in filter(None, (self.broker_url, self.public_broker)):
            parts = urlsplit(url)
            if parts.scheme in ("mqtt", "ws") and not is_loopback(parts.hostname or ""):
                said.append(
                    f"the broker {url} is spoken to without TLS: whoever is on the way can read passwords; "
                    f"use mqtts:// or wss://"
                )
        return said


class Hub:
    """Runs until told to stop.

    Args:
        ready: called once, when the hub can be used.
    """

    def __init__(self, settings: HubSettings, ready: Callable[[Running, Accounts], None]) -> None:
        self._settings = settings.check()
        self._ready = ready

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            ConfigError: the home is in use, or a port is.
            BrokerUnreachable: the broker does not start.
        """
        settings = self._settings
        home = HubHome(settings.home, settings.storage)
        home.lock()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(home.unlock)
            ledger = Ledger(home.ledger)
            stack.callback(ledger.close)
            parties = Parties(ledger, settings.limits)
            store = ObjectStore(home.storage, ledger, settings.limits)
            listener = listen(settings.host, settings.port)
            stack.callback(listener.close)
            accounts = Accounts(home.broker, parties)
            broker, admit, sync, child = await self._broker(home, accounts, stack)
            app = HubApp(
                ledger.federation,
                parties,
                store,
                broker=broker,
                admit=admit,
                invited_only=settings.invited_only or not is_loopback(settings.host),
                read_urls=settings.read_urls,
            )
            stack.callback(app.close)
            server = make_server(app.app(), settings.limits, settings.tls)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            keeping = asyncio.create_task(_keep_in_step(ledger, store, sync))
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            where = broker() if child is None else child
            running = Running(
                pid=os.getpid(),
                url=f"{'http' if settings.tls is None else 'https'}://{host}:{listener.getsockname()[1]}",
                broker_url=where.url,
                broker_kind=where.kind,
                broker_version=where.version,
                broker_pid=0 if child is None else child.pid,
                storage=str(home.storage),
            )
            while not server.started and not serving.done():
                await asyncio.sleep(0.002)
            home.announce(running)
            self._ready(running, accounts)
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting, serving, keeping}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            for task in (waiting, keeping):
                task.cancel()
            await asyncio.gather(waiting, keeping, return_exceptions=True)
            await serving

    async def _broker(
        self, home: HubHome, accounts: Accounts, stack: contextlib.AsyncExitStack
    ) -> tuple[
        Callable[[], Broker],
        Callable[[str, str], Awaitable[None]] | None,
        Callable[[], Awaitable[object]],
        BrokerChild | None,
    ]:
        settings = self._settings
        if settings.broker_url:
            accounts.write()
            external = Broker(settings.broker_url, "external")

            async def write() -> None:
                await asyncio.to_thread(accounts.write)

            async def admit(party: str, token: str) -> None:
                await write()

            return lambda: external, admit, write, None
        child = BrokerChild(
            settings.broker_kind,
            home.broker,
            accounts,
            host=settings.host,
            port=settings.mqtt_port,
            tls=settings.tls,
        )
        stack.push_async_callback(child.stop)
        await child.start()
        where = Broker(settings.public_broker or child.url, child.kind, child.version)
        return lambda: where, child.admit, child.sync, child


async def _keep_in_step(ledger: Ledger, store: ObjectStore, sync: Callable[[], Awaitable[object]]) -> None:
    """Notice what the command line changes, and sweep now and then."""
    seen, swept = -1, asyncio.get_running_loop().time()
    while True:
        with contextlib.suppress(FedjobError, OSError):  # a full disk, say: the next time may do
            if (version := ledger.version()) != seen:
                await sync()
                seen = version
            if asyncio.get_running_loop().time() - swept > SWEEP_EVERY_S:
                swept = asyncio.get_running_loop().time()
                await asyncio.to_thread(store.sweep)
        await asyncio.sleep(SYNC_EVERY_S)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_broker_url(url: str) -> str:
    """Return `url` if it can be a broker's.

    Raises:
        SpecError: it can't; the message says what was expected.
    """
    parts = urlsplit(url)
    expected = f"expected a broker's URL such as mqtts://broker.example.org:8883, found {url[:80]!r}"
    if parts.scheme not in BROKER_SCHEMES:
        raise SpecError(expected)
    try:
        check_http_url("http" + url[len(parts.scheme) :])
        if parts.port is None:
            raise SpecError(expected)
    except (SpecError, ValueError) as error:
        raise SpecError(expected) from error
    return url
