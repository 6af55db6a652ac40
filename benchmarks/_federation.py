"""A hub and nodes as real processes, for the scripts in this folder."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.researcher.jobs.session import Session, connect
from tests.processes import READY_TIMEOUT_S, Processes, Running

SitesOfFiles = dict[str, Mapping[str, Path]]
"""For each node the files that are its datasets, by name; the name is the tag too."""


@dataclass
class BenchFederation:
    """What a script gets: where things are, and an open session."""

    root: Path
    session: Session
    hub: Running
    nodes: list[Running]
    broker: str


@contextmanager
def federation(
    num_nodes: int, *, broker_kind: str = "auto", threads: int = 1, sandbox: str = "on"
) -> Iterator[BenchFederation]:
    """Start a hub and nodes with one small dataset each; end them all at the end, also at SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-data-") as folder:
        points = Path(folder) / "points.npz"
        np.savez(points, x=np.zeros((8, 4)), y=np.zeros(8, dtype=np.int64))
        files: SitesOfFiles = {f"node-{k:02d}": {"bench": points} for k in range(num_nodes)}
        with federation_of(files, broker_kind=broker_kind, threads=threads, sandbox=sandbox) as bench:
            yield bench


@contextmanager
def federation_of(
    files: SitesOfFiles, *, broker_kind: str = "auto", threads: int = 1, sandbox: str = "on"
) -> Iterator[BenchFederation]:
    """Start a hub and a node for each entry of `files`; end them all at the end, also at SIGTERM."""
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        root = Path(folder)
        with Processes(root) as processes:
            hub = processes.start(
                "fedjob", "hub", "start", "--home", root / "hub", "--port", "0", "--mqtt-port", "0",
                "--broker-kind", broker_kind, name="hub",
            )  # fmt: skip
            ready = hub.wait_for(r"hub ready: (\S+) \S+ \(broker: (.*)\)")
            homes = {name: root / name for name in files}
            init = ("fedjob", "node", "init", "--hub", ready[1])
            add = ("fedjob", "node", "data", "add")
            _run_together(processes, [(*init, "--id", name, "--home", home) for name, home in homes.items()])
            _run_together(
                processes,
                [
                    (*add, tag, path, "--tags", tag, "--home", homes[name])
                    for name, datasets in files.items()
                    for tag, path in datasets.items()
                ],
            )
            settings = {"FEDJOB_APPROVAL": "off", "FEDJOB_THREADS": str(threads), "FEDJOB_SANDBOX": sandbox}
            nodes = [
                processes.start("fedjob", "node", "start", "--home", home, name=name, env=settings)
                for name, home in homes.items()
            ]
            for node in nodes:
                node.wait_for("node ready")
            with connect(hub=ready[1], home=root / "researcher", id="bench") as session:
                yield BenchFederation(root, session, hub, nodes, ready[2])


def _run_together(processes: Processes, commands: list[tuple[str | Path, ...]]) -> None:
    """Run commands to their ends, as many at a time as there are cores."""
    cores = os.cpu_count() or 1
    for begin in range(0, len(commands), cores):
        running = [processes.start(*command) for command in commands[begin : begin + cores]]
        for each in running:
            if each.wait(timeout_s=READY_TIMEOUT_S) != 0:
                raise RuntimeError(f"{each.name} failed:\n{each.log()}")


def _leave(*_: object) -> None:
    """End as Ctrl-C does: what was started is ended on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def spread(values: list[float], unit: str = "ms", scale: float = 1000.0) -> str:
    """Return median and range, for printing."""
    ordered = sorted(values)
    low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    return f"median {middle * scale:.1f} {unit} (min {low * scale:.1f}, max {high * scale:.1f}, n={len(ordered)})"
