"""A simulated researcher: real courier, real round-keeping, a breakpoint after every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedjob.common.codec import pack, unpack
from fedjob.common.quorum import Quorum
from fedjob.common.types import Address
from fedjob.messaging import courier
from fedjob.researcher.federation import collection_machine as keeping
from tests.simulator.toy import aggregator, select
from tests.simulator.world import Packet, Party, Violation, World


@dataclass(frozen=True)
class Counted:
    """What a step of a round counted: in the record, so that it can be folded again.

    Args:
        asked: node -> round and step that its value was asked in, where that was before.
    """

    round: int
    step: int
    values: Mapping[str, int]
    asked: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, str]
    params: int


@dataclass(frozen=True)
class UnderWay:
    """What a node is still at work on, as it was sent."""

    round: int
    step: int
    key: str
    order: bytes


@dataclass(frozen=True)
class Breakpoint:
    """Written atomically after every round."""

    round: int
    params: int
    states: Mapping[str, str] = field(default_factory=dict)
    record: tuple[Counted, ...] = ()
    under_way: Mapping[str, UnderWay] = field(default_factory=dict)
    failed: bool = False


class Researcher(Party):
    """What a runner does, in memory that is either durable or gone."""

    def __init__(self, world: World, nodes: list[str]) -> None:
        super().__init__(world, "researcher")
        self.nodes = nodes
        self.breakpoint = Breakpoint(0, world.seed % (2**31 - 1))  # durable from here
        self.epoch = 0
        self.finished = False
        self.spool: dict[str, bytes] = {}

    @property
    def address(self) -> Address:
        return Address(self.name, f"s{self.epoch}")

    def start(self) -> None:
        if self.finished:
            return
        self.epoch += 1
        self.world.boundary()
        self.ask: keeping.RoundState | None = None
        self._tasks: dict[str, str] = {}
        self._ends: set[str] = set()
        self._packets: list[Packet] = []
        self._tick_life = 0
        self._work = self.breakpoint
        self._go_on(0)

    def _go_on(self, step: int) -> None:
        done = self.breakpoint
        if done.failed or done.round == self.world.config.num_rounds:
            self._end()
        else:
            self._begin(done.round + 1, step)

    def _begin(self, round_: int, step: int) -> None:
        config, work = self.world.config, self._work
        idle = [node for node in select(self.world.seed, round_, self.nodes, config.fraction)
                if node not in work.under_way]  # fmt: skip
        asked = {
            node: UnderWay(
                round_,
                step,
                f"{round_}/{step}/{node}/{work.params}/{work.states.get(node, '')}"[-200:],
                pack([work.params, work.states.get(node, "")]),
            )
            for node in idle
        }
        self._asked = asked = dict(sorted({**asked, **work.under_way}.items()))
        keys = {node: one.key for node, one in asked.items()}
        enough = min(config.buffered, len(asked)) or None
        if config.strict:
            quorum, lease_s = Quorum(min_nodes=enough or len(asked)), None
        else:
            quorum, lease_s = Quorum(min_nodes=1, deadline_s=3.0), 4.0
        self.ask = keeping.begin(self.world.now, keys, quorum, enough=enough, lease_s=lease_s)
        self._round, self._step = round_, step
        self._values: dict[str, int] = {}
        self._new_states: dict[str, str] = {}
        self._arrivals: dict[str, set[str]] = {"settled": set(), "counted": set(), "listed": set()}
        for node, one in asked.items():
            body = {
                "key": one.key, "job": "job", "dataset": "d", "round": one.round, "step": str(one.step),
                "epoch": self.epoch, "attempt": 1, "order": one.order,
            }  # fmt: skip
            packet = self.make(Address(node), "task", body, ttl_s=3600.0 if config.strict else 6.0)
            self._tasks[packet.id] = node
            self.world.boundary()
            self.post(packet)
        self._schedule_ask()

    def delivered(self, packet: Packet) -> None:
        self._packets.append(packet)

    def receipted(self, packet: Packet) -> None:
        if packet.kind == "end":
            self._ends.discard(packet.id)
            if not self._ends:
                self.finished = True
        elif self.ask is not None and packet.id in self._tasks:
            self._feed(keeping.SignOfLife(self.world.now, self._tasks[packet.id]))

    def given_up(self, packet: Packet) -> None:
        if packet.kind == "end":
            self.receipted(packet)  # that node is told by time
        elif self.ask is not None and packet.id in self._tasks:
            self._feed(keeping.NodeFailed(self.world.now, self._tasks[packet.id], "undelivered"))

    def turn(self) -> None:
        packets, self._packets = self._packets, []
        for packet in packets:
            if self.ask is None:
                continue
            if packet.kind == "event":
                self._feed(keeping.SignOfLife(self.world.now, packet.sender))
                continue
            key, ok, reason, result = packet.body
            if "count_anything" in self.world.bugs and ok and packet.sender in self.ask.keys:
                key = self.ask.keys[packet.sender]
            for command in self._feed(
                keeping.ReplyArrived(self.world.now, packet.sender, key, packet.id, ok, reason)
            ):
                self.world.boundary()
                if isinstance(command, keeping.Note):
                    self._arrivals["listed"].add(packet.id)
                else:
                    value, state = unpack(result)
                    self.spool[key] = result
                    self.world.boundary()
                    self._values[packet.sender], self._new_states[packet.sender] = value, state
                    self._arrivals["counted"].add(packet.id)
                    self._feed(keeping.ContributionKept(self.world.now, packet.sender))
            if not ok and packet.id not in self._arrivals["listed"]:
                if packet.sender not in self.ask.left_out:
                    raise Violation(f"a failed reply of {packet.sender} was dropped in silence")
                self._arrivals["listed"].add(packet.id)
        if self.ask is not None:
            self._feed(keeping.CollectionTick(self.world.now))
        self._settle(packets)
        self._conclude()

    def _settle(self, packets: list[Packet]) -> None:
        replies = [p for p in packets if p.kind == "reply"]
        if not replies:
            return
        if self.ask is not None:
            silent = {p.id for p in replies} - self._arrivals["counted"] - self._arrivals["listed"]
            if silent:
                raise Violation(f"replies {sorted(silent)} were accepted and then dropped in silence")
        self.world.boundary()
        self.settle(replies)

    def _feed(self, event: keeping.Event) -> list[keeping.Command]:
        assert self.ask is not None
        self.ask, commands = keeping.step(self.ask, event)
        return commands

    def _conclude(self) -> None:
        if self.ask is None:
            return
        outcome = keeping.outcome(self.ask)
        match outcome:
            case keeping.Open():
                self._schedule_ask()
                return
            case keeping.Impossible():
                if self.world.config.strict:
                    raise Violation(f"the quorum was lost without a reason to: {outcome.left_out}")
                self._close()
                self._commit(replace(self.breakpoint, failed=True))
            case keeping.AskFinished(included, left_out):
                if set(included) | set(left_out) != set(self.ask.keys) or set(included) & set(left_out):
                    raise Violation(f"some node is neither included nor left out: {outcome}")
                if set(included) != set(self._values):
                    raise Violation(f"collected {sorted(self._values)}, included {included}")
                order = list(self._values) if "arrival_order" in self.world.bugs else sorted(included)
                values = {node: self._values[node] for node in order}
                work = self._work
                asked = {n: (self._asked[n].round, self._asked[n].step) for n in values}
                counted = Counted(self._round, self._step, values, asked, left_out, aggregator(values))
                states = {**work.states, **{node: self._new_states[node] for node in included}}
                busy = {n: self._asked[n] for n in self.ask.pending if self.world.config.buffered}
                self._work = Breakpoint(self._round, counted.params, states, (*work.record, counted), busy)
                self._close()
                if self._step + 1 < self.world.config.num_steps:
                    self._begin(self._round, self._step + 1)
                else:
                    self._commit(self._work)

    def _close(self) -> None:
        self.obey(courier.Withdraw(tuple(self._tasks)))
        self._tasks.clear()
        self.ask = None

    def _commit(self, done: Breakpoint) -> None:
        self.world.boundary()
        self.breakpoint = done
        self.world.boundary()
        self._go_on(0)

    def _end(self) -> None:
        packets = [self.make(Address(node), "end", self.epoch, ttl_s=3600.0) for node in self.nodes]
        self._ends = {packet.id for packet in packets}
        for packet in packets:
            self.world.boundary()
            self.post(packet)

    def _schedule_ask(self) -> None:
        if self.ask is not None and (due := keeping.next_wake(self.ask)) is not None:
            self._tick_life += 1
            self.later(max(0.0, due - self.world.now), self._ask_tick, self._tick_life)

    def _ask_tick(self, life: int) -> None:
        if life == self._tick_life:
            self.turn()
