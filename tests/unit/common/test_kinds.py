"""Arguments of a wrong kind: each is refused in one line that names it, and never by an error of Python's own."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import fedjob
from fedjob.common.checks import MAX_SHOWN, check_kinds, check_path, is_list, python_numbers, shown
from fedjob.common.errors import FedjobError, SpecError


class Unfriendly:
    """It can't be compared, shown or judged."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


def nested(kind: type) -> Any:
    outer: Any = kind()
    inner = outer
    for _ in range(5000):
        deeper = kind()
        inner.append(deeper) if kind is list else inner.update(k=deeper)
        inner = deeper
    return outer


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF.append(HOLDS_ITSELF)

WRONG = [
    None, True, 0, -1, 10**400, -(10**400), 2**63, float("nan"), float("inf"), b"a", bytearray(b"x"), {1, "a"}, "", "a",
    "a\0b", "\ud800", "x" * 100_000, [None], [[]], [{}], HOLDS_ITSELF, nested(list), nested(dict), {1: 2}, {"a": None},
    {(1,): []}, {"\ud800": 1}, object(), int, len, 1j, decimal.Decimal("1.5"), ..., range(3), (1,), Unfriendly(),
    np.int64(3), np.float32(0.5), np.arange(3), np.ones((2, 2)), np.array([object(), 1]), np.str_("a"), np.bool_(True),
    np.datetime64("2020-01-01"), torch.ones(2), torch.tensor(3), pd.DataFrame({"a": [1]}), pd.Series([1]), pd.NA,
]  # fmt: skip

NEEDED: Mapping[str, Any] = {
    "columns": ["a"], "column": "a", "target": "a", "features": ["b"], "duration": "a", "event": "b", "edges": [1.0, 2.0],
    "to": "float", "test": ">", "value": 1, "personal": ["head"], "k": 2, "clusters": 2, "max_norm": 1.0, "height": 8,
    "width": 8, "start": 0.1, "end": 0.01, "rounds": 3, "factor": 0.5, "every": 2, "on": "a", "own": "b", "nodes": ["a"],
    "values": {1: 2}, "candidates": 3, "epsilon": 1.0, "delta": 1e-5, "sizes": [1, 2], "fraction": 0.1,
}  # fmt: skip


def components() -> list[type]:
    found = [getattr(fedjob, name) for name in fedjob.__all__]
    return [one for one in found if isinstance(one, type) and hasattr(one, "__dataclass_fields__")]


def refusal(component: type, given: Mapping[str, Any]) -> str:
    """Return the words of an error of fedjob's own; empty if there is none."""
    try:
        component(**given)
    except FedjobError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("component", components(), ids=lambda one: str(one.__name__))
def test_no_argument_of_a_component_fails_with_an_error_of_python(component: type) -> None:
    settings = [entry for entry in fields(component) if entry.init]  # type: ignore[arg-type]
    needed = {
        entry.name: NEEDED[entry.name]
        for entry in settings
        if entry.default is MISSING and entry.default_factory is MISSING
    }
    for entry in settings:
        for wrong in WRONG:
            words = refusal(component, {**needed, entry.name: wrong})
            assert len(words) < 20 * MAX_SHOWN
            assert "\n" not in words


def test_a_wrong_kind_is_named_with_what_was_expected() -> None:
    for make, expected in (
        (lambda: fedjob.Fraction("half"), "Fraction(fraction=...) is a number, not 'half'"),  # type: ignore[arg-type]
        (lambda: fedjob.Ridge(features="a", target="b", alpha=None), "Ridge(alpha=...) is a number, not None"),  # type: ignore[arg-type]
        (lambda: fedjob.Explicit(3), "Explicit(nodes=...) is a list of names, not 3"),  # type: ignore[arg-type]
        (lambda: fedjob.KMeans(features="a", clusters=10**5000), "KMeans(clusters=...) is a whole number, not this int"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            make()
        assert str(caught.value) == expected


def test_numbers_of_numpy_are_those_of_python() -> None:
    one = fedjob.EarlyStopping("loss", patience=np.int64(3), min_delta=np.float32(0.5))  # type: ignore[arg-type]
    assert (type(one.patience), type(one.min_delta)) == (int, float)
    assert fedjob.Quorum(min_nodes=np.int8(2)) == fedjob.Quorum(min_nodes=2)  # type: ignore[arg-type]


def test_what_holds_itself_is_refused_in_one_line() -> None:
    for given in (HOLDS_ITSELF, nested(list), nested(dict)):
        with pytest.raises(SpecError, match="holds itself, or is nested too deeply"):
            python_numbers(given)
        assert len(shown(given)) <= MAX_SHOWN


def test_values_are_shown_whatever_they_are() -> None:
    assert shown(Unfriendly()) == "this Unfriendly"
    assert shown(np.ones((2, 2))) == "array([[1., 1.], [1., 1.]])"
    assert shown("x" * 1000).endswith("...")


def test_paths_and_lists_are_told_from_other_things() -> None:
    for wrong in (3, b"a", "", "a\0b", "\ud800", "x" * 10_000):
        with pytest.raises(SpecError, match="home is the path of a file or folder"):
            check_path("home", wrong)
    assert [is_list(x) for x in ([], (), {1}, iter(()), range(2), "a", b"a", 3, None, {}, torch.ones(2))] == [
        *[True] * 5,
        *[False] * 6,
    ]


def test_fields_of_other_annotations_are_left_alone() -> None:
    step = fedjob.Filter("a", ">", 3)
    check_kinds(step)
    assert step == fedjob.Filter("a", ">", 3)
