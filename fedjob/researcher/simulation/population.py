"""The description of a simulation: how many nodes, how the data are divided, and what computes them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from fedjob.common.checks import check_count, is_number, named_call, shown
from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.researcher.simulation.splits import IID, SPLITS, Split

MAX_NODES = 100_000
"""As many as a job's spec bears."""

MAX_WORKERS = 100_000
"""More than any cluster has cores; how many a machine bears is seen when its memory is."""

BACKENDS = ("processes", "ray")
FUNCTION = "function"

SplitFunction = Callable[..., Any]
"""From the dataset, the number of nodes and a `numpy.random.Generator` to a list of row numbers for each node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What `simulate` returns: the nodes of a job that are simulated on this machine.

    Args:
        num_nodes: None where they follow from the data or the split.
        split: None for a map of datasets.
        workers: None for as many as there are cores; 0 for none.
        drop: share of the answers that never come.
        slow: share of the nodes whose answers come after all others.
    """

    num_nodes: int | None
    split: Split | SplitFunction | None
    workers: int | None
    vectorize: bool
    backend: str
    drop: float
    slow: float

    @property
    def plain(self) -> dict[str, Any]:
        """The same as plain data, for a job's spec."""
        return {
            "num_nodes": self.num_nodes,
            "split": _split_as_data(self.split),
            "workers": self.workers,
            "vectorize": self.vectorize,
            "backend": self.backend,
            "drop": self.drop,
            "slow": self.slow,
        }

    def __repr__(self) -> str:
        shape = "" if self.num_nodes is None else str(self.num_nodes)
        return f"simulate({shape}{', ' if shape else ''}split={self.split!r})"


def is_split(split: Split | SplitFunction | None) -> TypeGuard[Split]:
    """Tell a split of this folder from a function and from None."""
    return type(split) in SPLITS.values()


@named_call
def simulate(
    num_nodes: int | None = None,
    *,
    split: Split | SplitFunction | None = None,
    workers: int | None = None,
    vectorize: bool = False,
    backend: str = "processes",
    drop: float = 0.0,
    slow: float = 0.0,
) -> Simulation:
    """Return the nodes of a job that is simulated on this machine, for `Job(nodes=...)`.

    Args:
        num_nodes: how many, up to 100,000; None where `data` is a map from node names to datasets, and for splits that
            say it, `ByColumn` and `Sizes`.
        split: how the rows of the one dataset are divided: `IID()` (the default), `Dirichlet(...)`, `Shards(...)`,
            `ByColumn(...)`, `Sizes(...)`, or a function of the dataset, the number of nodes and a
            `numpy.random.Generator` that returns a list of row numbers for each node. The job's seed decides what is
            drawn.
        workers: processes that compute; None for one per usable core, or as many as memory bears; 0 computes in this
            process, where a debugger sees the plan.
        vectorize: train many nodes at once, in this process, by one vectorised step for all of them; a plan that can't
            be trained so is an error before the first round, which says why. The result is that of a job without it to
            about 1e-5.
        backend: what computes: "processes" on this machine, or "ray", a Ray cluster (extra `ray`).
        drop: from 0 to below 1: the share of answers that never come, drawn by the job's seed for each node and ask.
        slow: from 0 to 1: the share of nodes whose answers come after those of all others.

    Raises:
        SpecError: a wrong argument: what was expected, what was found.
    """
    if num_nodes is not None:
        check_count("simulate(num_nodes)", num_nodes, 1)
        if num_nodes > MAX_NODES:
            raise SpecError(f"simulate takes {MAX_NODES} nodes at most, not {num_nodes}")
    if workers is not None:
        workers = check_count("simulate(workers=...)", workers, 0)
        if workers > MAX_WORKERS:
            raise SpecError(f"simulate takes {MAX_WORKERS} workers at most, not {workers}")
    if backend not in BACKENDS:
        raise SpecError(f"simulate(backend=...) is one of {', '.join(BACKENDS)}; found {shown(backend)}")
    if not isinstance(vectorize, bool):
        raise SpecError(f"simulate(vectorize=...) is True or False, not {shown(vectorize)}")
    if vectorize and workers:
        raise SpecError(
            f"simulate(vectorize=True) computes in this process, with torch's threads; found workers={workers}: leave "
            "one of the two out"
        )
    if vectorize and backend != BACKENDS[0]:
        raise SpecError(
            f"simulate(vectorize=True) computes in this process; found backend={shown(backend)}: leave one of the two out"
        )
    if workers == 0 and backend != BACKENDS[0]:
        raise SpecError(
            f"simulate(workers=0) computes in this process; found backend={shown(backend)}: leave one of the two out"
        )
    _check_shares(drop, slow)
    if isinstance(split, type):
        raise SpecError(
            f"split={split.__name__} is a class; expected an instance: split={split.__name__}(...)"
        )
    if split is not None and type(split) not in SPLITS.values() and not callable(split):
        names = ", ".join(kind.__name__ for kind in SPLITS.values())
        raise SpecError(f"simulate(split=...) is one of {names} or a function, not {shown(split)}")
    if num_nodes is not None and split is None:
        split = IID()
    return Simulation(
        num_nodes=num_nodes,
        split=split,
        workers=workers,
        vectorize=vectorize,
        backend=backend,
        drop=float(drop),
        slow=float(slow),
    )


def _check_shares(drop: Any, slow: Any) -> None:
    """Check the share of answers that never come, and that of nodes whose answers come last.

    Raises:
        SpecError: one is no share, or no answer would come.
    """
    for name, share in (("drop", drop), ("slow", slow)):
        if not is_number(share) or not 0 <= share <= 1:
            raise SpecError(f"simulate({name}=...) is a share from 0 to 1, not {shown(share)}")
    if drop == 1:
        raise SpecError(
            "simulate(drop=1) lets no answer come at all, so that no round can end: take less than 1"
        )


def simulation_of(plain: Mapping[str, Any]) -> Simulation:
    """Return what was given as `nodes`, from a job's spec.

    Raises:
        SpecError: it was divided by a function, which a spec does not hold.
    """
    split = plain.get("split")
    return Simulation(
        num_nodes=plain.get("num_nodes"),
        split=None if split is None else _split_of(split),
        workers=plain.get("workers"),
        vectorize=bool(plain.get("vectorize")),
        backend=str(plain.get("backend", BACKENDS[0])),
        drop=float(plain.get("drop", 0.0)),
        slow=float(plain.get("slow", 0.0)),
    )


def _split_as_data(split: Split | SplitFunction | None) -> dict[str, Any] | None:
    if split is None:
        return None
    if is_split(split):
        return {"name": split.name, "config": to_plain(split)}
    try:
        text = inspect.getsource(split)  # type: ignore[arg-type]
    except (OSError, TypeError):
        text = repr(type(split))
    entry = getattr(split, "__name__", type(split).__name__)
    return {"name": FUNCTION, "config": {"entry": entry, "sha256": hashlib.sha256(text.encode()).hexdigest()}}


def _split_of(plain: Mapping[str, Any]) -> Split:
    if plain["name"] not in SPLITS:
        entry = plain.get("config", {}).get("entry", "")
        raise SpecError(
            f"the rows were divided by the function {entry}, which a job does not keep: give nodes= anew"
        )
    found: Split = SPLITS[plain["name"]](**plain["config"])
    return found
