"""The identity of a worker: what it was started for, and with what it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """One job under one grant, with one plan, on one version of one dataset, for one use.

    A worker that has run user code may have been changed by it, so that it never computes for another identity.

    Args:
        grant: that it runs under; empty for what needs none.
        plan: hash of the plan's text; empty for a built-in operation.
        dataset: its name, or the hash of the data that the researcher brought.
        version: of the dataset's content.
        use: `private` or `mock`.
        gpus: the devices that its job holds.
    """

    job: str
    grant: str = ""
    plan: str = ""
    dataset: str = ""
    version: str = ""
    use: str = "private"
    gpus: tuple[int, ...] = ()

    def replaces(self, other: WorkerIdentity) -> bool:
        """Tell whether the other is of no use any more once this one is there: of older data, or other devices."""
        return self != other and replace(self, version="", gpus=()) == replace(other, version="", gpus=())
