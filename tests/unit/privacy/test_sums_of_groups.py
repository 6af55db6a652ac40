"""Sums of groups: the draw divides the nodes, each group's sum is exact, and no lie puts a node into a group of choice."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedjob.common.codec import to_plain
from fedjob.common.errors import FedjobError, SpecError
from fedjob.privacy.protect import Protect, SecAgg
from fedjob.privacy.secagg.key_agreement import plain_keys
from fedjob.privacy.secagg.neighbours import Neighbours, drawn_groups
from fedjob.privacy.secagg.node_session import graphs_of
from fedjob.privacy.secagg.steps import SumStep, SumSteps, read_step
from fedjob.privacy.secagg.sum_recovery import masks_left
from fedjob.privacy.secagg.terms import usual_threshold
from tests.secure_sums import NOISE, Transcript, masked, nodes, plain_sum, terms_for

ABOUT = {"rule": "plain", "max_weight": 1.0, "groups": 3}


def drawn(num_nodes: int = 11, **changes: Any) -> tuple[dict, Transcript]:
    found = nodes(num_nodes)
    told = Transcript(terms_for(num_nodes, **{**ABOUT, **changes}), settings=SecAgg(groups=3))
    for step in (told.ask_keys, told.ask_lot):
        for node in found.values():
            step(node)
    return found, told


def groups_of(told: Transcript) -> list[Neighbours]:
    return graphs_of(told.terms, told.keys, told.lots)


def group_sum(told: Transcript, graph: Neighbours, names: list[str]) -> np.ndarray:
    taking_part = sorted(set(told.sealed).intersection(graph.members))
    masks = masks_left(told.terms, told.keys, told.commitments, taking_part, names, told.revealed, graph)
    return masked(np.sum([told.vectors[name] for name in names], axis=0, dtype=np.uint32), masks)


def test_each_group_has_an_exact_sum_and_one_that_is_lost_shows_nothing() -> None:
    found, told = drawn(12)
    graphs = groups_of(told)
    assert sorted(name for graph in graphs for name in graph.members) == sorted(found)
    assert {len(graph.members) for graph in graphs} == {4}
    for node in found.values():
        told.ask_shares(node)
    lost, small = graphs[0].members[:2], graphs[1].members[0]  # two of four are too many, one is not
    left = {graph: [n for n in graph.members if n not in (*lost, small)] for graph in graphs}
    for graph, names in left.items():
        for name in names:
            told.ask_vector(found[name], among=list(graph.members))
    for graph, names in left.items():
        for name in names:
            if graph is graphs[0]:
                with pytest.raises(SpecError, match="the sum would be of 2 nodes, 3 or more"):
                    told.ask_signature(found[name], names)
            else:
                told.ask_signature(found[name], names)
    for graph in graphs[1:]:
        for name in left[graph]:
            told.ask_shares_revealed(found[name])
        assert (group_sum(told, graph, left[graph]) == plain_sum(found, left[graph])).all()
        for name in left[graph]:
            with pytest.raises(SpecError, match="stays hidden"):
                group_sum(told, graph, [name])
    with pytest.raises(SpecError, match="stays hidden"):
        group_sum(told, graphs[0], left[graphs[0]])


def test_a_list_of_another_group_or_of_all_is_no_sum() -> None:
    found, told = drawn(9)
    first, second, _ = groups_of(told)
    for node in found.values():
        told.ask_shares(node)
    victim, friends = found[first.members[0]], list(second.members[:2])
    assert set(told.sealed[victim.name]) == set(first.members) - {victim.name}  # nobody else has its shares
    for among in ([victim.name, *friends], sorted(found)):
        with pytest.raises(SpecError, match="never shared secrets"):
            told.ask_vector(victim, among=among)
    for graph in (first, second):
        for name in graph.members:
            told.ask_vector(found[name], among=list(graph.members))
    for survivors in ([victim.name, *friends], [*first.members, *second.members], list(first.members[:2])):
        with pytest.raises(SpecError):
            told.ask_signature(victim, survivors)
    for name in second.members:
        told.ask_signature(found[name], list(second.members))
    told.ask_signature(victim, list(first.members))
    with pytest.raises(SpecError, match="1 nodes have agreed to this sum, 3 are needed"):
        told.ask_shares_revealed(victim)  # the signatures of another group do not count


def test_nobody_chooses_who_is_in_a_group() -> None:
    found, told = drawn(9)
    for lots in (
        {**told.lots, "n8": secrets.token_bytes(32)},
        {name: lot for name, lot in told.lots.items() if name != "n8"},
    ):
        with pytest.raises(FedjobError, match=r"the lot of n8|lots of all 9 nodes"):
            told.ask_shares(found["n0"], lots=lots)
    with pytest.raises(SpecError, match="another list of nodes"):
        told.ask_lot(found["n0"], {name: keys for name, keys in told.keys.items() if name != "n8"})


def test_any_two_nodes_are_in_one_group_as_often_as_chance_has_it() -> None:
    rng, times = np.random.default_rng(0), Counter()
    for _ in range(600):
        lots = {f"n{k}": rng.bytes(32) for k in range(9)}
        for graph in drawn_groups(3, usual_threshold, b"about", lots):
            times.update((a, b) for a in graph.members for b in graph.members if a < b)
    assert len(times) == 36
    assert all(abs(number - 150) < 5 * (600 * 0.25 * 0.75) ** 0.5 for number in times.values())


@pytest.mark.parametrize(
    ("num_nodes", "changes", "words"),
    [
        (8, {}, "8 nodes are no 3 groups"),
        (9, {"groups": 2}, "are no 2 groups"),
        (9, {"groups": 0}, "are no 0 groups"),
        (9, {"groups": 4}, "9 nodes are no 4 groups"),
        (9, {"rule": "weighted"}, "count all nodes alike"),
        (9, {"noise": NOISE}, "have no noise"),
    ],
    ids=str,
)
def test_groups_that_are_too_few_or_too_small_are_refused_by_nodes(
    num_nodes: int, changes: dict, words: str
) -> None:
    found = nodes(num_nodes)
    told = Transcript(terms_for(num_nodes, **{**ABOUT, **changes}), settings=SecAgg(groups=3))
    for node in found.values():
        told.ask_keys(node)
    with pytest.raises(SpecError, match=words):
        told.ask_lot(found["n0"])
    assert not told.lots


def test_the_owners_smallest_sum_is_that_of_a_group() -> None:
    found = nodes(9)
    told = Transcript(terms_for(9, **ABOUT))
    for node in found.values():
        told.ask_keys(node)
    node = found["n0"]
    steps = SumSteps("n0", node.identity.sign, node._is_signed_by, node.sessions)
    wanted = SumStep(step="draw", terms=told.terms, body={"keys": plain_keys(told.keys)})
    with pytest.raises(SpecError, match="9 nodes take part in 3 groups; the owner wants sums of 4 or more"):
        steps.answer(wanted, SecAgg(groups=3), min_nodes=4)


def test_a_job_that_has_no_groups_has_no_sums_of_them() -> None:
    terms = terms_for(9, **ABOUT)
    about = (terms.federation, terms.job, terms.round, terms.step)
    plain = {"step": "keys", "terms": to_plain(terms)}
    assert read_step(plain, Protect(secagg=SecAgg(groups=3)), 1, "the model", *about).terms == terms
    for settings in (SecAgg(), SecAgg(groups=4)):
        with pytest.raises(SpecError, match="found terms of 3"):
            read_step(plain, Protect(secagg=settings), 1, "the model", *about)
    one = {"step": "keys", "terms": to_plain(replace(terms, groups=1))}
    assert read_step(one, Protect(secagg=SecAgg(groups=3)), 1, "the model", *about).terms.groups == 1


@pytest.mark.parametrize("settings", [{"groups": 2}, {"groups": 0}, {"groups": 3, "threshold": 3}], ids=str)
def test_settings_of_groups_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(SpecError, match=r"SecAgg\(groups=...\) is 3 or more"):
        SecAgg(**settings)
