"""A broker behind its gate, the gate in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from pathlib import Path
from types import TracebackType

from fedjob.hub.broker.child import Accounts, BrokerChild
from fedjob.hub.broker.gate import BrokerGate
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Refusals
from fedjob.hub.server.service import listen
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Parties
from fedjob.identity.membership import broker_password
from tests.bare_mqtt import Answer, BareClient, connect
from tests.hubs import keys_of


class GateThread:
    """A real broker and its gate, as a context manager."""

    def __init__(self, kind: str, folder: Path, limits: HubLimits) -> None:
        self.kind = kind
        self.limits = limits
        self.refusals = Refusals()
        self.ledger = HubDatabase(folder / "hub.sqlite")
        self.parties = Parties(self.ledger, limits)
        self.port = 0
        self.broker_pid = 0
        (folder / "broker").mkdir(exist_ok=True)
        self._accounts = Accounts(folder / "broker", self.parties)
        self._folder = folder
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.passwords: dict[str, str] = {}
        self.gate: BrokerGate

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = listen("127.0.0.1", 0)
        self._child = BrokerChild(self.kind, self._folder / "broker", self._accounts, self.limits)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._ready.set)
            stack.callback(listener.close)
            stack.push_async_callback(self._child.stop)
            await self._child.start()
            self.broker_pid = self._child.pid
            self.gate = BrokerGate(
                self._child.socket,
                self.parties,
                self.limits,
                self.refusals,
                versions=self._child.mqtt_versions,
            )
            server = await self.gate.listen(listener, None)
            stack.callback(server.close)
            self.port = listener.getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def join(self, party: str, role: str = "node") -> str:
        """Enrol a party; return its password at the broker."""
        if party not in self.passwords:
            token = secrets.token_hex(32)
            keys = keys_of(party)
            self.parties.enrol(party, role, keys, token, code=None, invited_only=False)
            assert self._loop is not None
            asyncio.run_coroutine_threadsafe(self._child.admit(party, token), self._loop).result(20)
            self.passwords[party] = broker_password(token)
        return self.passwords[party]

    def revoke(self, party: str) -> None:
        """Revoke a party, and end its sessions as the hub does when its ledger has changed."""
        self.parties.revoke(party)
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.gate.end_revoked(), self._loop).result(20)

    def client(self, *, version: int = 4, timeout_s: float = 10) -> BareClient:
        """Return a connection without a login."""
        return BareClient("127.0.0.1", self.port, version=version, timeout_s=timeout_s)

    def session(self, party: str, *, version: int = 4) -> BareClient:
        """Return a party's session."""
        client = self.client(version=version)
        answer = client.login(connect(party, self.join(party), version=version))
        assert answer == Answer(0), answer
        return client

    def __enter__(self) -> GateThread:
        self._thread.start()
        assert self._ready.wait(30)
        assert self.port, "the broker did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self.ledger.close()
