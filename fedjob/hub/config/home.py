"""The hub's folder on disk: the names of all its files, and the lock that keeps a second hub out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.common.files import is_locked, make_folder, open_locked, write_atomic
from fedjob.identity.enrolment import check_role_of_home
from fedjob.identity.private_home import close_home


@dataclass(frozen=True, slots=True)
class Running:
    """The facts that a running hub writes to `running.json` for other processes of this machine."""

    pid: int
    url: str
    broker_url: str
    broker_kind: str
    broker_version: str
    broker_pid: int
    storage: str
    guard: str
    storage_login: str = ""


class HubHome:
    """A hub's folder, created if it does not exist.

    Args:
        storage: folder for the objects; by default one in the home.
    """

    def __init__(self, folder: Path, storage: Path | None = None) -> None:
        self.folder = folder.expanduser().absolute()
        self.storage = (storage or self.folder / "storage").expanduser().absolute()
        self.ledger = self.folder / "hub.sqlite"
        self.broker = self.folder / "broker"
        check_role_of_home(self.folder, "hub")
        try:
            make_folder(self.broker)
            make_folder(self.storage)
        except OSError as error:
            raise ConfigError(f"can't use {error.filename} for the hub: {error.strerror}") from error
        opened = [str(close_home(folder)) for folder in (self.folder, self.storage)]
        self.opened = "; ".join(dict.fromkeys(filter(None, opened)))
        self._running = self.folder / "running.json"
        self._lock = -1

    def lock(self) -> None:
        """Lock this home for this process, until it ends or calls `unlock`.

        Raises:
            ConfigError: another hub runs here.
        """
        descriptor = open_locked(self.folder / "hub.lock")
        if descriptor is None:
            raise ConfigError(
                f"a hub runs in {self.folder} already: see `fedjob hub status`, or use another --home"
            )
        self._lock = descriptor

    def unlock(self) -> None:
        """Release the lock, and remove `running.json`."""
        if self._lock >= 0:
            self._running.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def announce(self, running: Running) -> None:
        """Write `running.json`, in which other processes of this machine find the hub."""
        write_atomic(self._running, json.dumps(asdict(running)).encode())

    def running(self) -> Running | None:
        """Return where the hub of this home is; None if none runs."""
        if not is_locked(self.folder / "hub.lock"):
            return None  # nobody holds the lock: running.json is of a hub that was killed
        try:
            return Running(**json.loads(self._running.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
