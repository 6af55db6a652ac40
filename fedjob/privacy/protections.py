"""The protections of contributions that an owner may demand by name, and whether a job has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.privacy.protect import NodeDP, RecordDP
from fedjob.privacy.secagg.fixed_point import MAX_NODES
from fedjob.privacy.secagg.terms import MIN_NODES

BUILT: tuple[str, ...] = ("secagg", "dp")
"""Names of protections that nodes enforce. A name is added with the code that enforces it, and never before."""


OFF = "secagg:off"
"""The owner's word that jobs must not have secure aggregation: what leaves is then what the owner can read."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that a job may cost in differential privacy: what asks for more runs with this.

    Args:
        delta: 1 for any.
    """

    epsilon: float
    delta: float = 1.0

    def __str__(self) -> str:
        return f"dp:{_typed(self.epsilon)}" + (f",{_typed(self.delta)}" if self.delta < 1 else "")


def check_protections(names: Iterable[str]) -> tuple[str, ...]:
    """Return protections as an owner types them, each once.

    They are `secagg`, `secagg:5` for sums of five nodes or more, `secagg:off` for none, and `dp:3` or `dp:3,1e-6` for
    differential privacy with such an epsilon and delta at most.

    Raises:
        SpecError: one is not built: a control that nothing enforces is worse than none.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        kind, colon, number = name.partition(":")
        if kind not in BUILT:
            raise SpecError(
                f"there is no protection {name[:40]!r}: this version of fedjob enforces {', '.join(BUILT)}"
            )
        if kind == "dp":
            _cap_of(name)
        elif name == OFF:
            continue
        elif colon and not (number.isdecimal() and MIN_NODES <= int(number) <= MAX_NODES):
            raise SpecError(
                f"expected secagg:N with {MIN_NODES} to {MAX_NODES} nodes, or {OFF}, found {name[:40]!r}"
            )
    if OFF in wanted and least_nodes(wanted):
        raise SpecError(f"{OFF} refuses secure aggregation, and the other protection demands it: give one")
    return wanted


def least_nodes(wanted: Iterable[str]) -> int:
    """Return of how many nodes a sum has to be by these protections; 0 where none is demanded."""
    numbers = [
        int(name.partition(":")[2] or MIN_NODES)
        for name in wanted
        if name.partition(":")[0] == "secagg" and name != OFF
    ]
    return max(numbers, default=0)


def cap_of(wanted: Iterable[str]) -> Cap | None:
    """Return the least epsilon and delta of these protections; None where no differential privacy is demanded."""
    caps = [_cap_of(name) for name in wanted if name.partition(":")[0] == "dp"]
    if not caps:
        return None
    return Cap(min(cap.epsilon for cap in caps), min(cap.delta for cap in caps))


def demanded_by_both(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    """Return what two owners' words demand together: sums of the larger number of nodes, and the smaller epsilon."""
    every = (*one, *other)
    needed, cap = least_nodes(every), cap_of(every)
    off = (OFF,) if OFF in every else ()
    return off + ((f"secagg:{needed}",) if needed else ()) + ((str(cap),) if cap is not None else ())


def in_words(wanted: Iterable[str]) -> list[str]:
    """Return a line for each of these protections, as an owner reads it."""
    wanted = tuple(wanted)
    needed, cap = least_nodes(wanted), cap_of(wanted)
    lines = ["no secure aggregation"] if OFF in wanted else []
    lines += [f"secure aggregation of {needed} nodes or more"] if needed else []
    if cap is not None:
        delta = f" and delta {cap.delta:g}" if cap.delta < 1 else ""
        lines.append(f"differential privacy with epsilon {cap.epsilon:g}{delta} at most")
    return lines


def lowered(dp: RecordDP | NodeDP, wanted: Iterable[str]) -> RecordDP | NodeDP:
    """Return the differential privacy that holds at a node: what a job asks for, or less where the owner allows less.

    The noise of whole nodes is common to all of them, so that no node can lower it for itself: see `lacking`.
    """
    cap = cap_of(wanted)
    if cap is None or isinstance(dp, NodeDP):
        return dp
    return replace(dp, epsilon=min(dp.epsilon, cap.epsilon), delta=min(dp.delta, cap.delta))


def lacking(wanted: Iterable[str], protect: Mapping[str, Any]) -> str:
    """Say which protection a job lacks that an owner demands; empty for none.

    Args:
        protect: the job's, as its messages have it.
    """
    wanted = tuple(wanted)
    needed, cap = least_nodes(wanted), cap_of(wanted)
    if cap is not None and protect.get("dp") is None:
        delta = f"{cap.delta:g}" if cap.delta < 1 else "1e-6"
        return (
            "the owner demands differential privacy, and the job has none: run it with "
            f"Job(..., protect=Protect(dp=RecordDP(epsilon={cap.epsilon:g}, delta={delta})))"
        )
    if cap is not None and (words := _above(cap, protect["dp"])):
        return words
    settings = protect.get("secagg")
    if OFF in wanted and settings is not None:
        return "the owner allows no secure aggregation here, and the job has it: run it without secagg in protect"
    if not needed:
        return ""
    if settings is None:
        return "the owner demands secure aggregation, and the job has none: run it with Job(..., protect=Protect(secagg=True))"
    if int(settings.get("min_nodes", 0)) < needed:
        return (
            f"the owner demands sums of {needed} nodes or more: run the job with "
            f"protect=SecAgg(min_nodes={needed})"
        )
    return ""


def _above(cap: Cap, dp: Mapping[str, Any]) -> str:
    """Say that a job's noise, which is common to all nodes, is less than an owner demands; empty where it is enough."""
    if dp.get("kind") != "node" or (dp["epsilon"] <= cap.epsilon and dp["delta"] <= cap.delta):
        return ""
    return (
        f"the owner allows {cap} at most, and the noise of NodeDP is common to all nodes: run it with "
        f"NodeDP(epsilon={min(dp['epsilon'], cap.epsilon):g}, delta={min(dp['delta'], cap.delta):g}, ...)"
    )


def _typed(number: float) -> str:
    """Return a number as somebody would type it, and as exactly that number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _cap_of(name: str) -> Cap:
    epsilon, comma, delta = name.partition(":")[2].partition(",")
    try:
        cap = Cap(float(epsilon), float(delta) if comma else 1.0)
        if not (math.isfinite(cap.epsilon) and cap.epsilon > 0 and (0 < cap.delta < 1 or not comma)):
            raise ValueError
    except ValueError as error:
        raise SpecError(
            "expected dp:EPSILON or dp:EPSILON,DELTA with an epsilon above 0 and a delta between 0 and 1, such as "
            f"dp:3,1e-6; found {name[:40]!r}"
        ) from error
    return cap
