"""From 10 to 1,000 nodes at one hub: time, processor seconds and memory of hub, broker and researcher.

python benchmarks/thousand_nodes.py                     10, 100, 300 and 1,000 nodes
python benchmarks/thousand_nodes.py --nodes 300 --rounds 3 [--broker amqtt] [--one-port] [--params 10000]

The nodes are those of `_crowd.py`: everything between a node and the hub is real, and the work is an addition. The
researcher is a real `Job`. Processor seconds depend little on what else the machine does; seconds on the wall do. Those of
all nodes together say what the nodes themselves take of a machine that real ones don't share.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from _memory import Peak, Watch

from fedjob import FedAvg, Job
from fedjob.researcher.jobs.session import Session, connect
from tests.processes import PYTHON, Processes, Running, wait_until

HERE = Path(__file__).parent
PER_PROCESS = 50
PATIENCE_S = 300.0
IDLE_S = 10.0
ONE_ADDRESS = """\
num_connections = 8192
address_connections = 8192
num_logins = 4096
address_logins = 4096
stranger_requests_per_s = 5000.0
stranger_requests_at_once = 20000.0
"""
"""Limits of the hub, for its `config.toml`: here all nodes come from one address, which real ones don't."""


@dataclass
class Watched:
    """The processes of a run, and what each had used when it was looked at last."""

    pids: dict[str, int]
    crowds: list[int] = field(default_factory=list)
    """The processes full of nodes, which stand as one."""

    used_s: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    def begin(self) -> None:
        """Note the time, and the processor seconds of each process."""
        self.used_s = self._used()
        self.began = time.monotonic()

    def _used(self) -> dict[str, float]:
        used = {name: processor_s(pid) for name, pid in self.pids.items()}
        return {**used, "all nodes": sum(map(processor_s, self.crowds))}

    def end(self, what: str) -> None:
        """Print what was used since."""
        seconds = time.monotonic() - self.began
        used = {name: value - self.used_s[name] for name, value in self._used().items()}
        parts = ", ".join(f"{name} {value:.2f}" for name, value in used.items())
        print(f"  {what:<34} {seconds:7.2f} s   processor seconds: {parts}", flush=True)

    def memory(self) -> str:
        """Return each process's proportional share of memory, and its open descriptors."""
        parts = []
        for name, pid in self.pids.items():
            pss = psutil.Process(pid).memory_full_info().pss / 1e6
            parts.append(f"{name} {pss:.0f} MB, {len(os.listdir(f'/proc/{pid}/fd'))} files")
        return "; ".join(parts)


def processor_s(pid: int) -> float:
    """Return the processor seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def run(num_nodes: int, given: argparse.Namespace) -> None:
    """Start a hub and nodes, and print what each step takes."""
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder, Processes(Path(folder)) as processes:
        root = Path(folder)
        (root / "hub").mkdir(mode=0o700)
        (root / "hub" / "config.toml").write_text(ONE_ADDRESS)
        ports = ["--port", "0"] if given.one_port else ["--port", "0", "--mqtt-port", "0"]
        hub = processes.start(
            "fedjob", "hub", "start", "--home", root / "hub", *ports, "--broker-kind", given.broker, *given.hub,
            name="hub",
        )  # fmt: skip
        ready = hub.wait_for(r"hub ready: (\S+) \S+ \(broker: (.*)\)")
        watched = Watched({"hub": hub.pid, **broker_of(hub)})
        load = os.getloadavg()[0]
        print(f"{num_nodes} nodes, broker {ready[2]}, load of the machine {load:.1f}", flush=True)
        crowds = start_crowds(processes, ready[1], root, num_nodes)
        watched.crowds = [crowd.pid for crowd in crowds]
        watched.begin()
        for crowd in crowds:
            crowd.wait_for("enrol took", timeout_s=PATIENCE_S)
        watched.end("all enrolled")
        watched.begin()
        for crowd in crowds:
            crowd.wait_for("connect took", timeout_s=PATIENCE_S)
        watched.end("all connected")
        watched.begin()
        time.sleep(IDLE_S)
        watched.end("nobody asks anything")
        peak = Peak(os.getpid())
        with connect(hub=ready[1], home=root / "researcher", id="bench") as session:
            watched.pids["researcher"] = os.getpid()
            search(session, watched, num_nodes)
            print(f"  researcher, messages dropped: {dict(session.endpoint.counters)}", flush=True)
            if given.rounds:
                with Watch(peak):
                    train(session, watched, num_nodes, given)
                print(
                    f"  researcher's private memory at its peak: {(peak.began_with + peak.bytes) / 1e6:.0f} MB",
                    flush=True,
                )
        print(f"  memory: {watched.memory()}", flush=True)
        for crowd in crowds:
            crowd.stop()
            lines = [line for line in crowd.log().splitlines() if " took " not in line]
            print(*(f"  {line}" for line in lines[:5]), sep="\n", end="\n" if lines else "")


def broker_of(hub: Running) -> dict[str, int]:
    """Return the broker's process under a hub."""
    children = psutil.Process(hub.pid).children()
    return {"broker": children[0].pid} if children else {}


def start_crowds(processes: Processes, hub: str, root: Path, num_nodes: int) -> list[Running]:
    """Start processes of light nodes."""
    return [
        processes.start(
            PYTHON,
            HERE / "_crowd.py",
            hub,
            root / "nodes",
            str(first),
            str(min(PER_PROCESS, num_nodes - first)),
            name=f"crowd-{first}",
        )
        for first in range(0, num_nodes, PER_PROCESS)
    ]


def search(session: Session, watched: Watched, num_nodes: int) -> None:
    """Wait for presence, then ask every node for its state and its data."""
    watched.begin()
    wait_until(
        lambda: sum(session.endpoint.presence().values()) >= num_nodes,
        timeout_s=60,
        what="everybody's presence",
    )
    watched.end("presence of all at the researcher")
    for _ in range(2):
        watched.begin()
        online = sum(node.online for node in session.nodes())
        watched.end(f"nodes(): {online} of {num_nodes} answer")
        watched.begin()
        found = session.datasets(["bench"])
        watched.end(f"datasets(): {len(found)} of {num_nodes} found")


def train(session: Session, watched: Watched, num_nodes: int, given: argparse.Namespace) -> None:
    """Run one job, and print when it found its nodes, when they were admitted, and what a round took."""
    watched.begin()
    job = Job(
        FedAvg(),
        training_plan=f"{HERE}/_plans.py:AddOne",
        data={"tags": ["bench"]},
        model_args={"num_params": given.params, "num_tensors": 10},
        rounds=given.rounds,
        session=session,
        seed=1,
    )
    watched.end("Job(...)")
    watched.begin()
    began = time.time()
    job.run(progress=False)
    watched.end(f"run of {given.rounds} rounds")
    events = list(job.events())
    asked = next(event.time for event in events if event.type == "ask")
    print(f"  begin to first ask {asked - began:.2f} s")
    for event in events:
        if event.type == "round":
            print(f"  round {event.body['seconds']:.2f} s")
    answered = len({event.node for event in events if event.type == "state" and event.node})
    print(f"  {answered} of {num_nodes} nodes took part, {len(events)} events", flush=True)


def main() -> None:
    """Print the figures of each number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[10, 100, 300, 1000])
    parser.add_argument("--params", type=int, default=10_000, help="float32 numbers: 10,000 are 40 kB")
    parser.add_argument("--rounds", type=int, default=2, help="0: searches alone")
    parser.add_argument("--broker", default="auto")
    parser.add_argument("--one-port", action="store_true", help="MQTT over WebSocket through the hub's port")
    parser.add_argument("--hub", nargs="*", default=[], help="further options of `fedjob hub start`")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for num_nodes in given.nodes:
        run(num_nodes, given)


if __name__ == "__main__":
    main()
