"""The items of a result by name."""

from __future__ import annotations

import copy
import json

import pytest

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import NoSuchItem, SpecError
from fedjob.researcher.results.named_items import NamedItems

ITEMS = NamedItems({"coefficients": 1, "odds_ratios": 2}, "result.tables")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coefficents", r"result.tables has no 'coefficents': did you mean 'coefficients'\?"),
        ("odds_ratio", r"did you mean 'odds_ratios'\?"),
        ("xyz", "it has 'coefficients', 'odds_ratios'$"),
        (7, "result.tables has no 7: it has 'coefficients', 'odds_ratios'$"),
    ],
)
@pytest.mark.parametrize("kind", [KeyError, SpecError, NoSuchItem])
def test_a_name_that_is_not_there_is_an_error_with_the_nearest(
    name: object, words: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=words):
        ITEMS[name]


def test_the_items_are_those_of_a_dict_in_all_else() -> None:
    plain = {"coefficients": 1, "odds_ratios": 2}
    assert plain == ITEMS
    assert (ITEMS.get("xyz"), ITEMS.get("xyz", 5), "xyz" in ITEMS) == (None, 5, False)
    assert repr(ITEMS) == repr(plain)
    assert json.loads(json.dumps(ITEMS)) == plain
    assert unpack(pack(ITEMS)) == plain


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_names_the_nearest_too(again) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NoSuchItem, match=r"result\.tables has no 'odds'"):
        again(ITEMS)["odds"]


def test_nothing_to_name_is_said() -> None:
    with pytest.raises(NoSuchItem, match=r"result\.value has no 'a': it has nothing"):
        NamedItems()["a"]
