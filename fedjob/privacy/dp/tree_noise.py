"""The noise of a binary tree over the steps of a training, and the division of records into blocks, both from one seed.

Noise of a node is a function of the seed and of the node's place, so that a node's state is a seed and a number of
steps: what was drawn in earlier rounds is drawn again and need not be kept. Prefix sums are estimated as in Honaker
2015, which needs no more than one vector for each level of the tree.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedjob.privacy.dp.secure_draws import Floats, SecureDraws, rounded
from fedjob.privacy.dp.tree_terms import variance_at

Rows = np.ndarray[Any, np.dtype[np.int64]]


class TreeNoise:
    """The noise of one step after the other: what it adds to the noise of the sum of all steps before.

    At the first step of a pass a new tree begins, which knows nothing of those before it.

    Args:
        seed: of all trees.
        blocks: steps of one tree.
        first: number of the first step, from 0.
        size: numbers in a gradient. Noise of other sizes is independent.
    """

    def __init__(self, seed: bytes, blocks: int, first: int, size: int) -> None:
        self._seed, self._blocks, self._size = seed, blocks, size
        self._next = first - first % blocks
        self._estimates: list[tuple[int, Floats]] = []
        while self._next < first:
            self.step()

    def step(self) -> Floats:
        """Return the noise of the next step, float64 of shape (size,), by the standard deviation of one node."""
        tree, leaf = divmod(self._next, self._blocks)
        self._next += 1
        if not leaf:
            self._estimates = []
        level, found, before = 0, self._node(tree, 0, leaf), np.zeros(self._size)
        while self._estimates and self._estimates[-1][0] == level:
            _, half = self._estimates.pop()
            before += half
            level += 1
            weight = variance_at(level)
            found = weight * self._node(tree, level, leaf >> level) + (1 - weight) * (half + found)
        self._estimates.append((level, found))
        return np.asarray(found - before)

    def _node(self, tree: int, level: int, place: int) -> Floats:
        return SecureDraws(_key_stream(self._seed, (self._size, tree, level, place))).normal(self._size)


class TreeDraws:
    """The blocks and the noisy gradients of the steps of a stretch.

    Args:
        deviation: of the noise of one node of a tree.
    """

    def __init__(self, seed: bytes, blocks: int, first: int, deviation: float) -> None:
        self._seed, self._blocks, self._first, self._deviation = seed, blocks, first, deviation
        self._noise: tuple[int, TreeNoise] | None = None

    def noisy(self, total: Floats) -> Floats:
        """Return the sum of the next step's gradients with its noise, rounded to the grid of `secure_draws`."""
        if self._noise is None or self._noise[0] != len(total):
            noise = TreeNoise(self._seed, self._blocks, self._first, len(total))
            self._noise = len(total), noise
        self._first += 1
        return rounded(total + self._deviation * self._noise[1].step(), self._deviation)

    def blocks_of(self, records: Iterable[bytes]) -> Rows:
        """Return the block of each record, int64, from what tells records apart.

        A record's block follows from that alone, so that no record more or less moves another one.
        """
        key = hashlib.sha256(b"blocks" + self._seed).digest()
        numbers = [
            int.from_bytes(hashlib.blake2b(record, key=key, digest_size=8).digest(), "little")
            for record in records
        ]
        return np.array([number * self._blocks >> 64 for number in numbers], dtype=np.int64)


def _key_stream(seed: bytes, place: tuple[int, int, int, int]) -> Any:
    """Return a source of random bytes of its own for each place, AES-256 in counter mode."""
    key = hmac.digest(seed, struct.pack("<4Q", *place), "sha256")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda count: encryptor.update(bytes(count))
