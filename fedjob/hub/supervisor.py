"""The hub as a process: its HTTP server, its broker, and the task that keeps both up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.http_client import check_http_url
from fedjob.common.network.addresses import is_loopback
from fedjob.hub.broker import rabbitmq
from fedjob.hub.broker.access import HUB_USER
from fedjob.hub.broker.child import Accounts, BrokerChild
from fedjob.hub.broker.gate import BrokerGate, Door
from fedjob.hub.broker.local_socket import LocalSocket
from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.broker.rabbit_management import RabbitManagement
from fedjob.hub.config.authority import ClientAuthority
from fedjob.hub.config.home import HubHome, Running
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Refusals
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.app import Broker, HubApp
from fedjob.hub.server.broker_rights import BrokerKey
from fedjob.hub.server.client_certificates import BrokerDoor, ClientCertificates
from fedjob.hub.server.monitoring import TOKEN_NAME, MonitoringSources, takes_connection
from fedjob.hub.server.service import listen, make_server
from fedjob.hub.storage.bucket import Bucket, BucketAddress, BucketLogin
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.objects import ObjectStore
from fedjob.hub.storage.parties import Parties
from fedjob.hub.storage.rosters import RosterBook
from fedjob.identity.keys import load_or_create_secret
from fedjob.identity.loopback import make_secret
from fedjob.identity.membership import PLAIN_SCHEMES, broker_at_hub
from fedjob.identity.statements.federation_keys import FederationKeys

_log = logging.getLogger("fedjob")

SYNC_EVERY_S = 0.5
SWEEP_EVERY_S = 3600.0
DEFAULT_MQTT_PORT = 1844
BROKER_SCHEMES = ("mqtt", "mqtts", "ws", "wss")
HANDSHAKE_S = 10.0


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The settings of a hub.

    Args:
        broker_url: of an MQTT broker that runs elsewhere; empty to start one as a child process.
        broker_management: of the HTTP API of that broker, a RabbitMQ, by which the hub ends the connections of parties that
            were revoked; empty for none.
        invited_only: require invitations on loopback too.
        bucket: in which the objects lie, instead of a folder; None for a folder.
        bucket_login: file of the login at its store; None for the environment.
        storage_direct: parties may fetch objects from the store themselves.
        read_urls: other servers of the same objects, announced to the parties.
        mqtt_port: the broker's own; None for 1844 on loopback without TLS, and else for none:
            parties reach the broker through `port`, as MQTT over WebSocket, which they can in any case.
        proxies: addresses of web servers before the hub, which say in X-Forwarded-For where a request comes from.
        public_broker: URL of the broker announced to the parties, where a proxy stands in front of it.
        client_ca: certificate of the authority that the parties' certificates are from; None for the hub's own.
        only_certificates: refuse who shows none, even with a signature of the request in its place.
        tls_in_front: a web server before the hub ends TLS, so that parties sign their requests.
        federation: the keys that sign the roster, from now on; None for what the home has.
        tls_ca: certificate of the private authority that the hub's own is from, which invitations carry from now on;
            None for what the home has.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8844
    mqtt_port: int | None = None
    broker_kind: str = "auto"
    broker_url: str = ""
    broker_management: str = ""
    storage: Path | None = None
    bucket: BucketAddress | None = None
    bucket_login: Path | None = None
    storage_direct: bool = False
    tls: TlsFiles | None = None
    insecure: bool = False
    invited_only: bool = False
    read_urls: tuple[str, ...] = ()
    public_broker: str = ""
    client_ca: Path | None = None
    only_certificates: bool = False
    tls_in_front: bool = False
    federation: FederationKeys | None = None
    tls_ca: Path | None = None
    proxies: tuple[str, ...] = ()
    limits: HubLimits = field(default_factory=HubLimits)

    @property
    def has_one_port(self) -> bool:
        """True if the broker has no port of its own that others could reach."""
        return self.mqtt_port is None and (self.is_guarded or not is_loopback(self.host))

    @property
    def enrols_its_user(self) -> bool:
        """True if the hub's own user needs no invitation."""
        return is_loopback(self.host) and not self.invited_only

    @property
    def is_guarded(self) -> bool:
        """True if parties show more than their tokens: a certificate, or a signature of each request."""
        return self.tls is not None or self.tls_in_front

    @property
    def guard(self) -> str:
        """What parties show, in words, for the hub's owner."""
        if self.tls is not None:
            issuer = (
                "the hub's own authority" if self.client_ca is None else f"the authority {self.client_ca}"
            )
            more = "" if self.only_certificates else ", or a signature of each request where none arrives"
            return f"a certificate of {issuer}{more}"
        if self.tls_in_front:
            return "a signature of each request: a web server before the hub ends TLS"
        where = "on loopback" if is_loopback(self.host) else "over the network, --insecure"
        return f"tokens alone: no TLS {where}; whoever reads or copies one can use it"

    def check(self) -> HubSettings:
        """Return itself if a hub may run like that.

        Raises:
            ConfigError, SpecError: it may not run; the message says what to change.
        """
        if not is_loopback(self.host) and self.tls is None and not self.insecure:
            raise ConfigError(
                f"{self.host} can be reached over the network, where others could read tokens: give --tls-cert "
                "and --tls-key, or --insecure with --tls-in-front if a web server in front of the hub adds TLS"
            )
        self._check_guard()
        if self.tls is not None:
            self.tls.check()
        for url in filter(None, (self.broker_url, self.public_broker)):
            check_broker_url(url)
            here = url == self.broker_url and _is_plain_here(url)
            if self.is_guarded and not here and urlsplit(url).scheme in PLAIN_SCHEMES:
                raise ConfigError(
                    f"a hub with TLS names no broker without it, and {url} is one: give its mqtts:// or wss:// address"
                )
        for url in self.read_urls:
            check_http_url(url)
        self._check_management()
        return self

    def _check_management(self) -> None:
        if not self.broker_management:
            return
        check_http_url(self.broker_management)
        parts = urlsplit(self.broker_management)
        if self.is_guarded and _is_plain_here(self.broker_url):
            raise ConfigError(
                "--broker-management is not needed: the hub carries parties to that broker itself and ends their sessions"
            )
        if not self.broker_url:
            raise ConfigError("--broker-management is of a RabbitMQ that runs elsewhere: give --broker, too")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ConfigError(
                f"expected https:// or an address of this machine as --broker-management, found {self.broker_management}: "
                "others on the network could read the hub's password"
            )

    def _check_guard(self) -> None:
        if self.tls is not None and self.tls_in_front:
            raise ConfigError("expected --tls-cert or --tls-in-front, found both: TLS ends in one place")
        if self.tls is None and (self.client_ca is not None or self.only_certificates):
            raise ConfigError("--client-ca and --only-certificates need --tls-cert and --tls-key")
        if self.tls is None and self.tls_ca is not None:
            raise ConfigError("--tls-ca needs --tls-cert and --tls-key, which it signed")
        if self.tls_in_front and self.mqtt_port is not None:
            raise ConfigError(
                "--mqtt-port can't be with --tls-in-front: parties reach the broker through the web server, at /mqtt"
            )
        if self.client_ca is not None:
            ClientAuthority(self.client_ca)

    def warnings(self) -> list[str]:
        """Return the warnings that the owner should read before the hub starts."""
        warnings = [] if self.tls is None else self.tls.warnings()
        if not is_loopback(self.host) and not self.is_guarded:
            warnings.append(
                f"the hub listens on {self.host} without TLS: others on the network can read tokens and "
                "parameters, unless a proxy in front of it adds TLS"
            )
        for url in filter(None, (self.broker_url, self.public_broker)):
            parts = urlsplit(url)
            if parts.scheme in PLAIN_SCHEMES and not is_loopback(parts.hostname or ""):
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
        self._management_password = secrets.token_hex(32)
        self._ready = ready

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            ConfigError: the home or a port is in use.
            BrokerUnreachable: the broker does not start.
        """
        settings = self._settings
        home = HubHome(settings.home, settings.storage)
        async with contextlib.AsyncExitStack() as stack:
            ledger = self._open(home, stack)
            parties = Parties(ledger, settings.limits)
            bucket = await self._bucket()
            store = ObjectStore(home.storage, ledger, settings.limits, bucket=bucket)
            store.clear_broken_off()
            listener = listen(settings.host, settings.port)
            stack.callback(listener.close)
            accounts = Accounts(home.broker, parties, by_name=bool(settings.broker_url))
            certificates = self._certificates(home, ledger)
            refusals = Refusals()
            door = None if certificates is None else BrokerDoor(certificates)
            rules = GateRules(parties, refusals, door)
            broker = await self._broker(home, accounts, rules, stack)
            app = HubApp(
                ledger.federation,
                parties,
                store,
                broker=lambda: broker.announced,
                admit=broker.admit,
                loopback=make_secret(home.folder) if settings.enrols_its_user else None,
                read_urls=settings.read_urls,
                gate=broker.gate,
                certificates=certificates,
                refusals=refusals,
                proxies=settings.proxies,
                monitoring=self._monitoring(home, broker.child),
                broker_key=self._broker_key(home),
                direct=settings.storage_direct,
            )
            stack.callback(app.close)
            authority = None if certificates is None else certificates.authority.path
            if broker.gate is not None and not settings.has_one_port and not settings.broker_url:
                await self._listen_for_mqtt(broker, broker.gate, authority, stack)
            server = make_server(
                app.app(),
                settings.limits,
                settings.tls,
                authority,
                refusals=refusals,
                proxies=settings.proxies,
            )
            keeping = asyncio.create_task(_keep_in_step(ledger, store, broker, app))

            def ready() -> None:
                running = self._running(home, listener.getsockname()[1], broker)
                self._announce(home, running)
                self._ready(running, accounts)

            await _serve(server, listener, ready, stop, keeping)

    def _open(self, home: HubHome, stack: contextlib.AsyncExitStack) -> HubDatabase:
        settings = self._settings
        if home.opened:
            _log.warning("%s", home.opened)
        home.lock()
        stack.callback(home.unlock)
        ledger = HubDatabase(home.ledger)
        stack.callback(ledger.close)
        if settings.federation is not None:
            RosterBook(ledger).adopt(settings.federation)
        if settings.tls is not None and (note := settings.tls.keep_authority(home.folder, settings.tls_ca)):
            _log.warning("%s", note)
        return ledger

    def _running(self, home: HubHome, port: int, broker: _BrokerInUse) -> Running:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"{'http' if settings.tls is None else 'https'}://{host}:{port}"
        return Running(
            pid=os.getpid(),
            url=url,
            broker_url=broker.url or broker_at_hub(url),
            broker_kind=broker.announced.kind,
            broker_version=broker.announced.version,
            broker_pid=0 if broker.child is None else broker.child.pid,
            storage=str(settings.bucket or home.storage),
            storage_login=str(settings.bucket_login.absolute()) if settings.bucket_login else "",
            guard=settings.guard,
        )

    def _announce(self, home: HubHome, running: Running) -> None:
        home.announce(running)
        if self._settings.broker_url:
            asks = rabbitmq.settings(running.url, _rights_secret(home))
            write_atomic(home.broker / rabbitmq.SETTINGS_NAME, asks.encode())

    def _broker_key(self, home: HubHome) -> BrokerKey | None:
        if not self._settings.broker_url:
            return None
        return BrokerKey(_rights_secret(home), self._management_password)

    def _certificates(self, home: HubHome, ledger: HubDatabase) -> ClientCertificates | None:
        settings = self._settings
        if not settings.is_guarded:
            return None
        if settings.client_ca is None:
            authority = ClientAuthority.load_or_create(home.folder, ledger.federation)
        else:
            authority = ClientAuthority(settings.client_ca)
        return ClientCertificates(
            authority,
            ledger.federation,
            valid_s=settings.limits.certificate_s,
            takes_proofs=not settings.only_certificates,
        )

    async def _listen_for_mqtt(
        self,
        broker: _BrokerInUse,
        gate: BrokerGate,
        authority: Path | None,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        """Let clients in at a port of the broker's own, too; what comes in goes the way of `/mqtt`."""
        settings = self._settings
        tls = settings.tls
        listener = listen(
            settings.host, DEFAULT_MQTT_PORT if settings.mqtt_port is None else settings.mqtt_port
        )
        stack.callback(listener.close)
        server = await gate.listen(listener, None if tls is None else tls.context(authority))
        stack.callback(server.close)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        broker.url = f"{'mqtt' if tls is None else 'mqtts'}://{host}:{listener.getsockname()[1]}"
        named = broker.announced
        broker.announced = Broker(settings.public_broker or broker.url, named.kind, named.version)

    def _monitoring(self, home: HubHome, child: BrokerChild | None) -> MonitoringSources:
        async def answers() -> bool:
            if child is not None:
                return child.pid != 0 and await takes_connection(child.socket.connect)
            where = urlsplit(self._settings.broker_url)
            return await takes_connection(partial(asyncio.open_connection, where.hostname, where.port))

        return MonitoringSources(
            token=load_or_create_secret(home.folder / TOKEN_NAME).hex(),
            broker_answers=answers,
            broker_restarts=lambda: 0 if child is None else child.num_restarts,
            certificate=None if self._settings.tls is None else self._settings.tls.cert,
        )

    async def _bucket(self) -> Bucket | None:
        """Return the bucket for the objects, which can be used; None where they lie in a folder."""
        if self._settings.bucket is None:
            return None
        bucket = Bucket(self._settings.bucket, BucketLogin.load(self._settings.bucket_login))
        await asyncio.to_thread(bucket.check)
        return bucket

    async def _broker(
        self, home: HubHome, accounts: Accounts, rules: GateRules, stack: contextlib.AsyncExitStack
    ) -> _BrokerInUse:
        settings = self._settings
        if settings.broker_url:
            accounts.write()
            management = None
            if settings.broker_management:
                management = RabbitManagement(settings.broker_management, HUB_USER, self._management_password)

            async def write() -> None:
                await asyncio.to_thread(accounts.write)
                if management is not None:
                    await asyncio.to_thread(management.end_revoked, rules.parties.all())

            async def admit(party: str, token: str) -> None:
                await asyncio.to_thread(accounts.write)

            where, gate = settings.broker_url, None
            if settings.is_guarded and _is_plain_here(where):
                parts = urlsplit(where)
                gate = rules.gate(BrokerPort(parts.hostname or "", parts.port or 1883), settings.limits)
                where = ""
            external = Broker(settings.public_broker or where, "external")
            return _BrokerInUse(external, where, admit, write, None, gate)
        child = BrokerChild(settings.broker_kind, home.broker, accounts, settings.limits)
        stack.push_async_callback(child.stop)
        await child.start()
        gate = rules.gate(child.socket, settings.limits, child.mqtt_versions)
        stack.callback(gate.close)
        announced = Broker(settings.public_broker, child.kind, child.version)
        return _BrokerInUse(announced, "", child.admit, child.sync, child, gate)


@dataclass(frozen=True)
class GateRules:
    """What the gate of a broker decides by."""

    parties: Parties
    refusals: Refusals
    door: Door | None

    def gate(
        self, broker: LocalSocket | BrokerPort, limits: HubLimits, versions: tuple[int, ...] = (4, 5)
    ) -> BrokerGate:
        """Return a gate for this broker."""
        return BrokerGate(broker, self.parties, limits, self.refusals, versions=versions, door=self.door)


@dataclass
class _BrokerInUse:
    """The broker of a running hub.

    Args:
        announced: what parties are told.
        url: under which this machine reaches it; empty for the hub's own port.
        gate: through which the hub carries clients itself; None where they go to the broker alone.
    """

    announced: Broker
    url: str
    admit: Callable[[str, str], Awaitable[None]]
    sync: Callable[[], Awaitable[object]]
    child: BrokerChild | None
    gate: BrokerGate | None


async def _serve(
    server: uvicorn.Server,
    listener: socket.socket,
    ready: Callable[[], None],
    stop: asyncio.Event,
    keeping: asyncio.Task[None],
) -> None:
    """Serve until `stop` is set, or until the server or `keeping` ends by itself."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.002)
    ready()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, serving, keeping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    for task in (stopping, keeping):
        task.cancel()
    await asyncio.gather(stopping, keeping, return_exceptions=True)
    await serving


async def _keep_in_step(
    ledger: HubDatabase,
    store: ObjectStore,
    broker: _BrokerInUse,
    app: HubApp,
) -> None:
    """Apply changes that the command line made to the ledger, and collect garbage now and then."""
    seen, swept = -1, asyncio.get_running_loop().time()
    while True:
        with contextlib.suppress(FedjobError, OSError):  # such as a full disk: the next try may do
            if (version := ledger.version()) != seen:
                await app.end_revoked()
                if broker.gate is not None:
                    await broker.gate.end_revoked()
                await broker.sync()  # last: it writes files, and no full disk may keep in who was revoked
                seen = version
        with contextlib.suppress(FedjobError, OSError):
            if asyncio.get_running_loop().time() - swept > SWEEP_EVERY_S:
                swept = asyncio.get_running_loop().time()
                await asyncio.to_thread(store.sweep)
        await asyncio.sleep(SYNC_EVERY_S)


def _rights_secret(home: HubHome) -> str:
    """Return the secret by which a RabbitMQ asks this hub for the rights of parties."""
    return load_or_create_secret(home.broker / rabbitmq.SECRET_NAME).hex()


def _is_plain_here(url: str) -> bool:
    """True for a broker without TLS on this machine, to which a hub with TLS carries its parties itself."""
    parts = urlsplit(url)
    return parts.scheme == "mqtt" and is_loopback(parts.hostname or "")


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
