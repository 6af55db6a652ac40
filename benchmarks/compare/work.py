"""The work that every framework does here, the frameworks, and what is measured of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """A framework beside fedjob.

    Attributes:
        packages: What pip installs, with versions: figures are of one version.
        script: The module of `peers` that runs a work in the peer's environment.
        setting: What of its documented settings is taken, in words.
        environment: The peer whose environment it runs in; empty for its own.
        processes: Of a simulation; 0 for one for each core.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    script: str
    setting: str
    environment: str = ""
    processes: int = 0

    @property
    def place(self) -> str:
        """The name of its environment."""
        return self.environment or self.name


FEDJOB = Peer(
    "fedjob", "fedjob", (), "on_fedjob.py",
    "hub, broker and nodes are processes; messages are signed and encrypted, plans run in the sandbox, a breakpoint is made "
    "durable after every round (every 5 of the large model); a simulation has a worker for each core",
)  # fmt: skip
PEERS = (
    Peer(
        "flower", "Flower 1.42.0", ("flwr[simulation]==1.42.0",), "on_flower.py",
        "a SuperLink and SuperNodes as processes, without TLS and authentication, nothing kept on disk, tasks looked for "
        "every 0.1 s instead of every second; its simulation runs on Ray with one core for each node",
    ),
    Peer(
        "nvflare", "NVFlare 2.9.0", ("nvflare==2.9.0", "bitsandbytes==0.50.2"), "on_nvflare.py",
        "its simulator with one process for each client, all at a time, and the client's script inside of it, which asks for "
        "tasks every 50 ms instead of every half second; without TLS. Over slow lines a server and clients that were provisioned as "
        "for production, with TLS, and its quantisation filters on both sides; that for 8 bits wants a GPU at the server and at "
        "every client, and is led to compute the same on the processor",
    ),
    Peer(
        "pfl", "pfl 0.6.0", ("pfl==0.6.0",), "on_pfl.py",
        "one process of one thread for each core, joined by torch.distributed, as its guide to fast simulations has it; nothing "
        "kept on disk",
    ),
    Peer(
        "pfl-threads", "pfl 0.6.0 in one process", ("pfl==0.6.0",), "on_pfl.py",
        "one process with a thread of torch for each core, as its benchmarks are documented; nothing kept on disk",
        environment="pfl", processes=1,
    ),
    Peer(
        "torch", "torch 2.13.0 alone", ("torch==2.13.0", "numpy==2.4.6"), "on_torch.py",
        "no framework but the floor of one: the same training of the same number of nodes and the mean of their models, by a "
        "process of one thread for each core; no node, file, check or message",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which parameters travel, as fedjob and as a peer name it; empty for as they are."""

    own: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """Rounds to run.

    Attributes:
        peers: Names of the frameworks that can do it, in the order in which they are run.
        rounds: Rounds of a peer; the first is not counted.
        own_rounds: Rounds of fedjob, where more are needed for a steady figure.
        images: The model that nodes train on images, `cnn` or `linear`; empty where each adds a number to its parameters.
        mbit: Mbit/s of the line that each node has of its own, in each direction, and over which it trains a CNN on digits; 0 for
            no such line.
        forms: Each is run beside each other once in a pair.
        deadline_s: Seconds after which a run is ended and counted as failed.
        outcome: The name of what comes out at the end, by which a reader sees that all did the same work.
        note: What a reader of its tables has to know besides.
    """

    name: str
    title: str
    peers: tuple[str, ...]
    nodes: int
    cohort: int
    rounds: int
    own_rounds: int
    deadline_s: float
    params: int = 0
    tensors: int = 10
    images: str = ""
    mbit: float = 0.0
    forms: tuple[Form, ...] = (Form(),)
    outcome: str = "parameters' value"
    note: str = ""


WORKS = (
    Work(
        "small", "A round in which nodes compute nothing: four nodes, 10,000 parameters", ("flower", "nvflare"),
        nodes=4, cohort=4, rounds=9, own_rounds=41, deadline_s=240, params=10_000,
    ),
    Work(
        "large", "Moving a model: four nodes, 25 million parameters (100 MB)", ("flower", "nvflare"),
        nodes=4, cohort=4, rounds=5, own_rounds=6, deadline_s=300, params=25_000_000,
    ),
    Work(
        "simulation",
        "A simulation: a CNN of two convolutions, 1,000 nodes of 50 images, cohorts of 50, one epoch in batches of 10",
        ("flower", "pfl", "pfl-threads", "torch"), nodes=1000, cohort=50, rounds=6, own_rounds=6, deadline_s=300, images="cnn", outcome="loss",
    ),
    Work(
        "megabyte",
        "A simulation: a linear model of 1 MB, ten nodes of 50 images, all in each round, one epoch in batches of 10",
        ("flower", "pfl", "pfl-threads", "torch"), nodes=10, cohort=10, rounds=21, own_rounds=21, deadline_s=300, images="linear", outcome="loss",
    ),
    Work(
        "quantization",
        "Fewer bytes over slow lines: four nodes behind 20 Mbit/s each, a CNN of a million parameters (4.05 MB) on digits",
        ("nvflare",), nodes=4, cohort=4, rounds=6, own_rounds=6, deadline_s=240, mbit=20.0,
        outcome="accuracy",
        forms=(Form(), Form("bf16", "float16"), Form("Int8()", "blockwise8"), Form("Int8()", "adaquant")),
        note="Every node, or client of a peer, reaches the server over a line of its own of 20 Mbit/s in each direction, without delay; all that the "
        "line carries in a round is counted: parameters, headers, TLS, questions for tasks. Processor time and memory hold the "
        "lines, which are Python. The accuracy is that on a third of the digits, which no node has; each framework draws the order of its batches, which alone moves it by three percent.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured of one run of one framework, or why there is nothing.

    Attributes:
        seconds: Of each round but the first.
        first_s: From the start of the first process to the end of the first round.
        cpu_s: Processor seconds of all processes for each round but the first.
        memory_mb: The most memory of all processes at a time; what several share is counted once.
        outcome: The value of the parameters, or the loss or accuracy at the end: whether the work was done.
        down_mb: Megabytes (a million bytes) that came to a node in each round but the first, where lines count them.
        up_mb: Those that left it.
        others: Share of the machine's processors, 0 to 1, that everything else took meanwhile.
        error: Empty, or the last words of a run that failed.
    """

    seconds: tuple[float, ...] = ()
    first_s: float = 0.0
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    outcome: float = 0.0
    down_mb: float = 0.0
    up_mb: float = 0.0
    others: float = 0.0
    error: str = ""

    @property
    def round_s(self) -> float:
        """The median of the rounds' seconds."""
        return median(self.seconds)


@dataclass(frozen=True, slots=True)
class Pair:
    """A run of a peer and the run of fedjob beside it."""

    peer: Run
    own: Run
    form: Form = Form()

    @property
    def ratio(self) -> float | None:
        """How many times as long as fedjob's a round of the peer takes; None where one of the two failed."""
        if self.peer.error or self.own.error:
            return None
        return self.peer.round_s / self.own.round_s


@dataclass(frozen=True, slots=True)
class Compared:
    """All pairs of one work by peer, and the peers of which there are none, with the reason."""

    work: Work
    pairs: Mapping[str, list[Pair]]
    missing: Mapping[str, str] = field(default_factory=dict)

    def own_runs(self, form: str) -> list[Run]:
        """Return fedjob's runs with parameters in one form."""
        return [pair.own for pairs in self.pairs.values() for pair in pairs if pair.form.own == form]


def orders(work: Work, peer: Peer, form: Form, *, data: str, cores: int) -> dict[str, Any]:
    """Return what a script of `peers` is given."""
    own = peer is FEDJOB
    return {
        "nodes": work.nodes,
        "cohort": work.cohort,
        "rounds": work.own_rounds if own else work.rounds,
        "params": work.params,
        "tensors": work.tensors,
        "data": data if work.images or work.mbit else "",
        "model": work.images,
        "mbit": work.mbit,
        "form": form.own if own else form.peer,
        "workers": peer.processes or cores,
        "threads": cores,
        "deadline_s": work.deadline_s,
    }
