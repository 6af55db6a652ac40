"""Selectors: who takes part in a round."""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

import pytest

from fedjob.common.errors import SpecError
from fedjob.common.quorum import Quorum
from fedjob.protocols.base import Ask, View
from fedjob.protocols.training.fedbuff import FedBuff
from fedjob.researcher.definition.components import from_part, selector_of, to_part
from fedjob.researcher.rounds.participants import addressed
from fedjob.researcher.selection import SELECTORS
from fedjob.researcher.selection.all_nodes import AllNodes
from fedjob.researcher.selection.base import Candidates, Selector
from fedjob.researcher.selection.by_weight import ByWeight
from fedjob.researcher.selection.explicit import Explicit
from fedjob.researcher.selection.fraction import Fraction
from fedjob.researcher.selection.over_selection import OverSelection
from fedjob.researcher.selection.power_of_choice import PowerOfChoice
from fedjob.researcher.storage.position import Position

NODES = tuple("abcdef")
ROWS = dict(zip(NODES, (600, 200, 100, 50, 40, 10), strict=True))
LOSSES = dict(zip(NODES, (0.1, 0.9, 0.5, 0.9, 0.2, 0.3), strict=True))


def candidates(round_: int = 1, seed: int = 1, **changes: object) -> Candidates:
    return Candidates(round=round_, seed=seed, **{"nodes": NODES, "num_rows": ROWS, **changes})  # type: ignore[arg-type]


def odd_rounds_use_half(round_: int, nodes: list[str]) -> list[str]:
    return nodes[: len(nodes) // 2] if round_ % 2 else nodes


def returns_text(round_: int, nodes: list[str]) -> str:
    return "ab"


@pytest.mark.parametrize(
    "selector",
    [AllNodes(), Fraction(0.5), Explicit(("a", "c")), ByWeight(2), OverSelection(2), PowerOfChoice(1, 3)],
    ids=repr,
)
def test_a_selector_says_the_same_every_time_and_after_travelling(selector: Selector) -> None:
    again = selector_of(to_part(SELECTORS, selector))
    for round_ in range(1, 20):
        given = candidates(round_, seed=3, losses=LOSSES)
        assert again.ask_first(given) == selector.ask_first(given)
        chosen = selector.select(given)
        assert again.select(given) == chosen
        assert list(chosen) == sorted(set(chosen) & set(NODES))
        assert again.enough(chosen) == selector.enough(chosen)


@pytest.mark.parametrize("name", SELECTORS.names())
def test_every_selector_of_the_registry_is_built_from_its_own_description(name: str) -> None:
    config = {"nodes": ["a"]} if name == "explicit" else {}
    selector = SELECTORS.build(name, config)
    assert SELECTORS.build(*SELECTORS.config_of(selector)) == selector
    assert selector.min_nodes <= len(NODES)


@pytest.mark.feature("FB-27")
def test_half_of_the_nodes_are_drawn_anew_each_round() -> None:
    draws = [Fraction(0.5).select(candidates(round_)) for round_ in range(1, 30)]
    assert all(len(draw) == 3 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 5


def test_by_weight_draws_nodes_as_often_as_their_share_of_the_rows() -> None:
    drawn = Counter(ByWeight(1).select(candidates(round_))[0] for round_ in range(1, 4001))
    for node, rows in ROWS.items():
        assert drawn[node] / 4000 == pytest.approx(rows / 1000, abs=0.03)
    assert len(ByWeight(4).select(candidates())) == 4


def test_by_weight_without_the_number_of_rows_is_refused_by_the_nodes_name() -> None:
    with pytest.raises(SpecError, match="which is not known of b"):
        ByWeight(1).select(candidates(num_rows={**ROWS, "b": None}))


def test_power_of_choice_asks_some_by_weight_and_takes_the_largest_losses() -> None:
    selector = PowerOfChoice(2, 4)
    first = selector.ask_first(candidates())
    assert first == ByWeight(4).select(candidates())
    assert selector.select(candidates(losses=LOSSES)) == ["b", "d"]
    assert selector.select(candidates(losses={"a": 0.3, "c": 0.2})) == ["a", "c"]


def test_over_selection_takes_a_third_more_and_goes_on_with_enough() -> None:
    selector = OverSelection(3, extra_fraction=0.3)
    chosen = selector.select(candidates())
    assert len(chosen) == 4
    assert selector.enough(chosen) == 3
    assert len({tuple(selector.select(candidates(round_))) for round_ in range(1, 20)}) > 3
    assert (
        len(OverSelection(10, extra_fraction=0.3).select(candidates(nodes=tuple(f"n{k}" for k in range(20)))))
        == 13
    )


def test_a_function_of_the_researchers_travels_as_text() -> None:
    part = to_part(SELECTORS, odd_rounds_use_half)
    assert "odd_rounds_use_half" in part.text
    selector = selector_of(part)
    assert selector.select(candidates(1)) == ("a", "b", "c")
    assert selector.select(candidates(2)) == NODES
    with pytest.raises(SpecError, match="returns_text returned 'ab'"):
        selector_of(to_part(SELECTORS, returns_text)).select(candidates())


def test_a_selector_that_names_an_unknown_node_is_refused() -> None:
    with pytest.raises(SpecError, match="zz"):
        Explicit(("zz",)).select(candidates())


def test_an_unknown_selector_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="fraction"):
        to_part(SELECTORS, "fractoin")
    assert from_part(SELECTORS, to_part(SELECTORS, "all")) == AllNodes()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Fraction(0.0),
        lambda: Explicit(()),
        lambda: ByWeight(0),
        lambda: PowerOfChoice(0),
        lambda: PowerOfChoice(3, 2),
        lambda: OverSelection(0),
        lambda: OverSelection(1, -0.1),
    ],
)
def test_settings_out_of_range_are_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match=r"\("):
        wrong()  # type: ignore[operator]


def _no_gather(ask: Ask, position: Position) -> NoReturn:
    raise AssertionError("nobody is asked first")


def test_an_error_about_a_hundred_thousand_nodes_names_a_few() -> None:
    many = candidates(nodes=tuple(f"node-{k:06d}" for k in range(100_000)))
    with pytest.raises(
        SpecError, match=r"names zz, but the job has node-000000, .* and 99995 more$"
    ) as caught:
        Explicit(("zz",)).select(many)
    assert len(str(caught.value)) < 200
    with pytest.raises(SpecError, match=r"round 1 names zz, but the job has .* and 99995 more$"):
        addressed(Ask(step="train", to=("zz",)), Position(state={}), AllNodes(), many, Quorum(), _no_gather)
    with pytest.raises(
        SpecError, match=r"waits for 200000 nodes, but the job has 100000: .* and 99995 more$"
    ):
        FedBuff(k=200_000).instruct(
            {"round": 0, "params": {}, "buffers": []}, View(rounds=1, nodes=many.nodes)
        )
