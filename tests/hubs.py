"""A hub's HTTP side in a thread of the test's process, and parties that joined it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from fedjob.common.http_client import Patience
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.app import Broker, HubApp
from fedjob.hub.server.broker_rights import BrokerKey
from fedjob.hub.server.monitoring import MonitoringSources
from fedjob.hub.server.service import ServiceThread
from fedjob.hub.storage.bucket import Bucket
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.objects import ObjectStore
from fedjob.hub.storage.parties import Parties
from fedjob.identity.keys import Identity, PublicKeys
from fedjob.identity.loopback import make_secret
from fedjob.identity.membership import Membership, enrol
from fedjob.repository.http import HttpRepository
from fedjob.repository.parts import PART_BYTES


def keys_of(party: str) -> PublicKeys:
    """Return the public halves of keys that nobody keeps."""
    return Identity.generate(party).public_keys


HASTY = Patience(connect_s=20, idle_s=20, num_retries=3, backoff_s=0.01, max_backoff_s=0.05)


class HubThread:
    """A hub without a broker, as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: HubLimits | None = None,
        invited_only: bool = False,
        storage: Path | None = None,
        monitoring: MonitoringSources | None = None,
        broker_key: BrokerKey | None = None,
        bucket: Bucket | None = None,
        direct: bool = False,
    ) -> None:
        self.bucket = bucket
        self.folder = folder
        self.limits = limits or HubLimits(reserve_bytes=0)
        self.ledger = HubDatabase(folder / "hub.sqlite")
        self.parties = Parties(self.ledger, self.limits)
        self.store = ObjectStore(storage or folder / "storage", self.ledger, self.limits, bucket=bucket)
        self._app = HubApp(
            self.ledger.federation,
            self.parties,
            self.store,
            broker=lambda: Broker("mqtt://127.0.0.1:1844", "external"),
            loopback=None if invited_only else make_secret(folder),
            monitoring=monitoring,
            broker_key=broker_key,
            direct=direct,
        )
        self._stack = ExitStack()
        self._members: dict[str, Membership] = {}
        self.url = ""

    def application(self) -> ASGIApp:
        """Return the hub's HTTP application, to serve it a second time."""
        return self._app.app()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the hub's HTTP application."""
        return self._app.routes()

    def join(self, party: str, role: str = "node") -> Membership:
        """Enrol a party, once."""
        if party not in self._members:
            self._members[party] = enrol(self.url, party, role, keys_of(party))
        return self._members[party]

    def repository(
        self, party: str, role: str = "node", *, part_bytes: int = PART_BYTES, patience: Patience = HASTY
    ) -> HttpRepository:
        """Return the repository as a party sees it."""
        member = self.join(party, role)
        repository = HttpRepository(self.url, token=member.token, part_bytes=part_bytes, patience=patience)
        self._stack.callback(repository.close)
        return repository

    def __enter__(self) -> HubThread:
        self._stack.callback(self.ledger.close)
        self._stack.callback(self._app.close)
        self.url = self._stack.enter_context(ServiceThread(self._served, limits=self.limits)).url
        return self

    def _served(self) -> ASGIApp:
        self._loop = asyncio.get_running_loop()
        return self._app.app()

    def end_revoked(self) -> None:
        """End the transfers of those who are revoked, as the hub does when its ledger has changed."""
        asyncio.run_coroutine_threadsafe(self._app.end_revoked(), self._loop).result(20)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
