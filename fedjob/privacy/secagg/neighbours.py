"""The graph of a secure sum of many nodes: each masks for, and shares its secrets with, a few neighbours only.

Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
https://eprint.iacr.org/2020/704, section 4. Up to `LARGEST_COMPLETE` nodes everybody is a neighbour of everybody, as in
Bonawitz et al. 2017; beyond, the graph is a ring of N places in which every place is joined to those at d/2 fixed
distances before and after it, and the nodes are on its places in a random order. Nobody chooses that order: it is drawn from
numbers that all nodes have committed to with their signed keys, and that each of them shows only when it has the keys of
all. Who shows nothing ends the attempt, and a node takes part in `MAX_ATTEMPTS` of them.

Of N nodes at most `colluding` N work together with the researcher, who may say of any other nodes that they are lost, when it
knows the graph. Theorem 3.10 of the paper bounds both ways in which a graph fails for losses that are chosen before it is
drawn. Losses that are chosen afterwards need more, which every node checks of the sum that it agrees to:

    1  no node has more than a neighbours that collude, but with a probability of N P[X > a], X hypergeometric (N - 1
       nodes, `colluding` N of them, d drawn); this is below 2^-SECURITY_BITS / MAX_ATTEMPTS.
    2  t > a shares of d + 1 give a secret back, so that those who collude have too few.
    3  each node of a sum has t neighbours in it, t - a of them honest. Let A and B be the honest nodes of a sum, divided so that
       no masks in common join them, of x N and y N nodes. Let s be the largest size of the graph's eigenvalues but d itself.
       Then (t - a) <= d x + s (1 - x), so x, and y as well, is at least (t - a - s) / (d - s); and the expander mixing
       lemma, 0 >= d x y - s sqrt(x (1 - x) y (1 - y)), is broken for all such x and y. So there are no such A and B, and
       only the sum of all honest nodes can be known (lemma 3.3 of the paper).

The degree d is the least for which all this holds while t neighbours are left with a probability of 1 - 2^-LOSS_BITS
where `dropouts` N nodes are lost at random. Where more are, an attempt fails, and those that are left make another one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from fedjob.common.codec import pack
from fedjob.common.errors import SpecError

T = TypeVar("T")

LARGEST_COMPLETE = 20
"""Up to so many nodes, all of them are neighbours."""

SECURITY_BITS = 40
LOSS_BITS = 20

COLLUDING, DROPOUTS = 0.2, 0.1
"""What is assumed where a job says nothing else."""

MAX_ATTEMPTS = 32
"""At one sum: each of them is another draw of the graph."""

_CANDIDATES = 32
"""Sets of distances that are tried, for the smallest eigenvalue."""


@dataclass(frozen=True, slots=True)
class GraphSize:
    """The size of a graph.

    Args:
        degree: neighbours of a node.
        threshold: so many shares give a secret back, and so many neighbours of each node are in a sum.
        distances: around the ring, of the neighbours on one side.
    """

    degree: int
    threshold: int
    distances: tuple[int, ...]


@lru_cache(maxsize=256)
def size_of_graph(num_nodes: int, colluding: float, dropouts: float) -> GraphSize | None:
    """Return the least graph that holds; None where all nodes have to be neighbours.

    Args:
        num_nodes: that take part.
        colluding: at most this part of them works together with the researcher, 0 to 1.
        dropouts: this part of them may be lost while a sum goes on, 0 to 1.
    """
    if num_nodes <= LARGEST_COMPLETE:
        return None
    colluders, lost = math.floor(colluding * num_nodes), math.floor(dropouts * num_nodes)
    for degree in range(4, num_nodes - 1, 2):
        hostile = _most(num_nodes, colluders, degree, SECURITY_BITS + MAX_ATTEMPTS.bit_length())
        threshold = degree - _most(num_nodes, lost, degree, LOSS_BITS)
        if threshold - hostile <= math.sqrt(degree * (1 - degree / (num_nodes - 1))):
            continue  # less than any such graph's eigenvalue
        distances, eigenvalue = _ring(num_nodes, degree)
        if _is_joined(num_nodes, colluders, degree, threshold - hostile, eigenvalue):
            return GraphSize(degree, threshold, distances)
    return None


def _most(num_nodes: int, marked: int, degree: int, bits: int) -> int:
    """Return the number of marked neighbours that no node exceeds, but with a probability of 2^-bits."""
    others = num_nodes - 1
    marked = min(marked, others)
    ways, above = math.comb(others, degree), 0
    for number in range(min(marked, degree), -1, -1):
        above += math.comb(marked, number) * math.comb(others - marked, degree - number)
        if num_nodes * above << bits > ways:
            return number
    return 0


def _is_joined(num_nodes: int, colluders: int, degree: int, honest: int, eigenvalue: float) -> bool:
    """Tell whether the honest nodes of every sum are one part, see the module."""
    if honest <= eigenvalue:
        return False
    x = (honest - eigenvalue) / (degree - eigenvalue)
    y = max(x, 0.5 - colluders / num_nodes - x)  # a sum is of more than half of the nodes
    if x >= 1 or y >= 1:
        return True
    return math.sqrt(x * y / ((1 - x) * (1 - y))) > eigenvalue / degree


@lru_cache(maxsize=256)
def _ring(num_nodes: int, degree: int) -> tuple[tuple[int, ...], float]:
    """Return the distances of a ring, the best of a few sets, and the largest size of its eigenvalues but the degree.

    All nodes find the same one: eigenvalues count to a millionth, upwards.
    """
    import numpy as np

    rings = []
    for candidate in range(_CANDIDATES):
        drawn = _shuffled(
            list(range(1, (num_nodes + 1) // 2)), pack(["fedjob ring 1", num_nodes, degree, candidate])
        )
        rings.append(tuple(sorted(drawn[: degree // 2])))
    joined = np.zeros((len(rings), num_nodes))
    for row, distances in zip(joined, rings, strict=True):
        for distance in distances:
            row[[distance, num_nodes - distance]] = 1
    sizes = np.abs(np.fft.rfft(joined, axis=1))[:, 1:].max(axis=1)
    best = min((math.ceil(size * 1e6), number) for number, size in enumerate(sizes.tolist()))
    return rings[best[1]], best[0] / 1e6


def _shuffled(items: list[T], about: bytes) -> list[T]:
    """Return items in the order that a text draws: Fisher and Yates, with numbers below 2^64 from SHA-256."""
    found = list(items)
    numbers = _numbers(about)
    for place in range(len(found) - 1, 0, -1):
        limit = (1 << 64) // (place + 1) * (place + 1)  # numbers from there on would prefer some orders
        number = next(one for one in numbers if one < limit)
        other = number % (place + 1)
        found[place], found[other] = found[other], found[place]
    return found


def _numbers(about: bytes) -> Iterator[int]:
    seed, count = hashlib.sha256(about).digest(), 0
    while True:
        block = hashlib.sha256(seed + count.to_bytes(8, "big")).digest()
        yield from (int.from_bytes(block[at : at + 8], "big") for at in range(0, 32, 8))
        count += 1


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who is whose neighbour in one secure sum.

    Args:
        members: everybody who takes part, in the order of their names.
        threshold: so many shares give a secret back.
        quorum: so many members agree to a sum.
        ring: the members on their places; empty where all are neighbours.
        distances: see `GraphSize`.
        drawn: what the order on the ring, or the group, came of.
    """

    members: tuple[str, ...]
    threshold: int
    quorum: int
    ring: tuple[str, ...] = ()
    distances: tuple[int, ...] = ()
    drawn: bytes = b""
    _place: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._place.update({node: place for place, node in enumerate(self.ring)})

    @property
    def digest(self) -> bytes:
        """The sha256 that stands for the list, and for who is whose neighbour."""
        about = [list(self.members), self.drawn] if self.drawn else list(self.members)
        return hashlib.sha256(pack(about)).digest()

    def of(self, node: str) -> list[str]:
        """Return a node's neighbours, in the order of their names."""
        if not self.ring:
            return [other for other in self.members if other != node]
        place, number = self._place[node], len(self.ring)
        return sorted(self.ring[(place + step) % number] for one in self.distances for step in (one, -one))

    def holders(self, node: str) -> list[str]:
        """Return who holds shares of a node's secrets: its neighbours and itself."""
        return sorted([*self.of(node), node])

    def place_of(self, node: str) -> int:
        """Return the place at which a node's shares of all secrets are, from 1."""
        return self.members.index(node) + 1

    def core(self, names: Collection[str]) -> list[str]:
        """Return those of a list who have enough neighbours among them, in the order of their names.

        A sum of others could fall apart into smaller ones.
        """
        left = set(names)
        if not self.ring:
            return sorted(left)
        while few := {node for node in left if len(left.intersection(self.of(node))) < self.threshold}:
            left -= few
        return sorted(left)


def all_neighbours(members: Collection[str], threshold: int) -> Neighbours:
    """Return the graph in which everybody is a neighbour of everybody."""
    return Neighbours(tuple(sorted(members)), threshold, threshold)


def drawn_groups(
    num_groups: int, quorum_of: Callable[[int], int], about: bytes, lots: Mapping[str, bytes]
) -> list[Neighbours]:
    """Return groups whose sizes differ by one at most; in each everybody is a neighbour of everybody.

    Args:
        quorum_of: returns how many of so many nodes agree to a sum.
        about, lots: see `drawn_neighbours`.
    """
    drawn = pack(["fedjob secure sum: groups 1", about, num_groups, sorted(lots.items())])
    order, digest = _shuffled(sorted(lots), drawn), hashlib.sha256(drawn).digest()
    groups = (tuple(sorted(order[place::num_groups])) for place in range(num_groups))
    return [Neighbours(group, quorum_of(len(group)), quorum_of(len(group)), drawn=digest) for group in groups]


def drawn_neighbours(size: GraphSize, quorum: int, about: bytes, lots: Mapping[str, bytes]) -> Neighbours:
    """Return the graph that the numbers of all nodes draw.

    Args:
        quorum: so many nodes agree to a sum.
        about: sha256 of the terms and of everybody's signed keys.
        lots: node -> its number, which its keys commit it to.

    Raises:
        SpecError: there are other numbers of nodes than the graph is for.
    """
    members = tuple(sorted(lots))
    if len(members) <= 2 * max(size.distances):
        raise SpecError(f"a graph for more nodes than {len(members)}")
    drawn = pack(["fedjob secure sum: places 1", about, [[node, lots[node]] for node in members]])
    ring = tuple(_shuffled(list(members), drawn))
    return Neighbours(members, size.threshold, quorum, ring, size.distances, hashlib.sha256(drawn).digest())
