"""Few neighbours in sums of many nodes: the sizes hold, nobody chooses the graph, and no lie tells one node apart."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import hypergeom

from fedjob.common.errors import FedjobError, SpecError
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.key_agreement import plain_keys
from fedjob.privacy.secagg.neighbours import (
    LARGEST_COMPLETE,
    MAX_ATTEMPTS,
    GraphSize,
    drawn_neighbours,
    size_of_graph,
)
from fedjob.privacy.secagg.sum_recovery import few_holders
from tests.secure_sums import (
    MANY,
    OUTLINE,
    Transcript,
    nodes,
    num_recovered,
    plain_sum,
    random_pattern,
    terms_for,
)

SIZES = [(n, c, d) for n in (21, 30, 50, 100, 300) for c in (0.1, 0.2, 1 / 3) for d in (0.05, 0.1, 0.2)]


def drawn(num_nodes: int, size: GraphSize, seed: int = 0):
    rng = np.random.default_rng(seed)
    return drawn_neighbours(size, 16, b"about", {f"n{k}": rng.bytes(32) for k in range(num_nodes)})


@pytest.mark.parametrize(("num_nodes", "colluding", "dropouts"), SIZES)
def test_a_graph_holds_by_the_figures_of_another_library(
    num_nodes: int, colluding: float, dropouts: float
) -> None:
    """Tails by scipy, eigenvalues of the whole matrix by LAPACK."""
    size = size_of_graph(num_nodes, colluding, dropouts)
    if size is None:
        assert num_nodes < 100
        return
    colluders, lost = math.floor(colluding * num_nodes), math.floor(dropouts * num_nodes)
    law = hypergeom(num_nodes - 1, colluders, size.degree)
    hostile = next(a for a in range(size.degree + 1) if num_nodes * law.sf(a) * MAX_ATTEMPTS < 2**-40)
    assert hostile < size.threshold  # who collude have too few shares
    too_many = hypergeom(num_nodes - 1, lost, size.degree).sf(size.degree - size.threshold)
    assert num_nodes * too_many < 2**-20
    graph = drawn(num_nodes, size)
    rows = [set(graph.of(node)) for node in graph.members]
    matrix = np.array([[other in row for other in graph.members] for row in rows], float)
    assert (matrix == matrix.T).all()
    assert (matrix.sum(axis=0) == size.degree).all()
    assert not matrix.diagonal().any()
    second = np.sort(np.abs(np.linalg.eigvalsh(matrix)))[-2]
    honest = size.threshold - hostile
    assert honest > second
    x = (honest - second) / (size.degree - second)
    y = max(x, 0.5 - colluders / num_nodes - x)
    assert y >= 1 or size.degree * x * y > second * math.sqrt(x * (1 - x) * y * (1 - y))


def test_degrees_grow_slowly_and_few_nodes_are_all_neighbours() -> None:
    degrees = {n: size.degree for n in (21, 50, 100, 300) if (size := size_of_graph(n, 0.1, 0.1))}
    assert degrees == {21: 10, 50: 20, 100: 36, 300: 72}
    assert size_of_graph(LARGEST_COMPLETE, 0.1, 0.1) is None


def test_every_lot_changes_who_is_whose_neighbour() -> None:
    size = size_of_graph(30, 0.1, 0.1)
    assert size is not None
    lots = {f"n{k}": bytes([k]) * 32 for k in range(30)}
    first = drawn_neighbours(size, 16, b"about", lots)
    assert first == drawn_neighbours(size, 16, b"about", dict(reversed(lots.items())))
    others = [
        drawn_neighbours(size, 16, b"about", {**lots, node: secrets.token_bytes(32)})
        for node in ("n0", "n29")
    ]
    others.append(drawn_neighbours(size, 16, b"other keys", lots))
    assert len({graph.ring for graph in (first, *others)}) == 4
    assert len({graph.digest for graph in (first, *others)}) == 4


def test_neighbours_are_spread_evenly_over_the_nodes() -> None:
    """Of 400 draws each pair is together in a part of degree / (N - 1), within five standard deviations."""
    size = size_of_graph(24, 0.1, 0.1)
    assert size is not None
    times = np.zeros((24, 24))
    for seed in range(400):
        graph = drawn(24, size, seed)
        for one in range(24):
            for other in graph.of(f"n{one}"):
                times[one, int(other[1:])] += 1
    part = size.degree / 23
    deviation = math.sqrt(400 * part * (1 - part))
    assert (np.abs(times[~np.eye(24, dtype=bool)] - 400 * part) < 5 * deviation).all()


@pytest.mark.parametrize("seed", [0, 4, 5, 8])
def test_any_pattern_of_dropouts_of_many_nodes_gives_the_exact_sum_or_nothing(seed: int) -> None:
    assert random_pattern(seed, MANY, 0.05) in ("sum", "nothing")


# --- a researcher who does not follow the protocol ---------------------------------------------------


def with_keys(num_nodes: int = 22, **terms):
    about = {"threshold": num_nodes // 2 + 1, "colluding": 0.1, **terms}
    found = nodes(num_nodes)
    told = Transcript(terms_for(num_nodes, **about), settings=SecAgg(threshold=2, colluding=0.1))
    for node in found.values():
        told.ask_keys(node)
    return found, told


def with_shares():
    found, told = with_keys()
    for step in (told.ask_lot, told.ask_shares):
        for node in found.values():
            step(node)
    return found, told


def test_claims_that_all_neighbours_of_one_node_are_lost_are_refused_by_everybody() -> None:
    found, told = with_shares()
    for node in found.values():
        told.ask_vector(node)
    alone = sorted(set(found) - set(told.graph.of("n0")))
    assert len(alone) >= told.terms.threshold  # so that the number by itself would be enough
    for name in alone:
        with pytest.raises(SpecError, match="have fewer than 8 neighbours among those that sent a masked"):
            told.ask_signature(found[name], alone)
    assert not told.signatures
    # nor with one neighbour less than enough
    fewer = sorted(set(found) - set(told.graph.of("n0")[: len(told.graph.of("n0")) - 7]))
    for name in fewer:
        with pytest.raises(SpecError, match="n0"):
            told.ask_signature(found[name], fewer)
    assert num_recovered(told, found) == 0


def test_another_list_of_those_that_share_for_one_node_is_no_sum_of_it() -> None:
    """To one node two neighbours are lost before it masks; the eight that it masks with are said to be lost later."""
    found, told = with_shares()
    narrow = sorted(set(found) - set(told.graph.of("n0")[-2:]))
    told.ask_vector(found["n0"], among=narrow)
    for name, node in found.items():
        if name != "n0":
            told.ask_vector(node)
    for name, node in found.items():
        with pytest.raises(SpecError, match="has not signed that it masked for the same nodes"):
            told.ask_signature(node, sorted(found) if name != "n0" else narrow)
    assert not told.signatures
    assert num_recovered(told, found) == 0


def test_a_node_masks_with_all_of_its_neighbours_that_take_part() -> None:
    found, told = with_shares()
    neighbours = told.graph.of("n0")
    sealed = {name: told.sealed[name]["n0"] for name in neighbours}
    for some in ({name: sealed[name] for name in neighbours[1:]}, {}, {**sealed, "n0": b""}):
        with pytest.raises(SpecError, match="needs the shares of each"):
            found["n0"].ask(
                "mask", told.terms, of="w", outline=OUTLINE, taking_part=sorted(found), sealed=some
            )
    few = sorted(set(found) - set(neighbours[:3]))
    with pytest.raises(SpecError, match="fewer than 8 neighbours"):
        told.ask_vector(found["n0"], among=few)


def test_a_lot_is_shown_for_one_list_of_nodes_only_and_after_it() -> None:
    found, told = with_keys()
    with pytest.raises(FedjobError):
        found["n0"].ask("draw", told.terms, keys=[])
    told.ask_lot(found["n0"])
    other = {name: keys for name, keys in told.keys.items() if name != "n21"}
    with pytest.raises(SpecError, match="another list of nodes"):
        told.ask_lot(found["n0"], other)
    with pytest.raises(SpecError, match="on other terms"):
        Transcript(replace(told.terms, colluding=0.2)).ask_keys(found["n0"])
    again = told.lots["n0"]
    told.ask_lot(found["n0"])
    assert told.lots["n0"] == again


def test_lots_that_are_others_or_not_all_are_refused_and_nothing_is_shared() -> None:
    found, told = with_keys()
    for node in found.values():
        told.ask_lot(node)
    chosen = {**told.lots, "n5": secrets.token_bytes(32)}
    swapped = {**told.lots, "n5": told.lots["n6"], "n6": told.lots["n5"]}
    for lots in (chosen, swapped):
        with pytest.raises(SpecError, match="another one than its keys commit it to"):
            told.ask_shares(found["n0"], lots=lots)
    for lots in ({n: one for n, one in told.lots.items() if n != "n5"}, {**told.lots, "n99": b"x"}):
        with pytest.raises(SpecError, match="drawn with the lots of all 22 nodes"):
            told.ask_shares(found["n0"], lots=lots)
    with pytest.raises(
        SpecError, match="drawn with the lots of all 22 nodes, found 0"
    ):  # as if they were few
        found["n0"].ask("shares", told.terms, settings=told.settings, keys=plain_keys(told.keys))
    assert not told.sealed


def test_the_graph_is_drawn_a_limited_number_of_times() -> None:
    found = nodes(22)
    told = Transcript(terms_for(22, attempt=MAX_ATTEMPTS + 1))
    for node in found.values():
        told.ask_keys(node)
    with pytest.raises(SpecError, match="takes part in 32 attempts"):
        told.ask_lot(found["n0"])


@pytest.mark.parametrize(
    "setting", [{"colluding": 0.0}, {"colluding": 0.5}, {"dropouts": -0.1}, {"dropouts": 0.9}], ids=str
)
def test_parts_of_nodes_that_no_sum_is_safe_with_are_refused(setting: dict) -> None:
    with pytest.raises(SpecError, match=f"SecAgg.{next(iter(setting))}=.* found"):
        SecAgg(**setting)


def test_the_sum_of_many_nodes_without_those_that_were_lost_is_exact() -> None:
    found, told = with_shares()
    lost = ("n3", "n7")
    there = [node for name, node in found.items() if name not in lost]
    for step in (told.ask_vector, told.ask_signature, told.ask_shares_revealed):
        for node in there:
            step(node)
    left = sorted(set(found) - set(lost))
    assert not few_holders(told.graph, sorted(found), left, left)
    assert few_holders(told.graph, sorted(found), left, left[:5])
    assert (told.sum_of() == plain_sum(found, left)).all()
    assert not told.holds_both()
    assert num_recovered(told, found) == 0
    assert all(len(one) == 10 for one in told.sealed.values())  # neighbours, not nodes
