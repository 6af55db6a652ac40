"""The MQTT broker as a child process of the hub: started, restarted when it dies, kept up to date, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from fedjob.common.errors import BrokerUnreachable, ConfigError
from fedjob.common.files import private, write_atomic
from fedjob.hub.broker import tether
from fedjob.hub.broker.access import HUB_USER, acl_file, password_file
from fedjob.hub.broker.local_socket import NAME, LocalSocket
from fedjob.hub.broker.mosquitto import find_mosquitto, mosquitto_version, settings
from fedjob.hub.broker.probe import lets_in
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.parties import Parties, hash_password

START_S = 20.0
SYNC_S = 5.0
RELOAD_AGAIN_S = 0.5
STOP_S = 5.0
MAX_RESTART_DELAY_S = 5.0
_PROBE_EVERY_S = 0.01


class Accounts:
    """The broker's password and ACL files, written from the hub's parties.

    Args:
        by_name: the ACL file names each party that is there, for a broker that knows parties by their certificates.
    """

    def __init__(self, folder: Path, parties: Parties, *, by_name: bool = False) -> None:
        self._by_name = by_name
        self.passwords = folder / "passwords"
        self.acl = folder / "acl"
        self._parties = parties
        self._hub_password = ""
        self._written: str | None = None

    @property
    def hub(self) -> tuple[str, str]:
        """The hub's own user, which may connect and nothing else, and its password."""
        return HUB_USER, self._hub_password

    def write(self) -> bool:
        """Bring the files up to date; return whether they changed.

        The hub's own password is another one in each version: a broker that takes it has read that version.
        """
        members = [(m.party, m.broker_hash) for m in self._parties.all() if not m.revoked]
        content = password_file(members)
        if content == self._written:
            return False
        password = secrets.token_hex(32)
        own = password_file([(HUB_USER, hash_password(password))])
        rules = acl_file([party for party, _ in members] if self._by_name else None)
        write_atomic(self.acl, rules.encode())
        write_atomic(self.passwords, (content + own).encode())
        self._written, self._hub_password = content, password
        return True


class BrokerChild:
    """A broker that runs for as long as this process does.

    Args:
        kind: `mosquitto`, `amqtt`, or `auto`: Mosquitto where it is installed.
        folder: for its files and the socket at which it listens.
    """

    def __init__(self, kind: str, folder: Path, accounts: Accounts, limits: HubLimits) -> None:
        program = find_mosquitto()
        if kind == "mosquitto" and program is None:
            raise ConfigError(
                "expected Mosquitto, found none in PATH, /usr/sbin or /usr/local/sbin: install it, "
                "or use --broker-kind amqtt"
            )
        self._program = program if kind != "amqtt" else None
        self.kind = "amqtt" if self._program is None else "mosquitto"
        self.version = version("amqtt") if self._program is None else mosquitto_version(self._program)
        self.socket = LocalSocket(folder)
        self.num_restarts = 0
        self._limits = limits
        self._folder = folder
        self._accounts = accounts
        self._log_path = folder / "broker.log"
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._syncing = asyncio.Lock()
        self._is_read = True

    @property
    def pid(self) -> int:
        """The id of the broker's process; 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    @property
    def mqtt_versions(self) -> tuple[int, ...]:
        """The versions of MQTT that it speaks, 4 for 3.1.1."""
        return (4,) if self._program is None else (4, 5)

    async def start(self) -> None:
        """Start the broker; return once it accepts the hub's own user.

        Raises:
            BrokerUnreachable: it does not start; the message has the last line of its log.
        """
        await asyncio.to_thread(self._accounts.write)
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_running())

    async def sync(self) -> None:
        """Have the broker reload its users after parties enrolled or were revoked; return once it has, or after `SYNC_S`.

        Calls that wait for each other share one reload.
        """
        async with self._syncing:
            if await asyncio.to_thread(self._accounts.write):
                self._is_read = False
            if not self._is_read:
                self._is_read = await self._reloaded()

    async def _reloaded(self) -> bool:
        """Return whether the broker has read the present files."""
        clock = asyncio.get_running_loop().time
        deadline, again = clock() + SYNC_S, 0.0
        while clock() < deadline:
            if clock() >= again and self.kind == "mosquitto":  # the embedded broker watches the file itself
                # more than once: Mosquitto forgets a signal that comes while it is reading
                self._signal(signal.SIGHUP)
                again = clock() + RELOAD_AGAIN_S
            if await self._lets_in(*self._accounts.hub):
                return True
            await asyncio.sleep(_PROBE_EVERY_S)
        return False

    async def admit(self, party: str, token: str) -> None:
        """Return once the broker accepts a party that has just enrolled, or after `SYNC_S`."""
        await self.sync()

    async def stop(self) -> None:
        """End the broker: SIGTERM first, SIGKILL if it is still there after `STOP_S`."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._end()

    async def _spawn(self) -> None:
        command = self._command()
        with open(self._log_path, "ab", opener=private) as log:
            if log.tell() > 1 << 20:
                log.truncate(0)
            self._child = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", tether.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for the hub, which then ends its child
            )
        deadline = asyncio.get_running_loop().time() + START_S
        while not await self._lets_in(*self._accounts.hub):
            if self._child.returncode is not None or asyncio.get_running_loop().time() > deadline:
                await self._end()
                raise BrokerUnreachable(f"the {self.kind} broker did not start: {self._last_words()}")
            await asyncio.sleep(_PROBE_EVERY_S)
        self.socket.make_private()

    def _command(self) -> list[str]:
        passwords, acl = self._accounts.passwords, self._accounts.acl
        if self._program is not None:
            conf = self._folder / "mosquitto.conf"
            content = settings(self._folder, passwords, acl, self._limits)
            write_atomic(conf, content.encode())
            return [self._program, "-c", str(conf)]
        return [sys.executable, "-m", "fedjob.hub.broker.embedded", NAME, str(passwords)]

    async def _keep_running(self) -> None:
        delay_s = 0.1
        while True:
            assert self._child is not None
            began = asyncio.get_running_loop().time()
            await self._child.wait()
            if asyncio.get_running_loop().time() - began > 60:
                delay_s = 0.1
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, MAX_RESTART_DELAY_S)
                self.num_restarts += 1
                with contextlib.suppress(BrokerUnreachable):
                    await self._spawn()
                    break

    async def _lets_in(self, user: str, password: str) -> bool:
        return await lets_in(self.socket, user, password)

    async def _end(self) -> None:
        if self._child is None or self._child.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._child.wait(), STOP_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def _last_words(self) -> str:
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "its log is empty"
