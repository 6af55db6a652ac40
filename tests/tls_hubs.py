"""A whole hub with TLS and a broker, in a thread of the test's process, and homes that joined it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType

from fedjob.hub.config.home import Running
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Parties
from fedjob.hub.supervisor import Hub, HubSettings
from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import Invitation, Membership
from tests.authorities import Authority

WITHIN_S = 60.0


class TlsHub:
    """A hub as `fedjob hub start` runs it, as a context manager.

    Args:
        folder: for its home, its authority and the homes of its parties.
        settings: see `HubSettings`; `tls=None` for one without TLS.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority")
        pair = self.authority.server("hub")
        limits = settings.pop("limits", HubLimits(reserve_bytes=0))
        given = {"tls": TlsFiles(pair.cert, pair.key), "port": 0, "mqtt_port": 0, **settings}
        self.settings = HubSettings(home=folder / "hub", limits=limits, **given)  # type: ignore[arg-type]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failed: BaseException | None = None
        self.running: Running

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def broker_url(self) -> str:
        return self.running.broker_url

    @property
    def ca(self) -> Path:
        return self.authority.cert

    def parties(self) -> Parties:
        """Return the hub's parties, as its command line sees them."""
        return Parties(HubDatabase(self.folder / "hub" / "hub.sqlite"), self.settings.limits)

    def invitation(self, party: str, role: str = "node") -> Path:
        """Return the file of a new invitation."""
        path = self.folder / f"{party}.invitation"
        path.write_bytes(Invitation(self.url, party, role, self.parties().invite(party, role)).dump())
        return path

    def join(
        self,
        party: str,
        role: str = "node",
        *,
        home: Path | None = None,
        own: ClientCertificate | None = None,
    ) -> Membership:
        """Enrol a home by invitation."""
        where = home or self.folder / party
        return enrol_home(
            where, party, role, hub=None, invite=self.invitation(party, role), tls_ca=self.ca, own=own
        )[0]

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await Hub(self.settings, self._note).run(self._stop)

        try:
            asyncio.run(serve())
        except BaseException as error:
            self._failed = error
        self._ready.set()

    def _note(self, running: Running, accounts: object) -> None:
        self.running = running
        self._ready.set()

    def __enter__(self) -> TlsHub:
        self._thread.start()
        assert self._ready.wait(WITHIN_S), "the hub did not start"
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WITHIN_S)
