"""The frame of a message: the signed bytes that the broker carries.

    msgpack [version, federation, sender, signature, payload]

The signature covers version, federation, sender and the exact payload bytes, in
the unambiguous encoding of `signed_bytes`; nothing is ever re-serialised before
it is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, EncodeError
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.identity.keys import SIGNATURE_BYTES, Identity, verify
from fedjob.messaging.messages import VERSION


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame, whose signature is not yet checked."""

    federation: str
    sender: str
    signature: bytes
    payload: bytes

    def signed_by(self, key_hex: str) -> bool:
        """Return whether the owner of `key_hex` signed this frame."""
        return verify(key_hex, self.signature, signed_bytes(self.federation, self.sender, self.payload))


def signed_bytes(federation: str, sender: str, payload: bytes) -> bytes:
    """Return the bytes that a signature covers: each part after its length, unique to this frame."""
    return pack([VERSION, federation, sender, payload])


def encode_frame(identity: Identity, federation: str, payload: bytes) -> bytes:
    """Sign `payload` and return the frame.

    Raises:
        EncodeError: the frame is larger than `MAX_FRAME_BYTES`.
    """
    signature = identity.sign(signed_bytes(federation, identity.party, payload))
    data = pack([VERSION, federation, identity.party, signature, payload])
    if len(data) > MAX_FRAME_BYTES:
        raise EncodeError(f"a frame holds at most {MAX_FRAME_BYTES} bytes, this one {len(data)}")
    return data


def decode_frame(data: bytes) -> Frame:
    """Return the frame in `data`, which may be any bytes at all.

    Raises:
        DecodeError: it is too large, not msgpack, or not a frame of this version.
    """
    parts = unpack(data, limit_bytes=MAX_FRAME_BYTES)
    if not isinstance(parts, list) or len(parts) != 5:
        raise DecodeError("a frame is a list of 5")
    version, federation, sender, signature, payload = parts
    if type(version) is not int or version != VERSION:
        raise DecodeError(f"a frame has version {VERSION}, this one {str(version)[:20]}")
    if not isinstance(federation, str) or not isinstance(sender, str):
        raise DecodeError("federation and sender are strings")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise DecodeError(f"a signature has {SIGNATURE_BYTES} bytes")
    if not isinstance(payload, bytes):
        raise DecodeError("a payload is bytes")
    return Frame(federation, sender, signature, payload)
