"""Run one schedule and hold it against the promises."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulator.node import Node
from tests.simulator.researcher import Researcher
from tests.simulator.toy import PRIME, aggregator, contribute, undisturbed
from tests.simulator.world import Config, Violation, World

LIMIT_S = 5000.0


@dataclass(frozen=True)
class Report:
    """How a schedule went."""

    params: int
    rounds: int
    failed: bool
    epochs: int
    boundaries: int
    seconds: float


def run_schedule(
    seed: int,
    config: Config | None = None,
    *,
    bugs: frozenset[str] = frozenset(),
    crash_at: int | None = None,
) -> Report:
    """Run the job of `seed` to its end.

    Raises:
        Violation: a promise was broken; the schedule is `python -m tests.simulator --only SEED`.
    """
    config = config or Config.draw(seed)
    world = World(seed, config, bugs, crash_at)
    names = [f"n{number}" for number in range(config.num_nodes)]
    nodes = [Node(world, name) for name in names]
    researcher = Researcher(world, names)
    world.schedule_cuts()
    for party in (*nodes, researcher):
        party.boot()
    world.run(lambda: researcher.finished, LIMIT_S)
    end = world.now
    settled_s = 1.0 + (config.trouble_s if config.buffered else 0.0)  # whoever was still at work has to stop
    world.at(settled_s, lambda: None)
    world.run(lambda: all(node.up for node in nodes) and world.now >= end + settled_s, LIMIT_S + 100)
    _judge(world, researcher, nodes)
    done = researcher.breakpoint
    return Report(done.params, done.round, done.failed, researcher.epoch, world.boundaries, end)


def _judge(world: World, researcher: Researcher, nodes: list[Node]) -> None:
    config, done = world.config, researcher.breakpoint
    steps = [(counted.round, counted.step) for counted in done.record]
    expected = [(r, s) for r in range(1, done.round + 1) for s in range(config.num_steps)]
    if steps != expected:
        raise Violation(f"the record has steps {steps}, not {expected}")
    _replay(world, researcher)
    if not done.failed and done.round != config.num_rounds:
        raise Violation(f"the job ended at round {done.round}")
    if config.strict and not config.buffered:
        golden = undisturbed(world.seed, config, researcher.nodes)
        if done.params != golden:
            raise Violation(f"ended at {done.params}, the undisturbed run at {golden}")
    if config.strict:
        for node in nodes:  # every `end` arrived, so nothing of the job is left anywhere
            if node.tasks or node.spool or node.workers:
                raise Violation(f"{node.name} kept {sorted(node.tasks)} {sorted(node.spool)} after the end")


def _replay(world: World, researcher: Researcher) -> None:
    """Do again what the record says was included: it must lead to what the record says came out."""
    params, momenta = world.seed % PRIME, dict.fromkeys(researcher.nodes, 0)
    sent: dict[tuple[int, int], int] = {}
    answered = dict.fromkeys(researcher.nodes, (0, 0))
    for counted in researcher.breakpoint.record:
        now = (counted.round, counted.step)
        sent[now] = params
        values: dict[str, int] = {}
        for node in sorted(counted.values):
            asked = counted.asked[node]
            if not answered[node] < asked <= now:
                raise Violation(f"{node} counted in {now} with what it was asked in {asked}")
            values[node], momenta[node] = contribute(sent[asked], momenta[node], node)
            answered[node] = now
        if values != counted.values:
            raise Violation(f"round {counted.round}.{counted.step} counted {counted.values}, not {values}")
        params = aggregator(values)
        if params != counted.params:
            raise Violation(f"round {counted.round}.{counted.step} does not fold to what it recorded")
    if params != researcher.breakpoint.params:
        raise Violation("the record does not lead to the parameters at the end")
