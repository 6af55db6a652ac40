"""Masks: AES-256 in counter mode as a stream of words, added to whole numbers of as many bits, which go round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 16
"""Words that are made at a time: they stay in a processor's cache."""

SEED_BYTES = 32
BLOCK_BYTES = 16
"""Of the cipher, whose counter begins at 0."""


class MaskStream:
    """The words of one mask, in their order.

    Args:
        seed: 32 secret bytes that are used for this mask alone.
        sign: 1 to add the mask, -1 to take it away.
        skipped_bytes: of the words that are left out at the beginning, a multiple of 16.
    """

    def __init__(self, seed: bytes, sign: int, skipped_bytes: int = 0) -> None:
        import numpy as np

        self._sign = sign
        first = (skipped_bytes // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big")
        self._words = Cipher(AES256(seed), CTR(first)).encryptor()
        self._nothing = memoryview(bytes(4 * CHUNK))  # slices of it are no copies
        self._buffer = np.empty(4 * CHUNK, dtype=np.uint8)

    def apply(self, numbers: np.ndarray) -> None:
        """Add the next words to a flat array of unsigned whole numbers, in place; they go round.

        An array may be given in parts, each but the last of a multiple of 16 bytes.
        """
        import numpy as np

        for start in range(0, len(numbers), CHUNK):
            part = numbers[start : start + CHUNK]
            raw = self._buffer[: part.nbytes]
            self._words.update_into(self._nothing[: part.nbytes], raw.data)
            (np.add if self._sign > 0 else np.subtract)(part, raw.view(part.dtype), out=part)

    def words(self, count: int) -> np.ndarray:
        """Return the next words as signed int64, for sums of wide numbers."""
        import numpy as np

        found = np.frombuffer(self._words.update(bytes(4 * count)), dtype="<u4").astype(np.int64)
        return found if self._sign > 0 else -found


def derived(secret: bytes, *about: bytes) -> bytes:
    """Return 32 bytes of a secret for one purpose: HKDF with SHA-256, the parts of `about` with their lengths."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (b"fedjob secure aggregation 1", *about))
    return HKDF(SHA256(), SEED_BYTES, salt=None, info=info).derive(secret)
