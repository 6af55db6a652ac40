"""The Mosquitto program: its path, its version, and the configuration file that the hub writes for it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.hub.config.tls import TlsFiles

MESSAGE_SIZE_LIMIT = MAX_FRAME_BYTES + 1024
MAX_QUEUED_BYTES = 64 << 20


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


def settings(
    host: str, port: int, folder: Path, password_file: Path, acl_file: Path, tls: TlsFiles | None
) -> str:
    """Return the content of mosquitto.conf.

    Args:
        folder: for Mosquitto's own files.
    """
    lines = [
        # Started by root, Mosquitto would become a user who can't read this folder; it keeps the hub's user.
        f"user {pwd.getpwuid(os.getuid()).pw_name}",
        f"listener {port} {host}",
        "allow_anonymous false",
        f"password_file {password_file}",
        f"acl_file {acl_file}",
        # A small message and its reply take 88 ms without this line, 0.55 ms with it.
        "set_tcp_nodelay true",
        # Nothing of the broker's has to last: sessions are clean, nodes announce themselves again when they reconnect,
        # and the courier repeats what got lost. With `persistence` it would write all it holds at each change.
        "persistence false",
        # By default, messages beyond 1,000 are dropped silently.
        "max_queued_messages 100000",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"message_size_limit {MESSAGE_SIZE_LIMIT}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    if tls is not None:
        lines += [f"certfile {tls.cert.absolute()}", f"keyfile {tls.key.absolute()}", "tls_version tlsv1.2"]
    return "\n".join(lines) + "\n"
