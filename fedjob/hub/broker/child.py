"""The MQTT broker as a child process of the hub: started, restarted when it dies, kept up to date, ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from fedjob.common.errors import BrokerUnreachable, ConfigError
from fedjob.common.files import private, write_atomic
from fedjob.common.network.addresses import on_this_machine
from fedjob.hub.broker import tether
from fedjob.hub.broker.access import acl_file, password_file
from fedjob.hub.broker.mosquitto import find_mosquitto, mosquitto_version, settings
from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.broker.probe import lets_in
from fedjob.hub.storage.parties import Member, Parties, hash_password
from fedjob.identity.membership import broker_password

START_S = 20.0
ADMIT_S = 5.0
STOP_S = 5.0
MAX_RESTART_DELAY_S = 5.0
_HUB_USER = "_hub"  # no party can have that name
_PROBE_EVERY_S = 0.01


class Accounts:
    """The broker's password and ACL files, written from the hub's parties.

    Args:
        is_inner: the broker is reached through the hub alone. It knows the parties by passwords that the hub makes, so
            that nobody gets there past the hub with a party's own.
    """

    def __init__(self, folder: Path, parties: Parties, *, is_inner: bool = False) -> None:
        self._inner_secret = secrets.token_bytes(32) if is_inner else None
        self._inner_hashes: dict[str, str] = {}
        self.passwords = folder / "passwords"
        self.acl = folder / "acl"
        self._parties = parties
        self._hub_password = secrets.token_hex(32)
        self._hub_hash = hash_password(self._hub_password)
        self._written = ""

    @property
    def hub(self) -> tuple[str, str]:
        """The hub's own user, which may connect and nothing else, and its password."""
        return _HUB_USER, self._hub_password

    def password_of(self, party: str, token: str) -> str:
        """Return the password by which the broker knows a party."""
        member = None if self._inner_secret is None else self._parties.by_name(party)
        return broker_password(token) if member is None else self.inner_password(member)

    def inner_password(self, member: Member) -> str:
        """Return the password that the hub made for a party; it changes when the party's own does."""
        text = f"{member.party}\n{member.broker_hash}".encode()
        return hmac.digest(self._inner_secret or b"", text, hashlib.sha256).hex()

    def write(self) -> bool:
        """Bring the files up to date; return whether they changed."""
        members = [(m.party, self._hash_of(m)) for m in self._parties.all() if not m.revoked]
        content = password_file([*members, (_HUB_USER, self._hub_hash)])
        if content == self._written:
            return False
        write_atomic(self.acl, acl_file().encode())
        write_atomic(self.passwords, content.encode())
        self._written = content
        return True

    def _hash_of(self, member: Member) -> str:
        if self._inner_secret is None:
            return member.broker_hash
        password = self.inner_password(member)
        if password not in self._inner_hashes:
            self._inner_hashes[password] = hash_password(password)
        return self._inner_hashes[password]


class BrokerChild:
    """A broker that runs for as long as this process does.

    Args:
        kind: `mosquitto`, `amqtt`, or `auto`: Mosquitto where it is installed.
        port: 0 means a free one.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        accounts: Accounts,
        *,
        host: str,
        port: int,
    ) -> None:
        program = find_mosquitto()
        if kind == "mosquitto" and program is None:
            raise ConfigError(
                "expected Mosquitto, found none in PATH, /usr/sbin or /usr/local/sbin: install it, "
                "or use --broker-kind amqtt"
            )
        self._program = program if kind != "amqtt" else None
        self.kind = "amqtt" if self._program is None else "mosquitto"
        self.version = version("amqtt") if self._program is None else mosquitto_version(self._program)
        self.host = host
        self.port = port or _free_port(host)
        self.num_restarts = 0
        self._folder = folder
        self._accounts = accounts
        self._log_path = folder / "broker.log"
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._syncing = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The id of the broker's process; 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    @property
    def on_this_machine(self) -> BrokerPort:
        """Its port as this machine reaches it: a broker that listens on all addresses is reached on loopback."""
        return BrokerPort(on_this_machine(self.host), self.port)

    @property
    def url(self) -> str:
        """The URL under which parties reach the broker."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"

    async def start(self) -> None:
        """Start the broker; return once it accepts the hub's own user.

        Raises:
            BrokerUnreachable: it does not start; the message has the last line of its log.
        """
        await asyncio.to_thread(self._accounts.write)
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_running())

    async def sync(self) -> None:
        """Have the broker reload its users after parties enrolled or were revoked."""
        async with self._syncing:
            if await asyncio.to_thread(self._accounts.write) and self.kind == "mosquitto":
                self._signal(signal.SIGHUP)  # the embedded broker watches the file itself

    async def admit(self, party: str, token: str) -> None:
        """Return once the broker accepts a party that has just enrolled, or after `ADMIT_S`."""
        await self.sync()
        # Mosquitto reads its files up to 100 ms after the signal; a party that connects earlier is refused.
        deadline = asyncio.get_running_loop().time() + ADMIT_S
        password = await asyncio.to_thread(self._accounts.password_of, party, token)
        while not await self._lets_in(party, password):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(_PROBE_EVERY_S)

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
                where = f"{self.host} port {self.port}"
                raise BrokerUnreachable(
                    f"the {self.kind} broker did not start on {where}: {self._last_words()}"
                )
            await asyncio.sleep(_PROBE_EVERY_S)

    def _command(self) -> list[str]:
        passwords, acl = self._accounts.passwords, self._accounts.acl
        if self._program is not None:
            conf = self._folder / "mosquitto.conf"
            content = settings(self.host, self.port, self._folder, passwords, acl)
            write_atomic(conf, content.encode())
            return [self._program, "-c", str(conf)]
        return [
            sys.executable,
            "-m",
            "fedjob.hub.broker.embedded",
            self.host,
            str(self.port),
            str(passwords),
        ]

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
        return await lets_in(self.on_this_machine, user, password)

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


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
