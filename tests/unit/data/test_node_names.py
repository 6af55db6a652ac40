"""The names of simulated nodes are made when they are asked for, and behave as a tuple of them does."""

from __future__ import annotations

import random

import pytest

from fedjob.data.node_names import ByName, NumberedNames, as_node_name, in_order, place_of


@pytest.mark.parametrize("number", [1, 9, 9_999, 10_000, 12_345])
def test_numbered_names_are_in_order_and_as_wide_as_the_last(number: int) -> None:
    names = NumberedNames(number)
    every = tuple(names)
    assert len(every) == len(names) == number
    assert list(every) == sorted(every)
    assert {len(name) for name in every} == {len(every[-1])}
    assert every[0] == names[0]
    assert every[-1] == names[-1]
    assert every[2:5] == names[2:5]


def test_a_name_that_is_none_of_them_is_not_found() -> None:
    names = NumberedNames(20)
    assert "node-0020" in names
    assert place_of("node-0020", names) == 19
    for other in (
        "node-0021",
        "node-0000",
        "node-20",
        "",
        None,
        3,
        "xxxx-0001",
        "0001",
        "node-٠٠٠١",
        "node--001",
    ):
        assert other not in names
    with pytest.raises(IndexError):
        names[20]


class Compared(str):
    """A name that counts what it is compared with."""

    count = 0

    def __lt__(self, other: str) -> bool:
        Compared.count += 1
        return super().__lt__(other)

    def __gt__(self, other: str) -> bool:
        Compared.count += 1
        return super().__gt__(other)


def test_the_place_of_a_name_is_read_and_not_searched_for() -> None:
    Compared.count = 0
    assert place_of(Compared("node-067890"), NumberedNames(100_000)) == 67_889
    assert Compared.count == 0


def test_a_draw_from_them_is_that_from_a_tuple_of_them() -> None:
    names = NumberedNames(3_000)
    for count in (3, 2_900):
        assert random.Random(1).sample(names, count) == random.Random(1).sample(tuple(names), count)


def test_a_map_by_name_makes_a_value_when_it_is_asked_for() -> None:
    made: list[int] = []
    found = ByName(NumberedNames(50), lambda place: made.append(place) or place * 2)
    assert found["node-0003"] == 4
    assert made == [2]
    assert len(found) == 50
    assert "node-0051" not in found
    assert found.get("x") is None
    assert in_order(found) is found.names
    assert in_order({"b": 1, "a": 2}) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("St. Mary's", "st-mary-s"),
        ("  Charité / Berlin ", "charite-berlin"),
        ("Spital_2", "spital_2"),
        ("Straße", "strasse"),
        ("_-_", ""),
        ("北", ""),
    ],
)
def test_a_text_is_written_in_the_letters_of_a_name(text: str, name: str) -> None:
    assert as_node_name(text) == name
