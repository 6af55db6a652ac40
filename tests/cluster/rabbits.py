"""A real cluster of three RabbitMQ nodes behind HAProxy for tests, with the files of envs/rabbitmq, on free ports of this machine."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from tests.authorities import Authority
from tests.parts import missing, program
from tests.processes import Processes, Running, wait_until

SHIPPED = Path(__file__).parents[2] / "envs" / "rabbitmq"
NAMES = ("broker-1", "broker-2", "broker-3")
START_S = 120.0
MAX_WORDS = 20
_IS_TROUBLE = re.compile(r"\[(warning|error|critical)\] <[\d.]+> +\S")
LIGHT = "+S 1:1 +SDcpu 1:1 +SDio 2 +A 2 +sbwt none +sbwtdcpu none +sbwtdio none"
"""For Erlang: one scheduler, which sleeps where there is nothing to do."""


def _sbin() -> Path:
    program("rabbitmq-server")
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return (
        found[-1].parent
        if found
        else missing("rabbitmq_server-*/sbin of the package rabbitmq-server in /usr/lib/rabbitmq/lib")
    )


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that nobody uses now, below those that it gives to outgoing connections by itself."""
    found: list[int] = []
    while len(found) < number:
        port = 12_000 + secrets.randbelow(18_000)
        with suppress(OSError), socket.socket() as each:
            each.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class Rabbit:
    """One node of a cluster."""

    def __init__(self, cluster: Cluster, name: str, ports: tuple[int, int, int, int]) -> None:
        self.name = name
        self.port, self.tls_port, self.management_port, self._dist_port = ports
        self.folder = cluster.folder / name
        self._cluster = cluster
        self._process: Running | None = None

    @property
    def node(self) -> str:
        """The node's name in Erlang."""
        return f"{self.name}@localhost"

    @property
    def env(self) -> dict[str, str]:
        """The environment of its programs."""
        return {
            "HOME": str(self._cluster.folder),
            "ERL_EPMD_PORT": str(self._cluster.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ERL_ARGS": LIGHT,
            "RABBITMQ_CTL_ERL_ARGS": LIGHT,
            "ERL_MAX_PORTS": "4096",
            "ERL_CRASH_DUMP": str(self.folder / "crash"),
        }

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Start it; it takes clients a while later."""
        script = str(self._cluster.sbin / "rabbitmq-server")
        self._process = self._cluster.processes.start(script, name=self.name, env=self.env)

    def wait(self) -> None:
        """Return when it takes clients."""
        assert self._process is not None
        self._process.wait_for("Server startup complete", timeout_s=START_S)

    def kill(self) -> None:
        """End it with -9, with everything that it started."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)  # a group of its own
        self._process.wait(timeout_s=20)

    def alarms(self) -> str:
        """Return the alarms of the cluster as this node knows them, such as that of a full disk; empty for none."""
        found = self.ctl("eval", "rabbit_alarm:get_alarms().").strip()
        return "" if found == "[]" else found

    def log(self) -> str:
        """Return what it has written so far."""
        return "" if self._process is None else self._process.log()

    def ctl(self, *words: str) -> str:
        """Run `rabbitmqctl` at this node; return its output."""
        script = str(self._cluster.sbin / "rabbitmqctl")
        return self._cluster.processes.run(script, "-n", self.node, *words, env=self.env, timeout_s=90).stdout


class Cluster:
    """Three nodes and what stands before them, as a context manager: started by `start`, once the hub's settings are known.

    Args:
        folder: for all data and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sbin = _sbin()
        self._haproxy = program("haproxy")
        self._epmd = program("epmd")
        self.processes = Processes(folder / "logs")
        self.port, self.epmd_port, *ports = free_ports(2 + 4 * len(NAMES))
        self.nodes = [
            Rabbit(self, name, (ports[k], ports[k + 3], ports[k + 6], ports[k + 9]))
            for k, name in enumerate(NAMES)
        ]
        self.authority = Authority(folder / "tls")
        self.certificate = self.authority.server()

    @property
    def url(self) -> str:
        """The broker's URL as parties are told it."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self, rights: str) -> None:
        """Start all of it; return when clients can come.

        Args:
            rights: what the hub wrote for RabbitMQ.
        """
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)
        for node in self.nodes:
            self._configure(node, rights)
        self.processes.start(
            self._epmd,
            "-port",
            str(self.epmd_port),
            "-address",
            "127.0.0.1",
            "-relaxed_command_check",
            name="epmd",
        )
        wait_until(lambda: _answers(self.epmd_port), timeout_s=20, what="epmd")
        # The first alone: of nodes that begin together each may make a Raft cluster of its own for the ids of clients.
        for some in (self.nodes[:1], self.nodes[1:]):
            for node in some:
                node.start()
            for node in some:
                node.wait()
        self.check()
        self.processes.start(self._haproxy, "-db", "-f", self._balance(), name="haproxy")
        wait_until(lambda: _answers(self.port), timeout_s=20, what="HAProxy")

    def check(self) -> None:
        """Check that nothing keeps the nodes from letting clients in.

        Raises:
            AssertionError: something does, in RabbitMQ's words.
        """
        for node in self.nodes:
            alarms = node.alarms()
            assert not alarms, f"{node.name} answers nobody because of {alarms}\n{self.words()}"
            members = node.ctl("eval", "ra:members({mqtt_node, node()}).")
            missing = [each.name for each in self.nodes if each.node not in members]
            assert not missing, f"{node.name} knows no client ids of {missing}: {members}\n{self.words()}"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add RabbitMQ's words to whatever fails meanwhile."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.words()}") from error

    def words(self) -> str:
        """Return the last warnings and errors of the nodes."""
        return "\n".join(
            f"{node.name}: {line}"
            for node in self.nodes
            for line in [line for line in node.log().splitlines() if _IS_TROUBLE.search(line)][-MAX_WORDS:]
        )

    def _configure(self, node: Rabbit, rights: str) -> None:
        (node.folder / "conf.d").mkdir(parents=True)
        text = (SHIPPED / "rabbitmq.conf").read_text()
        changes = {
            r"^mqtt\.listeners\.tcp = none": f"mqtt.listeners.tcp.default = 127.0.0.1:{node.port}",
            r"^(mqtt\.listeners\.ssl\.default) = 8883": rf"\1 = 127.0.0.1:{node.tls_port}",
            r"^(management\.tcp\.port) = 15672": rf"\1 = {node.management_port}",
            r"= /etc/rabbitmq/definitions.json": f"= {SHIPPED / 'definitions.json'}",
            r"= rabbit@(broker-\d)": r"= \1@localhost",
            r"= /etc/rabbitmq/tls/chain.pem": f"= {self.authority.cert}",
            r"= /etc/rabbitmq/tls/fullchain.pem": f"= {self.certificate.cert}",
            r"= /etc/rabbitmq/tls/privkey.pem": f"= {self.certificate.key}",
        }
        for place, (found, new) in enumerate(changes.items()):
            text, number = re.subn(found, new, text, flags=re.MULTILINE)
            assert number, place
        (node.folder / "rabbitmq.conf").write_text(text)
        (node.folder / "conf.d" / "rights.conf").write_text(rights)
        for name in ("advanced.config", "enabled_plugins"):
            (node.folder / name).write_text((SHIPPED / name).read_text())

    def _balance(self) -> Path:
        text = (SHIPPED / "haproxy.cfg").read_text().replace("bind :8883", f"bind 127.0.0.1:{self.port}")
        for node in self.nodes:
            text = text.replace(f" {node.name}:8883", f" 127.0.0.1:{node.port} port {node.tls_port}")
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        return path

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:  # a polite end takes each of them half a minute
            with suppress(AssertionError, ProcessLookupError, subprocess.TimeoutExpired):
                node.kill()
        self.processes.__exit__(kind, error, trace)
        # A node that misses another looks for epmd, and starts one where there is none any more.
        wait_until(self._end_rest, timeout_s=20, what="the end of what the cluster's nodes had started")

    def _end_rest(self) -> bool:
        """End what bears the cluster's port of epmd in its environment; return whether there was nothing for a second."""
        time.sleep(1)
        mark, found = f"ERL_EPMD_PORT={self.epmd_port}\0".encode(), False
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    found = True
        return not found


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False
