"""The payload of a published notice that several parties may read, such as the state of a job for its watchers.

    msgpack {sealed, keys}

`sealed` is encrypted once, by a key of this notice alone; `keys` has that key for each reader, encrypted for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import ChunkCorrupt, DecodeError
from fedjob.common.sealing.chunks import KEY_BYTES, sealed, unsealed
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.identity.seals.hpke import decrypt, encrypt_for
from fedjob.identity.seals.sealing_key import SealingKey

MAX_READERS = 16
"""More keys than these would not leave enough of a frame for the notice."""


def seal_notice(payload: bytes, about: list[str], readers: Mapping[str, str]) -> bytes:
    """Return a payload that only its readers can read.

    Args:
        about: what both sides know of it; with other words it can't be read.
        readers: party -> its public key to be written to.
    """
    key = secrets.token_bytes(KEY_BYTES)
    keys = {party: encrypt_for(readers[party], key, _info(about, party)) for party in sorted(readers)}
    return pack({"sealed": sealed(key, payload), "keys": keys})


def sealed_parts(payload: bytes) -> tuple[bytes, Mapping[str, Any]] | None:
    """Return the encrypted bytes and the keys of an encrypted notice; None for a plain one."""
    match unpack(payload, limit_bytes=MAX_FRAME_BYTES):
        case {"sealed": bytes(encrypted), "keys": dict(keys)}:
            return encrypted, keys
    return None


def open_notice(
    encrypted: bytes, keys: Mapping[str, Any], about: list[str], party: str, key: SealingKey
) -> bytes:
    """Return the payload of an encrypted notice.

    Raises:
        DecodeError: it is not for this party, or was changed.
    """
    own = keys.get(party)
    if not isinstance(own, bytes):
        raise DecodeError(f"it is not encrypted for {party}: whoever shows it names its readers")
    content = decrypt(key, own, _info(about, party))
    if len(content) != KEY_BYTES:
        raise DecodeError(f"expected a key of {KEY_BYTES} bytes, found {len(content)}")
    try:
        return unsealed(content, encrypted)
    except ChunkCorrupt as error:
        raise DecodeError(str(error)) from error


def _info(about: list[str], party: str) -> bytes:
    return pack(["fedjob notice 1", *about, party])
