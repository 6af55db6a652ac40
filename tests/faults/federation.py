"""A federation whose parties each reach the hub over a line and a forward proxy of their own, and its job.

    party -> its line (`tests.faults.line`) -> its forward proxy (`tests.faults.forward_proxy`) -> hub and broker

The processes are those of `tests.e2e.federation`. Between two jobs the ways take on other properties and faults; what
the job of an undisturbed federation ends in is known from a local run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from fedjob import FedAvg, Job, connect
from fedjob.researcher.jobs.session import Session
from tests.data import make_points
from tests.e2e.federation import HUB_READY, Federation, Node, digest, preferred_kind
from tests.faults.authority import Authority
from tests.faults.forward_proxy import ForwardProxy
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.namespaces import LossyLink
from tests.faults.plans import Sluggish
from tests.faults.script import Fault, Script
from tests.faults.serving import LoopThread

RESEARCHER = "lab"

WIDTH = 4000
"""Of the model: its parameters take 112 kB, too much for a message, so that they go through the repository."""

Broker = Literal["mqtt", "ws"]
"""How parties speak to the broker: at its own port, or as MQTT over WebSocket at the hub's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What the ways of a scenario are like.

    Args:
        line: of whom `parties` names.
        faults: on the way of each of them.
        parties: whose way it is; empty for everybody's.
    """

    line: LineProperties = field(default_factory=LineProperties)
    faults: tuple[Fault, ...] = ()
    parties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Args:
        faults: that happened, by kind.
        trained: (node, round) -> how often it was trained.
        left_out: nodes that a round left out, with reasons.
    """

    digest: str
    seconds: float
    faults: Mapping[str, int]
    trained: Mapping[tuple[str, int], int]
    left_out: tuple[str, ...]
    published: int


class FederationBehindLines(Federation):
    """A federation whose parties have ways of their own, as a context manager.

    Args:
        broker: how parties speak to the broker.
        tls: the hub has a certificate, of an authority that nobody's machine knows.
        inspection: the authority by which every forward proxy looks into TLS.
        outer: port of a real forward proxy that all use in place of their own, and the login that it wants.
        link: all ways lead over it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: tuple[str, ...] = ("clinic-1", "clinic-2"),
        broker: Broker = "mqtt",
        tls: bool = False,
        inspection: Authority | None = None,
        outer: tuple[int, str] | None = None,
        link: LossyLink | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(folder, kind or preferred_kind(), forked=True)
        self.broker, self.inspection = broker, inspection
        self._outer, self._link = outer, link
        self._own = Authority(folder, "The hub's own") if tls else None
        self._names = nodes
        self._loop = LoopThread()
        self.proxies: dict[str, ForwardProxy] = {}
        self.lines: dict[str, FaultyLine] = {}
        self._golden: dict[str, str] = {}

    @property
    def tls_ca(self) -> Path | None:
        """Return the certificate of the authority that parties have to trust."""
        if self._own is None:
            return None
        return (self.inspection or self._own).certificate

    @property
    def authority_of_hub(self) -> Path:
        """Return the certificate that the hub's own is signed by."""
        assert self._own is not None
        return self._own.certificate

    def way_of(self, party: str) -> str:
        """Return the proxy that a party is to use."""
        login = f"{self._outer[1]}@" if self._outer and self._outer[1] else ""
        return self.lines[party].url.replace("://", f"://{login}")

    def start_hub(self) -> None:
        home = self.folder / "hub"
        words: list[str | Path] = ["--home", home, "--port", self._ports[0], "--broker-kind", self.kind]
        if self._own is not None:
            leaf = self._own.leaf_for("127.0.0.1")
            words += ["--tls-cert", leaf, "--tls-key", leaf]
        if self._own is None or self.broker == "mqtt":
            words += ["--mqtt-port", self._ports[1]]
        self.hub = self.processes.start("fedjob", "hub", "start", *words, ready=HUB_READY, name="hub")
        said = self.hub.wait_for(HUB_READY)
        self.url, self.broker_url = said[1], said[2]
        self._ports = (self.url.rpartition(":")[2], self.broker_url.rpartition(":")[2].partition("/")[0])
        if self.broker == "ws" and self._own is None and "mqtt://" in self.broker_url:
            # its port is known now; with TLS the one port is what a hub has by default
            self.hub.stop()
            words += ["--public-broker", f"ws://127.0.0.1:{self._ports[0]}/mqtt"]
            words[words.index("--port") + 1] = self._ports[0]
            self.hub = self.processes.start("fedjob", "hub", "start", *words, ready=HUB_READY, name="hub")
            self.broker_url = self.hub.wait_for(HUB_READY)[2]

    def __enter__(self) -> FederationBehindLines:
        self._loop.__enter__()
        self.start_hub()
        trusts = None if self._own is None else self._own.certificate
        near = self._link.near if self._link else "127.0.0.1"
        far = self._link.far if self._link else "127.0.0.1"
        for party in (RESEARCHER, *self._names):
            proxy = ForwardProxy(self._loop, authority=self.inspection, trusts=trusts, host=near)
            self.proxies[party] = proxy
            self.lines[party] = FaultyLine(self._loop, self._outer[0] if self._outer else proxy.port, far)
        if self._link:
            self._link.relay(*(proxy.port for proxy in self.proxies.values()))
        for index, name in enumerate(self._names):
            node = self.nodes[name] = Node(self, name)
            options = () if self.tls_ca is None else ("--tls-ca", str(self.tls_ca))
            node.init("--proxy", self.way_of(name), *options).set(approval="off", threads=1)
            node.add("points", make_points(self.folder / f"{name}.npz", 50 + 10 * index, index), "points")
        self.start_nodes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set_ways()
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._loop.__exit__(None, None, None)

    def session(self, home: str = RESEARCHER) -> Session:
        if home not in self._sessions:
            self._sessions[home] = connect(
                hub=self.url,
                home=self.folder / home,
                id=home,
                proxy=self.way_of(home),
                tls_ca=self.tls_ca,
                timeout_s=60,
            )
        return self._sessions[home]

    def set_ways(self, *ways: Ways, seed: int = 0) -> None:
        """Give every way the properties and faults of the scenario that names its party, or of none."""
        for number, party in enumerate(self.lines):
            found = next((way for way in ways if not way.parties or party in way.parties), Ways())
            script = Script(found.faults, seed=seed * 1000 + number)
            self.proxies[party].become(script)
            self.lines[party].become(found.line, script)

    def run_job(
        self,
        *ways: Ways,
        seed: int = 0,
        rounds: int = 20,
        width: int = WIDTH,
        pause_s: float = 0.0,
        **more: Any,
    ) -> Outcome:
        """Run a job over the ways as they are in a scenario; return what came of it."""
        session = self.session()
        self.set_ways(*ways, seed=seed)
        published = sum(proxy.mqtt.num_published for proxy in self.proxies.values())
        lost = self._link.dropped() if self._link else 0
        tally = f"{time.monotonic_ns()}"
        began = time.monotonic()
        job = self._job(tally, rounds, width, pause_s, data="points", session=session, **more)
        try:
            job.run(progress=False)
            seconds = time.monotonic() - began
        finally:
            scripts = [proxy.script for proxy in self.proxies.values()]
            published = sum(proxy.mqtt.num_published for proxy in self.proxies.values()) - published
            self.set_ways()
        left_out = [
            f"round {number}: {node} {reason}"
            for number, info in job.rounds.items()
            for node, reason in info.dropped.items()
        ]
        faults = sum((script.done for script in scripts), Counter[str]())
        if self._link:
            faults["packets lost"] = self._link.dropped() - lost
        return Outcome(digest(job), seconds, faults, self._trained(tally), tuple(left_out), published)

    def golden(self, rounds: int = 20, width: int = WIDTH) -> str:
        """Return what the job ends in where nothing goes wrong: the hash of a local run."""
        name = f"golden-{rounds}-{width}"
        if name not in self._golden:
            data = {node: str(self.folder / f"{node}.npz") for node in self._names}
            with one_thread():
                job = self._job(
                    "golden", rounds, width, 0.0, data=data, nodes="local", home=self.folder / name
                )
                job.run(progress=False)
            self._golden[name] = digest(job)
        return self._golden[name]

    def _job(self, tally: str, rounds: int, width: int, pause_s: float, **where: Any) -> Job:
        args = {"lr": 0.05, "num_updates": 2, "batch_size": 16, "pause_s": pause_s, "tally": tally}
        return Job(
            FedAvg(),
            training_plan=Sluggish,
            training_args=args,
            model_args={"width": width},
            rounds=rounds,
            seed=9,
            **where,
        )

    def _trained(self, tally: str) -> dict[tuple[str, int], int]:
        found: Counter[tuple[str, int]] = Counter()
        for name, node in self.nodes.items():
            for log in (node.home / "logs" / "tasks").glob("*.stdout"):
                for words in (line.split() for line in log.read_text().splitlines()):
                    if words[:2] == ["trained", tally]:
                        found[name, int(words[2])] += 1
        return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the nodes here do: another number may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_undisturbed(
    federation: FederationBehindLines, outcome: Outcome, rounds: int = 20, width: int = WIDTH
) -> None:
    """Check that a job ended in the undisturbed bytes, trained nothing twice and left nobody out."""
    assert outcome.left_out == (), f"left out: {outcome.left_out}"
    expected = {(name, number): 1 for name in federation.nodes for number in range(1, rounds + 1)}
    odd = {key: outcome.trained.get(key, 0) for key in expected | outcome.trained}
    odd = {key: count for key, count in odd.items() if count != expected.get(key)}
    assert not odd, f"not trained once: {odd}"
    assert outcome.digest == federation.golden(rounds, width), "other bytes"
