"""The settings in force at a node: the file, checked as a whole, and the strictest ones while it can't be read."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.config import CONFIG_NAME, Fault, FoundSettings, Scalar, read_settings
from fedjob.common.errors import ConfigError, FedjobError
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.options import read_options
from fedjob.node.config.strictest import strictest
from fedjob.node.execution.launcher import LAUNCHERS
from fedjob.node.hooks import build_hooks
from fedjob.node.storage.database import Database
from fedjob.node.verifiers import build_verifier


@dataclass(frozen=True, slots=True)
class InForce:
    """The settings that hold.

    Args:
        faults: what can't be read of the owner's settings; while there is any, the strictest hold.
        readable: the settings of the last time when all could be read; None if that is not known.
    """

    config: NodeConfig
    faults: tuple[str, ...] = ()
    readable: Mapping[str, Scalar] | None = None


def settle(found: FoundSettings, last: Mapping[str, Scalar] | None) -> InForce:
    """Return the settings that hold, of those that were found.

    Args:
        last: the settings of the last time when all could be read; None if that is not known.
    """
    faults = found.faults or faults_between(NodeConfig(**found.values))  # type: ignore[arg-type]
    if not faults:
        config = NodeConfig(**found.values)  # type: ignore[arg-type]
        return InForce(config, readable=asdict(config))
    config = strictest(found.values, {fault.key for fault in faults}, last)
    for fault in faults_between(config):  # the last ones may not hold any more: a package was removed
        config = strictest({**asdict(config)}, {fault.key}, None)
    return InForce(config, tuple(dict.fromkeys(fault.text for fault in faults)), last)


def faults_between(config: NodeConfig) -> tuple[Fault, ...]:
    """Return what can't be built of settings that read well, one by one."""
    faults = []
    try:
        build_verifier(config.verifier, config.verifier_options)
    except ConfigError as error:
        faults += [Fault("verifier", str(error)), Fault("verifier_options", str(error))]
    try:
        build_hooks(config.hooks, config.hook_options)
    except ConfigError as error:
        faults += [Fault("hooks", str(error)), Fault("hook_options", str(error))]
    try:
        LAUNCHERS.build(config.launcher, {}).check(read_options(config.launcher_options))
    except Exception as error:  # a launcher is somebody else's code
        faults += [Fault(name, f"launcher: {error}") for name in ("launcher", "launcher_options")]
    return tuple(faults)


class Settings:
    """A home's settings, read again only when `config.toml` was written.

    Args:
        options: from the command line; they go before the file.
    """

    def __init__(self, home: NodeHome, options: dict[str, Scalar | None] | None = None) -> None:
        self._home = home
        self._options = options or {}
        self._stamp: object = None
        self._in_force = InForce(NodeConfig(), readable=last_readable(home))

    def __call__(self) -> InForce:
        """Return the settings that hold now; a file that can't be read gives the strictest."""
        stamp = self._look()
        if stamp != self._stamp:
            found = read_settings(NodeConfig, self._home.root, options=self._options)
            self._in_force = settle(found, self._in_force.readable)
            self._stamp = stamp
        return self._in_force

    def _look(self) -> object:
        try:
            found = (self._home.root / CONFIG_NAME).stat()
        except OSError as error:
            return str(error)
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid


def write_start(home: NodeHome, trouble: str = "") -> None:
    """Write down that a daemon starts, in place of what the last one wrote of itself.

    A disk that is full is no reason not to start: the daemon waits for room itself.

    Args:
        trouble: what it waits for, in words.
    """
    kept = {key: facts for key, facts in live_facts(home).items() if key == "readable_settings"}
    database = Database(home.database)
    try:
        with suppress(sqlite3.Error), database.transaction(durable=False):
            write_facts(database, pack({**kept, "trouble": trouble}))
    finally:
        database.close()


def write_facts(database: Database, packed: bytes) -> None:
    """Replace what a daemon wrote of itself; the caller commits."""
    database.execute("INSERT OR REPLACE INTO live VALUES (1, ?, ?)", (time.time(), packed))


def live_facts(home: NodeHome) -> dict[str, Any]:
    """Return what the daemon wrote down of itself last; empty where none ever ran."""
    if not home.database.exists():
        return {}
    try:
        database = Database(home.database)
        try:
            row = database.row("SELECT facts FROM live")
        finally:
            database.close()
        return dict(unpack(row["facts"])) if row is not None else {}
    except (FedjobError, sqlite3.Error):
        return {}


def last_readable(home: NodeHome) -> Mapping[str, Scalar] | None:
    """Return a node's settings of the last time when all could be read; None if that is not known."""
    facts = live_facts(home).get("readable_settings")
    known = asdict(NodeConfig())
    return {k: v for k, v in facts.items() if k in known} if isinstance(facts, dict) else None
