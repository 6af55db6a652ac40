"""The table of states: what may follow what, and nothing else."""

from __future__ import annotations

import pytest

from fedjob.common.errors import IllegalTransition
from fedjob.common.lifecycle import ACTIVE, GROUPS, HISTORY, PENDING, TABLE, State, advance


@pytest.mark.parametrize("here", State)
def test_every_pair_of_states_is_either_in_the_table_or_refused(here: State) -> None:
    for there in State:
        if there in TABLE[here]:
            assert advance(here, there) is there
        else:
            with pytest.raises(IllegalTransition, match=f"can't become {there}"):
                advance(here, there)


def test_what_has_ended_can_only_be_restarted() -> None:
    for state in HISTORY:
        assert TABLE[state] == {State.WAITING}


def test_every_state_but_draft_is_in_one_group() -> None:
    assert sorted([*PENDING, *ACTIVE, *HISTORY, State.DRAFT]) == sorted(State)
    assert set(GROUPS) == {"pending", "active", "history"}


def test_every_state_can_be_reached_from_a_draft() -> None:
    reached = {State.DRAFT}
    while more := {there for here in reached for there in TABLE[here]} - reached:
        reached |= more
    assert reached == set(State)


@pytest.mark.feature("PS-57")
def test_a_state_compares_equal_to_its_name() -> None:
    assert State.QUEUED == "queued"
    assert State("queued") is State.QUEUED
