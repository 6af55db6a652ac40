"""The tag or dataset that was probably meant by one that no node offers."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.researcher.connection.catalogue import DatasetHandle
from fedjob.researcher.definition.data import nearest_text

OFFERED = [
    DatasetHandle(node="east", name="hearts-2024", tags=("heart", "adults")),
    DatasetHandle(node="west", name="lungs", tags=("lung", "CT")),
]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"tags": ["haert"]}, "the tag 'heart' for 'haert'"),
        ({"tags": "Heart"}, "the tag 'heart' for 'Heart'"),
        ({"tags": ["ct"]}, "the tag 'CT' for 'ct'"),
        ({"tags": ["heart", "adult"]}, "the tag 'adults' for 'adult'"),
        ({"name": "heart-2024"}, "the dataset 'hearts-2024' for 'heart-2024'"),
        ("lung", "the dataset 'lungs' for 'lung'"),
        ("west/lumgs", "the dataset 'west/lungs' for 'west/lumgs'"),
        (
            [{"tags": ["lumg"]}, "hearts-2042"],
            "the tag 'lung' for 'lumg', the dataset 'hearts-2024' for 'hearts-2042'",
        ),
    ],
)
def test_the_nearest_is_named_for_what_nothing_has(data: Any, words: str) -> None:
    assert nearest_text(data, OFFERED) == f" (did you mean {words}?)"


@pytest.mark.parametrize(
    "data",
    [
        {"tags": ["zebra"]},
        {"tags": ["heart", "lung"]},  # both are there, and no dataset has both
        {"tags": []},
        "mri",
        "west/hearts-2024",  # a dataset of another node is no answer to what was asked of this one
        None,
        7,
        [None, 3.0],
    ],
)
def test_nothing_is_named_where_nothing_is_near(data: Any) -> None:
    assert nearest_text(data, OFFERED) == ""
    assert nearest_text({"tags": ["heart"]}, []) == ""
