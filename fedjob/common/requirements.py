"""The resources that a job asks of a node, as researchers write them and nodes read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.errors import SpecError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
KNOWN = ("cpus", "memory", "gpus", "labels", "pool", "launcher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The resources that a task needs: processors, memory, GPUs, labels and a pool.

    Args:
        devices: the GPUs that may serve it, by number; None for any. A node adds them, no researcher names any.
    """

    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    labels: tuple[str, ...] = ()
    pool: str = ""
    devices: tuple[int, ...] | None = None

    @property
    def holds(self) -> bool:
        """True if other tasks have less while a task with this need runs."""
        return bool(self.cpus or self.memory_bytes or self.gpus)


def read_need(resources: Mapping[str, Any]) -> Need:
    """Read the resources that an offer or a task asks for.

    Raises:
        SpecError: a name or a value is not valid; the message says what is expected.
    """
    for name in resources:
        if name not in KNOWN:
            raise SpecError(f"resources: there is no {str(name)[:40]!r}. Known: {', '.join(KNOWN)}")
    cpus, gpus = resources.get("cpus", 0), resources.get("gpus", 0)
    labels, pool = resources.get("labels", ()), resources.get("pool", "")
    if not is_number(cpus) or cpus < 0:
        raise SpecError(f"resources: cpus is a number of 0 or more, found {cpus!r}")
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 0:
        raise SpecError(f"resources: gpus is a whole number of 0 or more, found {gpus!r}")
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise SpecError(f"resources: labels is a list of words, found {labels!r}")
    if not isinstance(pool, str):
        raise SpecError(f"resources: pool is a name, found {pool!r}")
    return Need(
        cpus=float(cpus),
        memory_bytes=read_bytes(resources.get("memory", 0)),
        gpus=gpus,
        labels=tuple(sorted(set(labels))),
        pool=pool,
    )


def read_bytes(amount: int | float | str) -> int:
    """Read an amount of memory: a number of bytes, or text such as `8Gi` or `500M`.

    Raises:
        SpecError: it is not an amount of memory.
    """
    text = str(amount).strip()
    digits = text.rstrip("KMGTi")
    try:
        value = float(digits) * UNITS[text[len(digits) :]]
    except (ValueError, KeyError) as error:
        raise SpecError(f"memory is bytes or text like '8Gi', found {text[:40]!r}") from error
    if not 0 <= value < 2**63:
        raise SpecError(f"memory is 0 or more bytes, found {text[:40]!r}")
    return int(value)
