"""The hub as a process: its HTTP server, its broker, and the task that keeps both up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.common.http_client import check_http_url
from fedjob.common.network.addresses import is_loopback
from fedjob.hub.broker.child import Accounts, BrokerChild
from fedjob.hub.config.home import HubHome, Running
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.app import Broker, HubApp
from fedjob.hub.server.service import listen, make_server
from fedjob.hub.storage.bucket import Bucket, BucketAddress, BucketLogin
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.objects import ObjectStore
from fedjob.hub.storage.parties import Parties
from fedjob.identity.loopback import make_secret
from fedjob.identity.membership import broker_at_hub

_log = logging.getLogger("fedjob")

SYNC_EVERY_S = 0.5
SWEEP_EVERY_S = 3600.0
DEFAULT_MQTT_PORT = 1844
BROKER_SCHEMES = ("mqtt", "mqtts", "ws", "wss")


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The settings of a hub.

    Args:
        broker_url: of an MQTT broker that runs elsewhere; empty to start one as a child process.
        invited_only: require invitations on loopback too.
        bucket: in which the objects lie, instead of a folder; None for a folder.
        bucket_login: file of the login at its store; None for the environment.
        storage_direct: parties may fetch objects from the store themselves.
        read_urls: other servers of the same objects, announced to the parties.
        mqtt_port: the broker's own; None for 1844 on loopback without TLS, where that saves a step, and else for none:
            parties reach the broker through `port`, as MQTT over WebSocket, which they can in any case.
        public_broker: URL of the broker announced to the parties, where a proxy stands in front of it.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8844
    mqtt_port: int | None = None
    broker_kind: str = "auto"
    broker_url: str = ""
    storage: Path | None = None
    bucket: BucketAddress | None = None
    bucket_login: Path | None = None
    storage_direct: bool = False
    tls: TlsFiles | None = None
    insecure: bool = False
    invited_only: bool = False
    read_urls: tuple[str, ...] = ()
    public_broker: str = ""
    limits: HubLimits = field(default_factory=HubLimits)

    @property
    def has_one_port(self) -> bool:
        """True if the broker has no port of its own that others could reach."""
        return self.mqtt_port is None and (self.tls is not None or not is_loopback(self.host))

    def check(self) -> HubSettings:
        """Return itself if a hub may run like that.

        Raises:
            ConfigError, SpecError: it may not run; the message says what to change.
        """
        if not is_loopback(self.host) and self.tls is None and not self.insecure:
            raise ConfigError(
                f"{self.host} can be reached over the network, where others could read tokens: give --tls-cert "
                "and --tls-key, or --insecure if a proxy in front of the hub adds TLS"
            )
        if self.tls is not None:
            self.tls.check()
        for url in filter(None, (self.broker_url, self.public_broker)):
            check_broker_url(url)
        for url in self.read_urls:
            check_http_url(url)
        return self

    def warnings(self) -> list[str]:
        """Return the warnings that the owner should read before the hub starts."""
        warnings = [] if self.tls is None else self.tls.warnings()
        if not is_loopback(self.host) and self.tls is None:
            warnings.append(
                f"the hub listens on {self.host} without TLS: others on the network can read tokens and "
                "parameters, unless a proxy in front of it adds TLS"
            )
        for url in filter(None, (self.broker_url, self.public_broker)):
            parts = urlsplit(url)
            if parts.scheme in ("mqtt", "ws") and not is_loopback(parts.hostname or ""):
                warnings.append(
                    f"the broker {url} is used without TLS: others on the network can read passwords; "
                    f"use mqtts:// or wss://"
                )
        return warnings


class Hub:
    """A hub that runs until it is stopped.

    Args:
        ready: called once, when the hub can be used.
    """

    def __init__(self, settings: HubSettings, ready: Callable[[Running, Accounts], None]) -> None:
        self._settings = settings.check()
        self._ready = ready

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            ConfigError: the home or a port is in use.
            BrokerUnreachable: the broker does not start.
        """
        settings = self._settings
        home = HubHome(settings.home, settings.storage)
        if home.opened:
            _log.warning("%s", home.opened)
        home.lock()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(home.unlock)
            ledger = HubDatabase(home.ledger)
            stack.callback(ledger.close)
            parties = Parties(ledger, settings.limits)
            bucket = await self._bucket()
            store = ObjectStore(home.storage, ledger, settings.limits, bucket=bucket)
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
                loopback=make_secret(home.folder)
                if is_loopback(settings.host) and not settings.invited_only
                else None,
                read_urls=settings.read_urls,
                broker_port=None if child is None else child.on_this_machine,
                direct=settings.storage_direct,
            )
            stack.callback(app.close)
            server = make_server(app.app(), settings.limits, settings.tls)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            keeping = asyncio.create_task(_keep_in_step(ledger, store, sync))
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"{'http' if settings.tls is None else 'https'}://{host}:{listener.getsockname()[1]}"
            where = broker() if child is None else child
            running = Running(
                pid=os.getpid(),
                url=url,
                broker_url=broker_at_hub(url) if settings.has_one_port and child is not None else where.url,
                broker_kind=where.kind,
                broker_version=where.version,
                broker_pid=0 if child is None else child.pid,
                storage=str(settings.bucket or home.storage),
                storage_login=str(settings.bucket_login.absolute()) if settings.bucket_login else "",
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

    async def _bucket(self) -> Bucket | None:
        """Return the bucket for the objects, which can be used; None where they lie in a folder."""
        if self._settings.bucket is None:
            return None
        bucket = Bucket(self._settings.bucket, BucketLogin.load(self._settings.bucket_login))
        await asyncio.to_thread(bucket.check)
        return bucket

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
            host="127.0.0.1" if settings.has_one_port else settings.host,
            port=0
            if settings.has_one_port
            else DEFAULT_MQTT_PORT
            if settings.mqtt_port is None
            else settings.mqtt_port,
            tls=None if settings.has_one_port else settings.tls,
        )
        stack.push_async_callback(child.stop)
        await child.start()
        url = settings.public_broker or ("" if settings.has_one_port else child.url)
        where = Broker(url, child.kind, child.version)
        return lambda: where, child.admit, child.sync, child


async def _keep_in_step(
    ledger: HubDatabase, store: ObjectStore, sync: Callable[[], Awaitable[object]]
) -> None:
    """Apply changes that the command line made to the ledger, and collect garbage now and then."""
    seen, swept = -1, asyncio.get_running_loop().time()
    while True:
        with contextlib.suppress(FedjobError, OSError):  # such as a full disk: the next try may do
            if (version := ledger.version()) != seen:
                await sync()
                seen = version
            if asyncio.get_running_loop().time() - swept > SWEEP_EVERY_S:
                swept = asyncio.get_running_loop().time()
                await asyncio.to_thread(store.sweep)
        await asyncio.sleep(SYNC_EVERY_S)


def check_broker_url(url: str) -> str:
    """Return `url` if it can be a broker's.

    Raises:
        SpecError: it can't be; the message has an example.
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
