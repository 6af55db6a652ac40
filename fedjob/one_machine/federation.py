"""A federation for notebooks, tutorials and tests: a hub and nodes as real processes on this machine."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.checks import check_choice, check_count, check_positive, checked, shown
from fedjob.common.console import how_to_install
from fedjob.common.errors import FedjobError, MissingPackage, SpecError
from fedjob.common.types import check_party
from fedjob.one_machine.commands import Commands
from fedjob.one_machine.data_files import check_dataset_name, named_data
from fedjob.one_machine.janitor import MARK, remove_sandbox
from fedjob.one_machine.owner import SandboxOwner
from fedjob.researcher.connection.opening import open_connection
from fedjob.researcher.jobs.session import Session

RESEARCHER = "researcher"
"""The id of the party that the session is of, which no node can have."""

MAX_NODES = 32
"""Each node is a process, with others for its work: more are for `nodes="local"`."""

_HUB = "hub"
_PACKAGES = ("amqtt", "bandit", "paho", "rich", "starlette", "uvicorn")
_STARTS_AT_ONCE = 4


class SandboxProcesses:
    """The hub and the nodes of one federation, and their folder.

    Args:
        within_s: seconds in which each of them has to be ready.
    """

    def __init__(self, within_s: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedjob-federation-")).resolve()
        (self.folder / MARK).touch()
        self.within_s = within_s
        self.commands = Commands(self.folder / "logs", within_s=within_s)
        self.owners: dict[str, SandboxOwner] = {}
        self._pid = os.getpid()
        self._janitor: subprocess.Popen[bytes] | None = None
        self._at_exit: Callable[[], None] = self.end
        atexit.register(self.end)

    def end_by(self, close: Callable[[], None]) -> None:
        """Have a function that calls `end` called at the end of this process, in place of `end`."""
        atexit.unregister(self._at_exit)
        self._at_exit = close
        atexit.register(close)

    def start_hub(self, port: int) -> str:
        """Start the hub; return its URL."""
        self._janitor = subprocess.Popen(
            [sys.executable, "-m", "fedjob.one_machine.janitor", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        home = str(self.folder / _HUB)
        self.commands.start("hub", "start", "--home", home, "--port", str(port), "--mqtt-port", "0", log=_HUB)
        return self.commands.wait_for(_HUB, r"hub ready: (\S+) .*")[1]

    def make_node(self, node: str, hub: str, settings: Mapping[str, str]) -> SandboxOwner:
        """Make a node's home and have it join; it does not run yet."""
        owner = SandboxOwner(node, self.folder / node, self.commands)
        owner.run("init", "--id", node, "--hub", hub)
        owner.run("config", "set", *(word for setting in settings.items() for word in setting))
        self.owners[node] = owner
        return owner

    def start_node(self, node: str) -> None:
        """Start a node and return once it is connected."""
        self.commands.start("node", "start", "--home", str(self.folder / node), log=node)
        self.commands.wait_for(node, r"node ready: .*")

    def end(self) -> None:
        """End the processes and remove the folder; a second time does nothing."""
        if self._pid != os.getpid():
            return  # this is a fork of the process that they belong to
        atexit.unregister(self._at_exit)
        self.commands.end()
        remove_sandbox(self.folder)
        if self._janitor is not None:
            with suppress(OSError):
                self._janitor.communicate(timeout=self.within_s)
            self._janitor = None


class SandboxSession(Session):
    """A researcher's session with a federation that ends with it; see `sandbox_federation`."""

    _processes: SandboxProcesses

    @property
    def folder(self) -> Path:
        """The temporary folder of everything, which is removed in the end."""
        return self._processes.folder

    def owner(self, node: str) -> SandboxOwner:
        """Return the owner of a node, to see and decide requests, and to add data.

        Raises:
            SpecError: there is no such node.
        """
        owners = self._processes.owners
        if node not in owners:
            raise SpecError(f"this federation has no node {shown(node)}; it has {', '.join(owners)}")
        return owners[node]

    def run(self, *words: str) -> str:
        """Do `fedjob WORDS --home HOME` with the home of this session, and return what it prints.

        Raises:
            FedjobError: it failed; says why.
        """
        return self._processes.commands.run(*words, "--home", str(self.home), log=RESEARCHER).strip()

    def close(self) -> None:
        """Leave the federation, end its processes and remove its folder, with the jobs in it."""
        try:
            if not self.closed:
                super().close()
        finally:
            self._processes.end()


@checked
def sandbox_federation(
    nodes: Mapping[str, Any],
    *,
    approve: str = "all",
    name: str = "data",
    tags: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    port: int = 0,
    timeout_s: float = 120.0,
) -> SandboxSession:
    """Start a hub and a node for each entry on this machine, and return a session that is connected with them.

    They are real processes, each with a home of its own in one temporary folder. They end, and the folder is removed,
    when the session is closed, at the end of its `with` block, and with this process, however that ends. Everything
    goes with them: save results elsewhere.

    Args:
        nodes: node id -> its data: a pandas DataFrame, a path, a pair of arrays or tensors (inputs, targets), a torch
            Dataset of such pairs, a map from dataset names to these, or None for none. Files stay where they are; the
            rest is written to files in the temporary folder, a table without its index.
        approve: `all`: nodes run any plan without asking; `ask`: each plan waits for its owner, who is played by
            `session.owner("clinic-1").approve()`.
        name: of a dataset that is given without a name.
        tags: of all datasets; None for each one's name alone.
        options: of the readers, such as `{"target": "sick"}`.
        port: of the hub; 0 for a free one.
        timeout_s: seconds in which each process has to be ready.

    Raises:
        SpecError: a wrong argument; data that are not there, or can't be written to a file.
        MissingPackage: hub and nodes need packages that are not here.
        FedjobError: a process did not start, such as a hub whose port is taken; says what it printed.
    """
    found = _checked_nodes(nodes, name)
    check_choice("approve", approve, ("all", "ask"))
    if not 0 <= check_count("port", port, least=0) <= 65535:
        raise SpecError(f"port is 0 to 65535, not {port}")
    check_positive("timeout_s", timeout_s)
    if lacking := _lacking():
        raise MissingPackage(
            f"a federation on this machine is hub and nodes too, and lacks {', '.join(lacking)}: "
            f"{how_to_install(lacking[0], 'demo')}"
        )
    processes = SandboxProcesses(timeout_s)
    try:
        return _started(processes, found, approve=approve, tags=tags, options=options, port=port)
    except BaseException:
        processes.end()
        raise


def _checked_nodes(nodes: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return node -> dataset name -> data."""
    if not isinstance(nodes, Mapping) or not nodes:
        raise SpecError(
            f'a federation is a map from node ids to data, such as {{"clinic-1": frame}}, not {shown(nodes)}'
        )
    if len(nodes) > MAX_NODES:
        raise SpecError(
            f"a federation on one machine has at most {MAX_NODES} nodes, each with processes of its own, not {len(nodes)}; "
            'Job(nodes="local") takes more'
        )
    for node in nodes:
        if check_party(node) in (RESEARCHER, _HUB, "data", "logs"):
            raise SpecError(f"{node!r} is a name of the federation's own; name the node otherwise")
    check_dataset_name(name)
    return {node: named_data(node, entry, name) for node, entry in nodes.items()}


def _started(
    processes: SandboxProcesses,
    nodes: Mapping[str, Mapping[str, Any]],
    *,
    approve: str,
    tags: Sequence[str] | None,
    options: Mapping[str, Any] | None,
    port: int,
) -> SandboxSession:
    threads = max(1, (os.cpu_count() or 1) // len(nodes))
    settings = {"threads": str(threads)}  # the nodes share one machine
    if approve == "all":
        settings["approval"] = "off"
    hub = processes.start_hub(port)

    def begin(node: str) -> None:
        owner = processes.make_node(node, hub, settings)
        for name, data in nodes[node].items():
            owner.add(name, data, tags=tags, options=options)
        processes.start_node(node)

    with ThreadPoolExecutor(_STARTS_AT_ONCE) as pool:
        try:
            for made in [pool.submit(begin, node) for node in nodes]:
                made.result()
        except BaseException:
            processes.commands.end()  # so that what the others wait for ends too
            pool.shutdown(cancel_futures=True)
            raise
    session = open_connection(
        SandboxSession, hub, home=processes.folder / RESEARCHER, id=RESEARCHER, timeout_s=processes.within_s
    )
    session._processes = processes
    processes.owners = {node: processes.owners[node] for node in nodes}  # as given, and not as they came
    processes.end_by(session.close)
    try:
        _wait_for(session, nodes, processes.within_s)
    except BaseException:
        session.close()
        raise
    return session


def _wait_for(session: Session, nodes: Mapping[str, Any], within_s: float) -> None:
    """Wait until every node answers."""
    deadline = time.monotonic() + within_s
    while silent := set(nodes) - {each.id for each in session.nodes() if each.online}:
        if time.monotonic() > deadline:
            raise FedjobError(f"{', '.join(sorted(silent))} did not answer within {within_s:g} s")


def _lacking() -> list[str]:
    from importlib.util import find_spec

    return [name for name in _PACKAGES if find_spec(name) is None]
