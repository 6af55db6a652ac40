"""The payload of a message that only its addressee can read.

    msgpack {to, kind, issued, expires, sealed}

The first four are what the checks before the schema need, and all that the hub sees; `sealed` is the whole plain
payload, encrypted for the addressee. The sender signs the encrypted bytes, so that a flood is refused before anything
is decrypted, and is bound to them, so that nobody else can sign them as a message of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError
from fedjob.identity.seals.hpke import decrypt, encrypt_for
from fedjob.identity.seals.sealing_key import SealingKey
from fedjob.messaging.messages import Message, decode_head, decode_payload

FIELD = "sealed"
"""Only an encrypted payload has a field of this name."""

_HEAD = ("to", "kind", "issued", "expires")


def seal_payload(payload: bytes, *, federation: str, sender: str, to: str, key_hex: str) -> bytes:
    """Return a payload encrypted for one addressee.

    Args:
        payload: as `encode_payload` returns it.
        to: the addressee, `party/session`, also of a message to everybody.
        key_hex: its public key to be written to.
    """
    head = {**{name: decode_head(payload)[name] for name in _HEAD}, "to": to}
    return pack({**head, FIELD: encrypt_for(key_hex, payload, _info(head, federation, sender))})


def decrypt_payload(head: Mapping[str, Any], *, federation: str, sender: str, key: SealingKey) -> bytes:
    """Return the plain payload in an encrypted one.

    Args:
        head: the payload's map, whose signature and form were checked.

    Raises:
        DecodeError: it is for another key, by another sender, or its head was changed.
    """
    sealed = head.get(FIELD)
    if not isinstance(sealed, bytes):
        raise DecodeError("an encrypted payload is bytes")
    if type(head.get("issued")) not in (float, int):
        raise DecodeError("issued is a number")
    return decrypt(key, sealed, _info(head, federation, sender))


def open_payload(payload: bytes, head: Mapping[str, Any], sender: str) -> Message:
    """Return the message in a payload that was decrypted.

    Raises:
        DecodeError: it is no message, or another one than the head outside says.
    """
    message = decode_payload(payload, sender)
    inside = (message.body.kind, message.issued, message.expires)
    if inside != tuple(head.get(name) for name in _HEAD[1:]) or message.to not in ("", head["to"]):
        raise DecodeError("an encrypted payload holds another message than its head says")
    return message


def _info(head: Mapping[str, Any], federation: str, sender: str) -> bytes:
    return pack(["fedjob message 1", federation, sender, *(head.get(name) for name in _HEAD)])
