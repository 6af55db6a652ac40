"""Counting predictions against what an owner allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.node.storage.database import Database
from fedjob.node.storage.usage import UsageLedger
from fedjob.protocols.usage import INFERENCES, Usage, capped, usage_of


def test_usage_is_a_pair_with_names() -> None:
    usage = Usage(4, 10)
    assert usage == (4, 10)
    assert (usage.overrun, usage.allowed) == (4, 10)


@pytest.mark.feature("BF-55")
def test_a_run_beyond_the_limit_is_told_from_one_that_reaches_it(tmp_path: Path) -> None:
    ledger = UsageLedger(Database(tmp_path / "node.sqlite"))
    assert ledger.use("m", 10, 20) is None
    assert ledger.use("m", 14, 20) == (4, 10)
    assert ledger.used("") == 24, "the count goes up by what was asked"
    assert ledger.use("m", 3, 20) == (3, 0)
    exactly = UsageLedger(Database(tmp_path / "other.sqlite"))
    assert exactly.use("m", 20, 20) == (0, 20)
    assert exactly.use("m", 1, 20) == (1, 0)
    assert exactly.use("m", 100, 0) is None


@pytest.mark.feature("BF-54")
def test_what_was_used_is_there_after_a_restart_and_known_for_each_model(tmp_path: Path) -> None:
    first = Database(tmp_path / "node.sqlite")
    UsageLedger(first).use("m1", 7, 20, grant="g")
    UsageLedger(first).use("m2", 5, 20, grant="g")
    first.close()
    again = UsageLedger(Database(tmp_path / "node.sqlite"))
    assert again.by_model("g") == {"m1": 7, "m2": 5}
    assert again.use("m1", 9, 20, grant="g") == (1, 8)
    assert again.use("m1", 9, 20, grant="another grant") is None


@pytest.mark.feature("BF-56")
def test_what_is_charged_is_what_was_allowed() -> None:
    used = [{"resource": INFERENCES, "amount": 14}, {"resource": "rows", "amount": 14}]
    assert capped(used, INFERENCES, usage_of(10, 14, 20)) == [
        {"resource": INFERENCES, "amount": 10},
        {"resource": "rows", "amount": 14},
    ]
    assert capped(used, INFERENCES, None) == used


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_what_is_over_and_what_is_allowed_make_the_whole(used: int, amount: int, limit: int) -> None:
    usage = usage_of(used, amount, limit)
    if usage is None:
        assert used + amount < limit
    else:
        assert usage.overrun + usage.allowed == amount
        assert used + usage.allowed == limit or usage.allowed == 0
