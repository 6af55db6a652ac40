"""The secret by which a hub on loopback knows its own user: a file that no other user of the machine can read.

Everybody on a machine can connect to its loopback address: other users, pages in a
browser, whoever comes through a tunnel. Who can read a file of mode 0600 in the hub's
home is the hub's owner, and needs no invitation.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from pathlib import Path

from fedjob.common.errors import NotPermitted
from fedjob.common.files import write_atomic

SECRET_NAME = "loopback-secret"
_SECRET = re.compile(rb"[0-9a-f]{64}\n")


def make_secret(home: Path) -> tuple[str, Path]:
    """Write a new secret into a hub's home; return it and its file."""
    secret, path = secrets.token_hex(32), home / SECRET_NAME
    write_atomic(path, f"{secret}\n".encode(), mode=0o600)
    return secret, path


def proof_of(secret: str, party: str, role: str, key_hex: str, token: str) -> str:
    """Return the proof that whoever enrols this party knows the secret, good for nothing else: HMAC-SHA256, in hex."""
    wanted = json.dumps(["fedjob loopback", party, role, key_hex, token]).encode()
    return hmac.digest(bytes.fromhex(secret), wanted, hashlib.sha256).hex()


def read_secret(path: str) -> str:
    """Return the secret in a file that a hub on this machine names.

    Whatever listens on a port may name any file, so only one that such a hub can have written is read: it has the
    name of the secret, belongs to this user, is readable by nobody else, and holds nothing but a secret.

    Raises:
        NotPermitted: it is no such file.
    """
    refused = NotPermitted(
        "the hub on this machine enrols without an invitation only its own user, who can read "
        f"{path[:200]!r}: ask its owner for `fedjob hub invite PARTY`"
    )
    if os.path.basename(path) != SECRET_NAME or not os.path.isabs(path):
        raise refused
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise refused from None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        own = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
        content = file.read(100) if own else b""
    if not _SECRET.fullmatch(content):
        raise refused
    return content.strip().decode()
