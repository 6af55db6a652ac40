"""The Mosquitto program: its path, its version, and the configuration file that the hub writes for it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.hub.broker.local_socket import NAME
from fedjob.hub.config.limits import HubLimits

MESSAGE_SIZE_LIMIT = MAX_FRAME_BYTES + 1024
RESERVED_SESSIONS = 16
"""For the hub's own probes, beside those of parties."""

MAX_QUEUED_BYTES = 16 << 20


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto program; Debian installs it in a folder of root's PATH only."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


def mosquitto_version(program: str) -> str:
    """Return the version that `mosquitto -h` prints, such as 2.0.11; empty if it prints none."""
    try:
        output = subprocess.run(
            [program, "-h"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"mosquitto version (\S+)", output)
    return found[1] if found else ""


def settings(folder: Path, password_file: Path, acl_file: Path, limits: HubLimits) -> str:
    """Return the content of mosquitto.conf.

    Args:
        folder: for Mosquitto's own files, in which it runs.
    """
    lines = [
        # Started by root, Mosquitto would become a user who can't read this folder; it keeps the hub's user.
        f"user {pwd.getpwuid(os.getuid()).pw_name}",
        # Port 0 means a Unix socket; clients come to it through the hub's gate, which has the limits of each of them.
        f"listener 0 {NAME}",
        f"max_connections {limits.num_sessions + RESERVED_SESSIONS}",
        "allow_anonymous false",
        f"password_file {password_file}",
        f"acl_file {acl_file}",
        # Nothing of the broker's has to last: sessions are clean, nodes announce themselves again when they reconnect,
        # and the courier repeats what got lost. With `persistence` it would write all it holds at each change.
        "persistence false",
        # By default, messages beyond 1,000 are dropped silently.
        "max_queued_messages 100000",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"message_size_limit {MESSAGE_SIZE_LIMIT}",
        f"memory_limit {limits.broker_memory_bytes}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    return "\n".join(lines) + "\n"
