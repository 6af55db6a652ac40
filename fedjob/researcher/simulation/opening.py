"""The opening of a simulated job's federation: how many workers, what they have in common, and whether that is there."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.data.shares import SharedDatasets
from fedjob.execution.allocator import give_back_freed_memory
from fedjob.researcher.simulation.backend import Backend
from fedjob.researcher.simulation.federation import SimulatedFederation
from fedjob.researcher.simulation.in_process import InProcess
from fedjob.researcher.simulation.population import Simulation, simulation_of
from fedjob.researcher.simulation.ray_cluster import RayCluster, check_there, is_on_this_machine
from fedjob.researcher.simulation.vectorisable import check_vectorisable, gains_nothing
from fedjob.researcher.simulation.vectorised import MAX_TOGETHER, Vectorised
from fedjob.researcher.simulation.worker_pool import ProcessPool
from fedjob.researcher.storage.deployment import model_files
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

WORKER_BYTES = 128 << 20
"""What a worker needs beside the model, most of it for the libraries' own working memory."""

GROUP_BYTES = 96 << 20
"""Memory that nodes may take that are trained at once on processors: more than that bears at a time save little, since it is
small models whose steps cost less together."""

NODE_BYTES = 1 << 20
"""What a node that is trained with others needs beside its model and what is computed of its batch."""

STEPS_TOGETHER = 3
"""What is computed of a batch, in comparison to what its forward pass keeps for the gradients."""

MODELS_TOGETHER = 8
"""Of a node that is trained with others: its own model and optimizer, and their place among the stacked ones."""

MODELS_PER_WORKER = 5
"""The model, its gradients, the state of an optimizer twice, and what is read or written."""


def open_simulation(
    spec: JobSpec, folder: JobFolder, events: EventLog, brought: Mapping[str, Path]
) -> SimulatedFederation:
    """Return the federation of a simulated job; nothing is started before `prepare`.

    Raises:
        BreakpointIncompatible: a model's file is not there any more, or another one.
    """
    models = model_files(spec, folder)
    simulation = simulation_of({**spec.simulation, "split": None})
    model_bytes = _model_bytes(folder)

    def opened() -> Backend:
        if not simulation.vectorize:
            return open_backend(
                simulation, spec.datasets, model_bytes, [file.path for file in models.values()]
            )
        _shared(spec.datasets)  # are the data there?
        costs = check_vectorisable(spec, folder, models)
        give_back_freed_memory()  # that of the trial
        if note := gains_nothing(costs, len(os.sched_getaffinity(0))):
            events.add("note", text=note)
        saved_bytes = max((cost.saved_bytes for cost in costs), default=0)
        on_cpu = all(cost.device == "cpu" for cost in costs)
        bears = min(usable_bytes() // 2, GROUP_BYTES) if on_cpu else usable_bytes() // 2
        return Vectorised(at_once(model_bytes, saved_bytes, bears))

    return SimulatedFederation(
        spec.datasets,
        folder.local,
        events,
        brought,
        spec.federation,
        simulation=simulation,
        seed=spec.seed,
        open_backend=opened,
        models=models,
    )


def open_backend(
    simulation: Simulation,
    datasets: Mapping[str, Mapping[str, Any]],
    model_bytes: int,
    models: Collection[str] = (),
) -> Backend:
    """Start what computes.

    Args:
        models: paths of the files that plans may ask for; the machines of a cluster have to see these, too.

    Raises:
        SpecError: the data are gone, or there is not enough memory for so many workers.
    """
    shared = _shared(datasets)
    if simulation.workers == 0:
        return InProcess()
    workers = simulation.workers
    if simulation.backend == "processes" or is_on_this_machine():
        workers = num_workers(workers, len(datasets), model_bytes, usable_bytes())
    if simulation.backend == "ray":
        return RayCluster(workers, len(datasets), [*_paths(datasets), *models])
    assert workers is not None
    return ProcessPool(workers, shared)


def check_workers(simulation: Simulation, folder: JobFolder) -> None:
    """Refuse a Ray cluster that is away, and more workers than the memory of this machine bears, before anything is started.

    Raises:
        SpecError: it says how many it bears, or which cluster is away.
        MissingPackage: Ray is asked for, and not installed.
    """
    wanted = simulation.workers
    if simulation.backend == "ray":
        check_there()
    if wanted and (simulation.backend == "processes" or is_on_this_machine()):
        num_workers(wanted, wanted, _model_bytes(folder), usable_bytes())


def _model_bytes(folder: JobFolder) -> int:
    return folder.initial_params.stat().st_size if folder.initial_params.exists() else 0


def at_once(model_bytes: int, saved_bytes: int, memory_bytes: int) -> int:
    """Return how many nodes are trained at once: `MAX_TOGETHER`, or as many as so much memory bears.

    Args:
        saved_bytes: what the forward pass of a step keeps for the gradients.
    """
    each = NODE_BYTES + MODELS_TOGETHER * model_bytes + STEPS_TOGETHER * saved_bytes
    return max(1, min(MAX_TOGETHER, memory_bytes // each))


def num_workers(wanted: int | None, num_nodes: int, model_bytes: int, memory_bytes: int) -> int:
    """Return how many workers there are: as many as were asked for, or as cores, nodes and memory allow.

    Raises:
        SpecError: so many as were asked for need more memory than there is.
    """
    each = WORKER_BYTES + MODELS_PER_WORKER * model_bytes
    bears = memory_bytes // each
    if wanted is None:
        return max(1, min(len(os.sched_getaffinity(0)), num_nodes, bears))
    if wanted > max(1, bears):
        raise SpecError(
            f"simulate(workers={wanted}) needs about {wanted * each >> 20} MB, {each >> 20} MB each with this model; "
            f"{memory_bytes >> 20} MB are free: take {max(1, bears)} workers or fewer, or None for as many as fit"
        )
    return wanted


def usable_bytes() -> int:
    """Return the memory that is free on this machine, or in the container that this process lives in."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):  # another system than Linux
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        facts = dict(
            line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return min(free, limit - used + int(facts.get("file", 0)))
    except (OSError, ValueError):  # no control group, or no limit
        return free


def _paths(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the files and folders of the data and of the row numbers, each once; data may be elsewhere, as in a database."""
    infos = _each_once(datasets)
    found = {str(info["share"]["index"]) for info in infos if "share" in info}
    found |= {str(info["path"]) for info in infos if info.get("path")}
    return sorted(path for path in found if os.path.exists(path))


def _each_once(datasets: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what the nodes' datasets are opened by; one for all nodes that share a dataset."""
    nodes = list(datasets)
    return [datasets[node] for node in (nodes[:1] if isinstance(datasets, SharedDatasets) else nodes)]


def _shared(datasets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the datasets that nodes share are opened by, each once.

    Raises:
        SpecError: the row numbers or the data are not where the job divided them.
    """
    found: dict[str, dict[str, Any]] = {}
    for info in _each_once(datasets):
        if "share" not in info:
            continue
        whole = {name: info[name] for name in ("name", "path", "reader", "tags", "options", "loading")}
        key = str(whole["path"])
        if key not in found:
            for path in (str(info["share"]["index"]), key):
                if not Path(path).exists():
                    raise SpecError(
                        f"the simulation's {'rows' if path != key else 'data'} are not at {path} any more: go on where "
                        "the job was made, or give the data again, Job.resume(..., data=...)"
                    )
            found[key] = {**whole, "share": dict(info["share"])}
    return list(found.values())
