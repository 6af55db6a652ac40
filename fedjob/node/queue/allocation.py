"""The allocation of a node's capacity to jobs: what each holds, and what is short. Pure.

An `Allocation` is never changed in place. A job's offer may *reserve* for a short
lease; its first task *takes* what was reserved, or what is free; the job's end, or
the end of the lease, *frees* it. An allocation lives in memory only: after a crash
nothing is held, and tasks that are still in the queue take again as they start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedjob.common.requirements import Need, read_need
from fedjob.node.config.capacity import Capacity

GRANTED_GPUS = "granted_gpus"
"""Name, among the resources of a task in the queue, of the GPUs that its grant names; no message has it."""


def granted(resources: Mapping[str, Any], gpus: tuple[int, ...] | None) -> dict[str, Any]:
    """Return the resources that a researcher asked for, with the GPUs that the owner granted.

    Args:
        gpus: None where no grant names any, so that any that the node lends may serve.
    """
    return dict(resources) if gpus is None else {**resources, GRANTED_GPUS: list(gpus)}


def need_of(resources: Mapping[str, Any]) -> Need:
    """Read what `granted` returned.

    Raises:
        SpecError: see `read_need`.
    """
    asked = {name: value for name, value in resources.items() if name != GRANTED_GPUS}
    gpus = resources.get(GRANTED_GPUS)
    return replace(read_need(asked), devices=None if gpus is None else tuple(gpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The resources that a job holds.

    Args:
        until: end of the lease; 0 once a task has taken it.
    """

    researcher: str
    need: Need
    gpus: tuple[int, ...] = ()
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """The holdings of jobs in a capacity."""

    capacity: Capacity = field(default_factory=Capacity)
    holdings: Mapping[str, Holding] = field(default_factory=dict)

    def short(self, job: str, need: Need) -> tuple[str, ...]:
        """Return what is lacking for a job now, by name; what it holds itself counts as free."""
        return self._lacking(need, [h for name, h in self.holdings.items() if name != job])

    def never(self, need: Need) -> tuple[str, ...]:
        """Return what is lacking even when nobody holds anything."""
        return self._lacking(need, [])

    def reserve(self, job: str, researcher: str, need: Need, until: float) -> Allocation | None:
        """Hold for the length of a lease; None where something is short."""
        held = self.holdings.get(job)
        if held is not None and not held.until:
            until = 0.0  # its tasks have taken it already
        return self._hold(job, researcher, need, until)

    def take(self, job: str, researcher: str, need: Need) -> Allocation | None:
        """Hold until the job's end; None where something is short."""
        return self._hold(job, researcher, need, 0.0)

    def free(self, job: str) -> Allocation:
        """Give back what a job holds."""
        if job not in self.holdings:
            return self
        return replace(self, holdings={name: h for name, h in self.holdings.items() if name != job})

    def expire(self, now: float) -> Allocation:
        """Give back what was reserved and not taken in time."""
        left = {name: h for name, h in self.holdings.items() if not h.until or h.until > now}
        return self if len(left) == len(self.holdings) else replace(self, holdings=left)

    def gpus_of(self, job: str) -> tuple[int, ...]:
        """Return the indices of the GPUs that a job holds."""
        held = self.holdings.get(job)
        return () if held is None else held.gpus

    def facts(self) -> list[dict[str, Any]]:
        """Return what `fedjob node status` shows."""
        return [
            {
                "job": job,
                "researcher": held.researcher,
                "cpus": held.need.cpus,
                "memory_bytes": held.need.memory_bytes,
                "gpus": list(held.gpus),
                "pool": held.need.pool,
                "reserved_until": held.until,
            }
            for job, held in sorted(self.holdings.items())
        ]

    # --- inside ------------------------------------------------------------------------------

    def _hold(self, job: str, researcher: str, need: Need, until: float) -> Allocation | None:
        held = self.holdings.get(job)
        if held is not None and held.researcher != researcher:
            return None
        if held is not None and held.need == need and held.until == until:
            return self
        if self.short(job, need):
            return None
        if not need.holds:
            return self.free(job)
        if held is not None and held.need == need:
            gpus = held.gpus  # the same devices: a warm worker knows them already
        else:
            gpus = self._free_gpus(need, self._others(job))[: need.gpus]
        holding = Holding(researcher=researcher, need=need, gpus=gpus, until=until)
        return replace(self, holdings={**self.holdings, job: holding})

    def _others(self, job: str) -> list[Holding]:
        return [held for name, held in self.holdings.items() if name != job]

    def _free_gpus(self, need: Need, held: Iterable[Holding]) -> tuple[int, ...]:
        """Return the devices of its pool that have room and may serve it, those that fewest jobs hold first."""
        part = self.capacity.part(need.pool)
        holders = Counter(gpu for holding in held for gpu in holding.gpus)
        lent = () if part is None else part.gpus
        may = lent if need.devices is None else need.devices
        free = [gpu for gpu in lent if gpu in may and holders[gpu] < self.capacity.gpu_jobs]
        return tuple(sorted(free, key=holders.__getitem__))  # stable: else in their own order

    def _lacking(self, need: Need, held: list[Holding]) -> tuple[str, ...]:
        part = self.capacity.part(need.pool)
        if part is None:
            return ("pool",)
        missing = sorted(set(need.labels) - self.capacity.labels)
        place = self.capacity.place(need.pool)
        here = [h.need for h in held if self.capacity.place(h.need.pool) == place]
        lacking = ["labels"] if missing else []
        if need.cpus and need.cpus > part.cpus - sum(other.cpus for other in here):
            lacking.append("cpus")
        if need.memory_bytes and need.memory_bytes > part.memory_bytes - sum(o.memory_bytes for o in here):
            lacking.append("memory")
        if need.gpus > len(self._free_gpus(need, held)):
            lacking.append("gpus")
        return tuple(lacking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The judgement on whether a job could start here now; the fields of `messages.Answer` of the same names."""

    schedule: str = ""
    short: tuple[str, ...] = ()
    workers: int = 0
    ahead: int = 0


def judge(
    ledger: Allocation, job: str, need: Need, *, workers: int, active: int, ahead: int, is_open: bool
) -> Judgement:
    """Judge whether a job could start here now.

    Args:
        workers: tasks that may run at once.
        active: tasks that run.
        ahead: tasks that wait already.
    """
    schedule, short = "", ledger.short(job, need)
    if workers == 0:
        schedule = "no_workers"
    elif short:
        schedule = "resources"
    elif not is_open:
        schedule = "outside_hours"
    elif active + ahead >= workers:
        schedule = "no_free_worker"
    return Judgement(schedule=schedule, short=short, workers=workers, ahead=ahead)
