"""A whole federation of real processes: a hub with its broker, node daemons, a researcher's home.

Everything is started by the commands that a user types and ended by its own process id. Each process carries
the federation's mark in its environment, and so do its children: at the end none of them may be left.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from fedjob import Job, connect
from fedjob.common.config import load_config, set_config
from fedjob.common.lifecycle import HISTORY
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.queue.store import TaskStore
from fedjob.node.sandbox.enclosure import NAMESPACES
from fedjob.node.sandbox.support import find_support
from fedjob.node.storage.database import Database
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.breakpoints import hash_file
from tests.parts import has_program, in_ci, program
from tests.processes import Processes, Running, processes_of, wait_until

MARK = "E2E_FEDERATION"
HUB_READY = r"^hub ready: (\S+) (\S+) \(broker: (\w+)"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 150.0
"""For one job on a machine that does a lot besides: a first task alone may wait for torch to be imported."""


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process; none of one that is gone."""
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []


class Node:
    """A node's home, and its daemon while it runs."""

    def __init__(self, federation: Federation, name: str) -> None:
        self.name = name
        self.home = federation.folder / name
        self.process: Running | None = None
        self._federation = federation

    def init(self, *options: str) -> Node:
        entrance = self._federation.entrance(self.name, "node")
        self._federation.cli("node", "init", "--id", self.name, *entrance, *options, home=self.home)
        return self

    def set(self, **settings: object) -> Node:
        """Change settings; a running daemon follows within a second."""
        for key, value in settings.items():
            set_config(NodeConfig, self.home, key, str(value))
        return self

    def add(self, name: str, path: Path, *tags: str, **about: Any) -> Node:
        """Offer data, as `fedjob node data add` does."""
        database = Database(NodeHome(self.home).database)
        with database_of(database):
            Datasets(database).add(describe_dataset(name, path, tags=list(tags), **about))
        return self

    def start(self) -> Node:
        if self.process is None or not self.process.alive:
            command = ("fedjob", "node", "start", "--home", self.home)
            self.process = self._federation.processes.start(
                *command,
                ready="^node ready",
                name=self.name,
                fork=self._federation.forked,
                timeout_s=PATIENCE_S,
            )
            for session in self._federation.sessions():  # it asks those who show that they are there
                wait_until(
                    lambda session=session: session.endpoint.presence().get(self.name),
                    timeout_s=60,
                    what=f"{session.party} to hear of {self.name}",
                )
        return self

    def kill(self) -> None:
        """End the daemon with -9; what it forked must notice by itself."""
        assert self.process is not None
        self.process.kill()

    def stop(self) -> int:
        assert self.process is not None
        return self.process.stop(timeout_s=60)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of the workers, whatever they are doing."""
        found: list[int] = []
        with suppress(psutil.NoSuchProcess):
            servers = psutil.Process(self.pid).children()
            if (
                find_support().in_force(load_config(NodeConfig, self.home).sandbox) == NAMESPACES
            ):  # then the server is the child of one that waits for it
                servers = [inner for server in servers for inner in _children(server)]
            found = [child.pid for server in servers for child in _children(server)]
        return found

    def kill_workers(self) -> int:
        """End every worker with -9; tell how many there were."""
        workers = self.workers()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(workers)

    def tasks(self) -> list[dict[str, Any]]:
        """Return what `fedjob node tasks` shows, for whoever looks again and again."""
        database = Database(NodeHome(self.home).database)
        with database_of(database):
            return TaskStore(database).list_tasks()

    def end_tasks(self) -> list[str]:
        """Order the end of every task that has not ended, as the owner may; return the keys."""
        database = Database(NodeHome(self.home).database)
        with database_of(database):
            store = TaskStore(database)
            live = [task for task in store.list_tasks() if task["state"] not in HISTORY]
            ordered = {key for _, verb, key in store.orders() if verb == "kill"}
            for task in live:
                if not task["parent"] and task["key"] not in ordered:
                    store.order("kill", task["key"])
        return [task["key"] for task in live]

    def cli(self, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `fedjob node ...` on this home."""
        return self._federation.cli("node", *words, home=self.home, expect=expect)

    def json(self, *words: str) -> Any:
        """Run a command with `--json` and return what it prints."""
        return json.loads(self.cli(*words, "--json").stdout)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.json("status")
        return status

    def log(self) -> str:
        """Everything that this node has written into its logs."""
        logs = sorted(path for path in (self.home / "logs").rglob("*") if path.is_file())
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)


class Federation:
    """A hub and its nodes, as a context manager.

    Args:
        folder: for all homes and logs.
        kind: of the broker: `mosquitto`, `amqtt`, or the URL of one that runs already.
        forked: whether the nodes are forked, with what they start, see `tests.preloaded`: for tests that are about
            what the federation does, and not about its processes.
        hub_options: further options of `fedjob hub start`.
    """

    def __init__(
        self, folder: Path, kind: str, *, forked: bool = False, hub_options: tuple[str | Path, ...] = ()
    ) -> None:
        if kind == "mosquitto":
            program("mosquitto")
        self.folder = folder
        self.kind = kind
        self.forked = forked
        self.hub_options: tuple[str | Path, ...] = hub_options
        self.mark = secrets.token_hex(8)
        self.processes = Processes(folder / "logs", {MARK: self.mark})
        self.nodes: dict[str, Node] = {}
        self.url = self.broker_url = ""
        self.hub: Running
        self._ports = ("0", "0")
        self._sessions: dict[str, Session] = {}
        self._closed = False

    # -- the hub ----------------------------------------------------------------------------

    def start_hub(self) -> None:
        """Start the hub, at the ports that it had before."""
        broker = ("--broker", self.kind) if "://" in self.kind else ("--broker-kind", self.kind)
        ports = ("--port", self._ports[0], "--mqtt-port", self._ports[1], *self.hub_options)
        command = ("fedjob", "hub", "start", "--home", self.folder / "hub", *ports, *broker)
        self.hub = self.processes.start(*command, ready=HUB_READY, name="hub")
        said = self.hub.wait_for(HUB_READY)
        self.url, self.broker_url = said[1], said[2]
        self._ports = (self.url.rpartition(":")[2], self.broker_url.rpartition(":")[2])

    def entrance(self, party: str, role: str) -> tuple[str | Path, ...]:
        """Return the options with which a party joins: this hub's own user may."""
        return ("--hub", self.url)

    def broker_pid(self) -> int:
        """Process id of the hub's broker."""
        for child in psutil.Process(self.hub.pid).children():
            if child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
        raise AssertionError("the hub has no broker")

    # -- nodes ------------------------------------------------------------------------------

    def add_nodes(self, *names: str, approval: str = "off", **settings: object) -> list[Node]:
        """Make nodes, several at a time; they are not started yet."""
        made = [Node(self, name) for name in names]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Node.init, made))
        for node in made:
            self.nodes[node.name] = node.set(approval=approval, threads=1, **settings)
        return made

    def start_nodes(self) -> None:
        """Start every node that does not run."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Node.start, self.nodes.values()))

    # -- the researcher ---------------------------------------------------------------------

    def session(self, home: str = "lab") -> Session:
        """Return the connection of a researcher's home; it is opened once."""
        if home not in self._sessions:
            self._sessions[home] = connect(hub=self.url, home=self.folder / home, id=home, timeout_s=30)
        return self._sessions[home]

    def sessions(self) -> list[Session]:
        """Return the connections that are open."""
        return list(self._sessions.values())

    def cli(
        self, *words: str | Path, home: Path | None = None, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a `fedjob` command, by default on the researcher's home. Whatever happens, no traceback."""
        __tracebackhide__ = True
        home = home or self.folder / "lab"
        done = self.processes.run("fedjob", *words, "--home", home, expect=expect, timeout_s=PATIENCE_S)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def research(self, order: Mapping[str, Any], name: str = "researcher") -> Running:
        """Start a researcher's process; see `tests.e2e.researcher`."""
        order = {"hub": self.url, "home": str(self.folder / "lab"), "id": "lab", **order}
        return self.processes.start(
            "python", "-m", "tests.e2e.researcher", json.dumps(order), name=name, cwd=ROOT, fork=True
        )

    # -- the end ----------------------------------------------------------------------------

    def tidy(self) -> None:
        """Leave the hub and the nodes running, as a test found them, and nothing at work beside: no process, no task."""
        if self._closed:  # it was the test's own
            return
        if not self.hub.alive:
            self.start_hub()
        for node in self.nodes.values():
            if node.process is not None:
                node.start()
        standing = [self.hub, *(node.process for node in self.nodes.values() if node.process is not None)]
        for process in self.processes.started:
            if process.alive and process not in standing:
                process.clean_up()
        parts = {pid for process in standing if process.alive for pid in _family(process.pid)}
        for left in processes_of(self.folder):
            if left.pid not in parts:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
        running = [node for node in self.nodes.values() if node.process is not None and node.process.alive]
        for node in running:
            node.end_tasks()
        for node in running:
            wait_until(lambda node=node: not node.end_tasks(), timeout_s=60, what=f"{node.name} to be idle")

    def left_behind(self) -> list[str]:
        """Return the processes that belong to this federation and still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    found.append(f"{path.parent.name}: {_command(path.parent)}")
        return found

    def close(self) -> None:
        """End everything in the polite way; nothing may be left."""
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        for process in reversed(self.processes.started):
            if process.alive:
                process.send(signal.SIGTERM)
        for process in reversed(self.processes.started):
            process.stop(timeout_s=60)
        wait_until(lambda: not self.left_behind(), timeout_s=30, what="the federation's processes to end")

    def __enter__(self) -> Federation:
        self.start_hub()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            for line in self.left_behind():
                with suppress(ProcessLookupError):
                    os.kill(int(line.partition(":")[0]), signal.SIGKILL)
            self.processes.__exit__(kind, error, trace)
            if error is None:
                shutil.rmtree(self.folder, ignore_errors=True)


def _family(pid: int) -> set[int]:
    """Return the id of a process and those of all that descend from it, or from what one of them stands in for."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        found = {pid}
        if stands_for := re.fullmatch(r"for (\d+)", process.name()):  # see `tests.stand_in`
            found |= _family(int(stands_for[1]))
        for child in process.children():
            found |= _family(child.pid)
    return found


def _command(process: Path) -> str:
    with suppress(OSError):
        return process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "?"


@contextmanager
def database_of(database: Database) -> Iterator[Database]:
    """Close a database at the end."""
    try:
        yield database
    finally:
        database.close()


def digest(job: Job) -> str:
    """Return the sha256 of the bytes that a job ended in."""
    return hash_file(job.folder / "result" / "params.safetensors")


@contextmanager
def background(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Do something on a thread of its own meanwhile, such as `job.run(progress=False)`; interrupt it at the end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield future
    finally:
        if not future.done():
            interrupt = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), interrupt)
        thread.join(PATIENCE_S)


def preferred_kind() -> str:
    """Return the broker that a test with one broker uses."""
    return "mosquitto" if has_program("mosquitto") or in_ci() else "amqtt"
