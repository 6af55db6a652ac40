"""The changes of a node's settings by its owner: checked as a whole, written, audited, and awaited."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from fedjob.common.config import (
    CONFIG_NAME,
    Fault,
    check_settings,
    parse_value,
    read_config,
    read_settings,
    write_config,
)
from fedjob.common.errors import ConfigError
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.home_lock import running_pid
from fedjob.node.daemon.settings import InForce, Settings, faults_between, live_facts
from fedjob.node.grants.deciders import decider
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

APPLIED_WITHIN_S = 20.0

_SECRET = ("smtp", "notify_webhook", "proxy", "verifier_options", "notify_command")
"""Settings whose text may hold a password: the audit log says that they were changed, and not to what."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of settings that was written.

    Args:
        values: setting -> value that holds from now on.
        faults: sentences about other settings that can't be read, for which the strictest hold.
    """

    values: Mapping[str, Any]
    faults: tuple[str, ...]


def settings_in_force(home: NodeHome) -> InForce:
    """Return the settings that the running daemon uses; where none runs, those that the next one would."""
    if running_pid(home) is not None:
        facts = live_facts(home)
        settings = facts.get("settings")
        known = {field.name for field in fields(NodeConfig)}
        if isinstance(settings, dict) and settings.keys() == known:
            return InForce(NodeConfig(**settings), tuple(facts.get("faults", ())))
    return Settings(home)()


def set_settings(
    home: NodeHome, database: Database, texts: Mapping[str, str], *, by: str | None = None
) -> Changed:
    """Change settings, those that belong together at once; a running node applies them within a second.

    Args:
        texts: setting -> value as it is typed.

    Raises:
        ConfigError: the settings would not hold together; nothing is changed.
    """
    changes = {key: parse_value(NodeConfig, key, text, where="config set") for key, text in texts.items()}
    if command := changes.get("notify_command"):
        _check_command(str(command))
    with database.transaction():  # what can't be recorded is not changed
        _note(database, changes, by)
        faults = _change(home, {**read_config(home.root), **changes}, changed=set(changes))
    return Changed(changes, faults)


def unset_settings(
    home: NodeHome, database: Database, keys: tuple[str, ...], *, by: str | None = None
) -> Changed:
    """Take settings out of the file, so that their defaults hold; also those of unknown names.

    Raises:
        ConfigError: there is no such setting, or the others would not hold together; nothing is changed.
    """
    written = read_config(home.root)
    for key in keys:
        if key not in written:
            check_setting(key)
    left = {key: value for key, value in written.items() if key not in keys}
    defaults = asdict(NodeConfig())
    changes = {key: defaults[key] for key in keys if key in defaults}
    with database.transaction():
        _note(database, changes, by)
        faults = _change(home, left, changed=set(keys))
    return Changed(changes, faults)


def _note(database: Database, changes: Mapping[str, Any], by: str | None) -> None:
    shown = {key: "changed" if key in _SECRET and value else value for key, value in changes.items()}
    for key, value in shown.items():
        Audit(database).add("setting", key, {"value": value, "by": decider(by)})


def _change(home: NodeHome, values: Mapping[str, Any], *, changed: set[str]) -> tuple[str, ...]:
    """Write settings if the node can use them all, or if they mend one of several faults; return the faults left.

    Raises:
        ConfigError: the file with these settings can't be read as a whole; it is unchanged.
    """
    path = home.root / CONFIG_NAME
    before = _faults(read_settings(NodeConfig, home.root, environ={}))
    after = _faults(check_settings(NodeConfig, values, str(path), environ={}))
    mends = len(after) < len(before) and not any(fault.key in changed for fault in after)
    if after and not mends:
        faults = "; ".join(dict.fromkeys(fault.text for fault in after))
        raise ConfigError(
            f"nothing is changed, because the settings would not hold together: {faults}. Settings that belong "
            "together are set at once (config set KEY VALUE KEY VALUE), a wrong one goes with `config unset KEY`"
        )
    write_config(home.root, values)
    return tuple(fault.text for fault in after)


def _faults(found: Any) -> tuple[Fault, ...]:
    return found.faults or faults_between(NodeConfig(**found.values))


def await_applied(home: NodeHome, change: Changed) -> None:
    """Wait until a running node has taken the settings over.

    Raises:
        ConfigError: it uses others: a variable or an option of its start goes before the file.
    """
    changes = change.values
    deadline = time.monotonic() + APPLIED_WITHIN_S
    used: dict[str, Any] = {}
    while running_pid(home) is not None and time.monotonic() < deadline:
        live = live_facts(home)
        used = live.get("settings", {})
        faulty = not change.faults and bool(live.get("faults"))
        if not faulty and all(used.get(key) == value for key, value in changes.items()):
            return
        time.sleep(0.1)
    if running_pid(home) is None or not used:
        return  # one that is still starting reads them anew
    others = [
        f"{key} = {shown_setting(used.get(key))}" for key, value in changes.items() if used.get(key) != value
    ]
    raise ConfigError(
        f"written, but the running node still uses {', '.join(others)}: a variable FEDJOB_..., an option of its "
        "start, or a setting that can't be read goes before; see fedjob node status"
    )


def check_setting(key: str) -> None:
    """Refuse what is no setting.

    Raises:
        ConfigError: it is none; the nearest is named.
    """
    names = [field.name for field in fields(NodeConfig)]
    if key not in names:
        near = get_close_matches(key, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"there is no setting {key[:80]!r}{hint} Known: {', '.join(names)}")


def _check_command(text: str) -> None:
    words = shlex.split(text)
    if (
        not words
        or shutil.which(words[0]) is None
        or (os.path.isabs(words[0]) and not os.access(words[0], os.X_OK))
    ):
        raise ConfigError(
            f"notify_command: expected a command that can be run here, found {text[:80]!r}: give the whole path"
        )


def shown_setting(value: object) -> str:
    """Return a setting as it is typed."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
