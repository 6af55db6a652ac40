"""The virtual world: a clock, a network that loses, doubles, delays and splits, crashes at any boundary."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fedjob.common.types import Address
from fedjob.messaging import courier


class Violation(AssertionError):
    """The simulated federation broke one of its promises."""


class Crash(Exception):
    """Power is cut at a boundary: what is volatile is gone, what was committed stays."""


class Packet(NamedTuple):
    """A message without its signature and its encoding, which the simulator takes as given."""

    id: str
    sender: str
    to: Address
    kind: str
    body: Any
    reply_to: Address
    expires: float

    @property
    def reliable(self) -> bool:
        return self.kind in ("task", "end", "reply")


@dataclass(frozen=True)
class Config:
    """How hard the world is; drawn from a seed by `draw`."""

    num_nodes: int = 3
    num_rounds: int = 3
    num_steps: int = 1
    fraction: float = 1.0
    slots: int = 1
    loss: float = 0.0
    double: float = 0.0
    delay_s: float = 0.01
    crash: float = 0.0
    worker_death: float = 0.0
    disk_full: float = 0.0
    num_cuts: int = 0
    trouble_s: float = 20.0
    strict: bool = True
    """All nodes must answer, and the end equals the undisturbed run; else a quorum, deadlines, leases."""
    buffered: int = 0
    """So many answers complete a step, and nodes that are still at work go on; 0 waits for all."""

    @classmethod
    def draw(cls, seed: int) -> Config:
        rng = random.Random(f"config/{seed}")
        return cls(
            num_nodes=rng.randint(1, 4),
            num_rounds=rng.randint(1, 4),
            num_steps=rng.choice([1, 1, 2]),
            fraction=rng.choice([1.0, 1.0, 0.6]),
            slots=rng.choice([1, 2]),
            loss=rng.choice([0.0, 0.1, 0.4]),
            double=rng.choice([0.0, 0.1, 0.4]),
            delay_s=rng.choice([0.01, 0.1, 1.0]),
            crash=rng.choice([0.0, 0.01, 0.05]),
            worker_death=rng.choice([0.0, 0.2]),
            disk_full=rng.choice([0.0, 0.0, 0.2]),
            num_cuts=rng.choice([0, 1, 3]),
            strict=rng.random() < 0.75,
            buffered=rng.choice([0, 0, 0, 1, 2]),
        )


@dataclass
class World:
    """One schedule: everything random in it comes from the seed.

    Args:
        bugs: names of faults built into the parties, to show that the simulator finds them.
        crash_at: crash exactly at the boundary of this number, and nowhere else.
    """

    seed: int
    config: Config
    bugs: frozenset[str] = frozenset()
    crash_at: int | None = None
    now: float = 0.0
    boundaries: int = 0
    parties: dict[str, Party] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"world/{self.seed}")
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._cut: set[str] = set()

    @property
    def troubled(self) -> bool:
        return self.now < self.config.trouble_s

    def at(self, delay_s: float, act: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, act, args))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        while not until():
            if not self._heap:
                raise Violation(f"stuck at {self.now:.1f} s: nothing is awaited")
            self.now, _, act, args = heapq.heappop(self._heap)
            if self.now > limit_s:
                raise Violation(f"stuck: not at its end after {limit_s:.0f} s")
            act(*args)

    def schedule_cuts(self) -> None:
        for _ in range(self.config.num_cuts):
            party = self.rng.choice(sorted(self.parties))
            start = self.rng.uniform(0, self.config.trouble_s * 0.7)
            end = min(self.config.trouble_s, start + self.rng.uniform(0.5, 10.0))
            noticed = self.rng.random() < 0.5
            self.at(start, self._split, party, True, noticed)
            self.at(end, self._split, party, False, noticed)

    def _split(self, party: str, cut: bool, noticed: bool) -> None:
        (self._cut.add if cut else self._cut.discard)(party)
        if noticed:
            self.parties[party].connection(not cut)

    def send(self, packet: Packet) -> None:
        copies, rng, config = 1, self.rng, self.config
        if self.troubled:
            if packet.sender in self._cut or rng.random() < config.loss:
                return
            copies += rng.random() < config.double
        for _ in range(copies):
            delay = rng.expovariate(1 / config.delay_s) if self.troubled else 0.01
            self.at(delay, self._arrive, packet)

    def _arrive(self, packet: Packet) -> None:
        if packet.to.party not in self._cut:
            self.parties[packet.to.party].packet(packet)

    def boundary(self) -> None:
        """A place where the power may be cut."""
        self.boundaries += 1
        if self.crash_at is not None:
            if self.boundaries == self.crash_at:
                raise Crash
        elif self.config.crash and self.troubled and self.rng.random() < self.config.crash:
            raise Crash


class Party:
    """A process with a courier: its edge, as thin as it can be, where `Endpoint` is the real one."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.outbox: dict[str, Packet] = {}  # durable
        self.seen: set[str] = set()  # durable
        self.life = 0
        self.up = False
        world.parties[name] = self

    @property
    def address(self) -> Address:
        raise NotImplementedError

    # --- life ---------------------------------------------------------------------------

    def boot(self) -> None:
        """Start, with what is durable and nothing else."""
        self.up = True
        self.life += 1
        self.courier = courier.CourierState(seed=self.world.seed)
        self.posted: dict[str, Packet] = {}
        self.in_hand: dict[str, Packet] = {}
        self._inbox: list[Packet] = []
        self._due: float | None = None
        self.guarded(self.life, self.start)

    def start(self) -> None:
        raise NotImplementedError

    def guarded(self, life: int, act: Callable[..., None], *args: Any) -> None:
        """Act unless dead since; die if the power is cut meanwhile."""
        if not self.up or life != self.life:
            return
        try:
            act(*args)
            self._schedule_tick()
        except Crash:
            self.up = False
            self.world.at(self.world.rng.uniform(0.1, 5.0), self.boot)

    def later(self, delay_s: float, act: Callable[..., None], *args: Any) -> None:
        """Act in a while, in this life only."""
        self.world.at(delay_s, self.guarded, self.life, act, *args)

    # --- the edge -----------------------------------------------------------------------

    def packet(self, packet: Packet) -> None:
        if not self.up or packet.to != self.address:
            return
        self._inbox.append(packet)
        if len(self._inbox) == 1:
            self.later(0.001, self._turn)

    def connection(self, up: bool) -> None:
        if self.up:
            self.guarded(self.life, lambda: self.obey(courier.ConnectionChange(self.world.now, up)))

    def make(self, to: Address, kind: str, body: Any, *, id_: str = "", ttl_s: float = 3600.0) -> Packet:
        id_ = id_ or f"{self.world.rng.getrandbits(64):016x}"
        return Packet(id_, self.name, to, kind, body, self.address, self.world.now + ttl_s)

    def post(self, packet: Packet) -> None:
        self.posted[packet.id] = packet
        self.obey(
            courier.Post(
                self.world.now, courier.Letter(packet.id, packet.to, packet.expires, packet.reliable)
            )
        )

    def obey(self, event: courier.Event) -> None:
        """Step the courier and do what it commands."""
        self.courier, commands = courier.step(self.courier, event)
        for command in commands:
            match command:
                case courier.Transmit(id_):
                    self.world.boundary()
                    self.world.send(self.posted[id_])
                case courier.Deliver(key):
                    self.delivered(self.in_hand[key])
                case courier.Repeated():
                    pass
                case courier.SendReceipt(to, id_):
                    self.world.boundary()
                    self.world.send(self.make(to, "receipt", (id_,)))
                case courier.Delivered(id_):
                    self.receipted(self.posted[id_])
                case courier.GiveUp(id_):
                    self.given_up(self.posted[id_])

    def settle(self, packets: list[Packet]) -> None:
        if packets:
            self.obey(courier.Settled(tuple(f"{p.sender}/{p.id}" for p in packets)))

    def _turn(self) -> None:
        inbox, self._inbox = self._inbox, []
        for packet in inbox:
            if packet.kind == "receipt":
                self.obey(courier.Receipted(packet.sender, packet.body))
                continue
            key = f"{packet.sender}/{packet.id}"
            self.in_hand[key] = packet
            self.obey(
                courier.Arrived(
                    self.world.now,
                    key,
                    packet.id,
                    packet.reply_to,
                    packet.expires,
                    packet.reliable,
                    key in self.seen,
                )
            )
        self.turn()

    def _schedule_tick(self) -> None:
        due = courier.next_wake(self.courier)
        if due is not None and (self._due is None or due < self._due or self._due <= self.world.now):
            self._due = due
            self.later(max(0.0, due - self.world.now), self._tick)

    def _tick(self) -> None:
        self._due = None
        self.obey(courier.Tick(self.world.now))
        self.turn()

    # --- what a party is ----------------------------------------------------------------

    def delivered(self, packet: Packet) -> None:
        raise NotImplementedError

    def receipted(self, packet: Packet) -> None:
        raise NotImplementedError

    def given_up(self, packet: Packet) -> None:
        raise NotImplementedError

    def turn(self) -> None:
        """Everything that is there has been handed over: act on it."""
        raise NotImplementedError
