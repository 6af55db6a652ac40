"""The bytes of rounds that come later follow from those that were played."""

from __future__ import annotations

from dataclasses import replace

from fedjob.messaging.attachments import MAX_COPIES_BYTES
from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.researcher.runner.ask_bytes import AskBytes, PlayedAsks, step_sizes

NODES = frozenset({"east", "west"})
ASK = AskBytes(nodes=NODES, shared=(1000,), own={"east": (10,)}, up={"east": 5, "west": 6}, memory=2000)


def test_an_ask_to_some_nodes_costs_the_others_nothing() -> None:
    assert (ASK.down("east"), ASK.down("west"), ASK.down("south")) == (1010, 1000, 0)
    one = replace(ASK, nodes=frozenset({"west"}))
    assert (one.down("east"), one.sent(3)) == (0, 1000), "what is east's own is not sent either"


def test_small_parameters_are_sent_to_each_node_and_large_ones_once() -> None:
    assert ASK.sent(2) == 2 * 1000 + 10
    assert replace(ASK, shared=(MAX_ATTACHED_BYTES + 1,), own={}).sent(2) == MAX_ATTACHED_BYTES + 1


def test_what_may_become_smaller_may_be_attached_then_and_is_counted_so() -> None:
    packed = replace(ASK, shared=(MAX_ATTACHED_BYTES + 1,), own={}, packed=True)
    assert packed.sent(2) == 2 * MAX_ATTACHED_BYTES
    many = frozenset(map(str, range(100)))
    assert replace(packed, nodes=many).sent(100) == MAX_COPIES_BYTES // 100 * 100


def test_steps_of_a_secure_sum_of_very_many_nodes_are_fetched_by_each_and_sent_once() -> None:
    assert step_sizes({f"clinic-{number}" for number in range(120)}) == ()
    sizes = step_sizes({f"clinic-{number:03}" for number in range(300)})
    assert len(sizes) == 1
    assert 300 * 160 < sizes[0] < 300 * 250  # two keys, a lot, a signature, and names
    many = step_sizes({f"clinic-{number:03}" for number in range(1000)})
    assert len(many) == 4
    ask = replace(ASK, steps=many)
    assert (ask.down("east"), ask.down("south")) == (1010 + sum(many), 0)
    assert ask.sent(2) == ASK.sent(2) + sum(many)


def test_later_rounds_are_like_the_last_one_or_grow_as_it_grew() -> None:
    same = PlayedAsks(rounds=[[replace(ASK, shared=(1048,))], [ASK], [ASK]], last=[ASK])
    assert not same.grows
    assert [ask.shared for ask in same.asks(5)] == [(1048,), *[(1000,)] * 5]
    grown = PlayedAsks(
        rounds=[[ASK], [replace(ASK, shared=(1500,))], [replace(ASK, shared=(2000,), memory=2500)]],
        last=[replace(ASK, up={})],
    )
    assert grown.grows
    shared = [ask.shared[0] for ask in grown.asks(5)]
    assert shared == [1000, 1500, 2000, 2510, 3020, 3530], (
        "headers grow, too; the end has what round 6 would have"
    )
    assert grown.asks(5)[4].memory == 3500
