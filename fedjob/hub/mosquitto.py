"""Mosquitto as a child of the hub: where it is, which version, and the settings it gets."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.hub.tls import TlsFiles

MESSAGE_SIZE_LIMIT = MAX_FRAME_BYTES + 1024
MAX_QUEUED_BYTES = 64 << 20


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto program; Debian keeps it where only root's PATH looks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


def mosquitto_version(program: str) -> str:
    """Return what `mosquitto -h` says, such as 2.0.11."""
    try:
        said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"mosquitto version (\S+)", said)
    return found[1] if found else ""


def settings(
    host: str, port: int, folder: Path, password_file: Path, acl_file: Path, tls: TlsFiles | None
) -> str:
    """Return the content of mosquitto.conf.

    Args:
        folder: for what Mosquitto itself keeps.
    """
    lines = [
        # Started by root it would become a user who can't read this folder. It stays who we are.
        f"user {pwd.getpwuid(os.getuid()).pw_name}",
        f"listener {port} {host}",
        "allow_anonymous false",
        f"password_file {password_file}",
        f"acl_file {acl_file}",
        # A small message and its answer take 88 ms without, 0.55 ms with.
        "set_tcp_nodelay true",
        "persistence true",
        f"persistence_location {folder}/",
        # A killed broker loses what is queued without these two.
        "autosave_interval 1",
        "autosave_on_changes true",
        # The default drops what is over 1,000, and tells nobody.
        "max_queued_messages 100000",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"message_size_limit {MESSAGE_SIZE_LIMIT}",
        "persistent_client_expiration 14d",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    if tls is not None:
        lines += [f"certfile {tls.cert.absolute()}", f"keyfile {tls.key.absolute()}", "tls_version tlsv1.2"]
    return "\n".join(lines) + "\n"
