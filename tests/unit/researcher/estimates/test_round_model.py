"""The time of a round by the lines and the work of its parties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedjob.researcher.estimates.round_model import (
    FAST_BYTES_S,
    LineRates,
    NodeRound,
    RoundModel,
    same_or_new,
)

MB = 1e6
SLOW = LineRates(down=2.5 * MB, up=2.5 * MB)
NODE = NodeRound(down=4 * MB, up=4 * MB, work_s=1.0, line=SLOW)


def test_a_large_object_is_sent_once_and_each_answer_is_fetched_after_the_other() -> None:
    model = RoundModel(nodes={"east": NODE, "west": NODE}, sent=4 * MB, line=SLOW)
    assert model.seconds == pytest.approx(1.6 + 1.6 + 1.0 + 1.6 + 2 * 1.6)


def test_small_objects_are_sent_to_each_node_and_the_first_one_begins_earlier() -> None:
    node = NodeRound(down=40_000, up=40_000, work_s=1.0)
    model = RoundModel(nodes={"east": node, "west": node}, sent=80_000, line=LineRates(down=1e5, up=1e5))
    assert model.seconds == pytest.approx(0.8 + 1.0 + 0.4)  # the first answer comes while the second is made


def test_answers_that_come_one_after_the_other_are_fetched_meanwhile() -> None:
    late = replace(NODE, work_s=9.0)
    model = RoundModel(nodes={"east": NODE, "west": late}, sent=0.0, line=SLOW)
    assert model.seconds == pytest.approx(1.6 + 9.0 + 1.6 + 1.6)
    assert model.slowest == "west"


def test_a_line_that_is_not_known_takes_no_time() -> None:
    model = RoundModel(nodes={"east": replace(NODE, line=LineRates())}, sent=4 * MB)
    assert model.seconds == 1.0
    assert model.over({"east": SLOW}, LineRates()).seconds == pytest.approx(1.0 + 3.2)
    assert model.over({"east": SLOW}, SLOW).seconds == pytest.approx(1.0 + 6.4)
    assert RoundModel(nodes={}).seconds == 0.0
    assert RoundModel(nodes={}).slowest == ""


@pytest.mark.parametrize(
    ("before", "now", "rates"),
    [
        (None, None, (math.inf, math.inf)),
        (1 * MB, None, (1 * MB, 1 * MB)),
        (None, 1 * MB, (1 * MB, 1 * MB)),
        (1 * MB, 1.4 * MB, (1 * MB, 1 * MB)),
        (1 * MB, 1.6 * MB, (1 * MB, 1.6 * MB)),
        (1 * MB, 0.6 * MB, (1 * MB, 0.6 * MB)),
        (FAST_BYTES_S, 9 * FAST_BYTES_S, (FAST_BYTES_S, FAST_BYTES_S)),
        (FAST_BYTES_S, 1 * MB, (FAST_BYTES_S, 1 * MB)),
    ],
)
def test_a_line_is_another_one_where_it_became_much_slower_or_faster(
    before: float | None, now: float | None, rates: tuple[float, float]
) -> None:
    assert same_or_new(before, now) == rates
