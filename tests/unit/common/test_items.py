"""Which items of a dataset a job is computed on, as data."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import SpecError
from fedjob.common.items import Items


@pytest.mark.parametrize(
    "items",
    [Items(), Items(only="new", batch=4, tolerate=None, retry_failed=False), Items(limit=5, tolerate=2)],
    ids=["default", "new in batches", "trial"],
)
def test_items_survive_the_codec(items: Items) -> None:
    assert from_plain(Items, unpack(pack(to_plain(items)))) == items


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"only": "old"}, "'all' or 'new'"),
        ({"limit": 0}, "whole number of 1 or more"),
        ({"batch": True}, "whole number or None"),
        ({"tolerate": -1}, "whole number of 0 or more"),
        ({"retry_failed": 1}, "True or False"),
        ({"limit": 5, "batch": 2}, "one batch"),
    ],
    ids=["only", "limit", "batch", "tolerate", "retry_failed", "limit and batch"],
)
def test_a_wrong_setting_is_refused_with_its_range(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Items(**wrong)
