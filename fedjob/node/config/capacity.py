"""The capacity of a node: the cores, memory, GPUs, labels and pools that its owner lends. Pure.

A pool is a part of the node that jobs ask for by name. A job that asks for none
gets what belongs to no pool. A node that has the pool's name among its labels is,
as a whole, such a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.requirements import read_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPart:
    """The resources of the whole node, or of one pool.

    Args:
        workers: tasks that run at once here; None where only the node's own limit counts.
        gpus: indices of the devices.
    """

    workers: int | None = None
    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The resources that the owner lends; `whole` includes the pools.

    Args:
        gpu_jobs: jobs that hold one device at once; each of their workers may have its share of the device's memory.
    """

    whole: CapacityPart = field(default_factory=CapacityPart)
    labels: frozenset[str] = frozenset()
    pools: Mapping[str, CapacityPart] = field(default_factory=dict)
    gpu_jobs: int = 1

    def part(self, pool: str) -> CapacityPart | None:
        """Return what a pool has, or what belongs to none; None where the pool is unknown."""
        if pool in self.pools:
            return self.pools[pool]
        if pool and pool not in self.labels:
            return None
        lent = list(self.pools.values())
        gone = {gpu for part in lent for gpu in part.gpus}
        return CapacityPart(
            cpus=self.whole.cpus - sum(part.cpus for part in lent),
            memory_bytes=self.whole.memory_bytes - sum(part.memory_bytes for part in lent),
            gpus=tuple(gpu for gpu in self.whole.gpus if gpu not in gone),
        )

    def place(self, pool: str) -> str:
        """Return the key under which a pool's holdings are counted together."""
        return pool if pool in self.pools else ""


def read_labels(text: str) -> frozenset[str]:
    """Read an owner's labels: words with commas between them."""
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def read_pools(text: str) -> dict[str, CapacityPart]:
    """Read an owner's pools: `gpu: workers=1 gpus=0,1 memory=32Gi; batch: workers=2 cpus=8`.

    Raises:
        ConfigError: it does not read as pools.
    """
    pools: dict[str, CapacityPart] = {}
    for piece in filter(str.strip, text.split(";")):
        name, colon, rest = piece.partition(":")
        name = name.strip()
        try:
            words = dict(word.split("=", 1) for word in rest.split())
            part = CapacityPart(
                workers=int(words.pop("workers", "1")),
                cpus=float(words.pop("cpus", "0")),
                memory_bytes=read_bytes(words.pop("memory", "0")),
                gpus=tuple(int(index) for index in words.pop("gpus", "").split(",") if index),
            )
        except (ValueError, SpecError) as error:
            raise ConfigError(
                f"pools: expected 'NAME: workers=1 cpus=4 memory=8Gi gpus=0,1; ...', found {piece[:80]!r}"
            ) from error
        if not colon or not name or words or (part.workers or 0) < 0:
            raise ConfigError(f"pools: expected 'NAME: workers=1 ...; ...', found {piece[:80]!r}")
        pools[name] = part
    return pools
