"""A protocol small enough to run a hundred thousand times: integers, momentum, selection by seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tests.simulator.world import Config

PRIME = 2**31 - 1


def select(seed: int, round_: int, nodes: Sequence[str], fraction: float) -> list[str]:
    """Return the nodes of a round: a function of seed and round."""
    count = max(1, round(len(nodes) * fraction))
    return sorted(random.Random(f"select/{seed}/{round_}").sample(list(nodes), count))


def contribute(params: int, momentum: int, node: str) -> tuple[int, int]:
    """Return a node's value and its new momentum."""
    momentum = (momentum * 31 + params + sum(node.encode())) % PRIME
    return (params * 7 + momentum * 5) % PRIME, momentum


def aggregator(values: Mapping[str, int]) -> int:
    """Fold in the order given, which matters here as it does for floats."""
    total = 17
    for node, value in values.items():
        total = (total * 1_000_003 + value + len(node)) % PRIME
    return total


def undisturbed(seed: int, config: Config, nodes: Sequence[str]) -> int:
    """Return where a run ends in which nothing goes wrong."""
    params, momenta = seed % PRIME, dict.fromkeys(nodes, 0)
    for round_ in range(1, config.num_rounds + 1):
        chosen = select(seed, round_, nodes, config.fraction)
        for _ in range(config.num_steps):
            values: dict[str, int] = {}
            for node in chosen:
                values[node], momenta[node] = contribute(params, momenta[node], node)
            params = aggregator(values)
    return params
