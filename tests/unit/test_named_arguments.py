"""Misspelt arguments of everything that a user calls: the nearest is named, in one sentence."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import pytest

import fedjob
from fedjob.common.errors import SpecError, WrongArguments

SESSION = "a session comes from fedjob.connect"
NOT_MADE_BY_USERS = {"Session": SESSION}


def is_made_with_arguments(found: Any) -> bool:
    if not isinstance(found, type) or issubclass(found, (Exception, enum.Enum)):
        return False
    return "__init__" in vars(found) and len(inspect.signature(found).parameters) > 0


CLASSES = sorted(
    name
    for name in fedjob.__all__
    if is_made_with_arguments(getattr(fedjob, name)) and name not in NOT_MADE_BY_USERS
)


def test_there_are_many() -> None:
    assert {"Job", "SecAgg", "Guard", "Scaffold", "Quorum", "Items", "LogisticRegression"} <= set(CLASSES)
    assert len(CLASSES) > 50


@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelt_argument_is_answered_with_the_nearest(name: str) -> None:
    cls = getattr(fedjob, name)
    for argument in inspect.signature(cls).parameters:
        misspelt = argument[:-1] + "_" if len(argument) < 5 else argument[:-2] + argument[-1] + argument[-2]
        if misspelt in inspect.signature(cls).parameters:
            continue
        with pytest.raises(WrongArguments) as caught:
            cls(**{misspelt: 1})
        assert f"{name} has no argument {misspelt!r}" in str(caught.value)
        assert isinstance(caught.value, SpecError)
        assert isinstance(caught.value, TypeError)
        if len(argument) > 4:
            assert "did you mean" in str(caught.value)


@pytest.mark.parametrize("name", CLASSES)
def test_too_many_arguments_show_those_that_there_are(name: str) -> None:
    with pytest.raises(WrongArguments, match="too many positional"):
        getattr(fedjob, name)(*range(60))


@pytest.mark.parametrize(
    ("name", "argument", "nearest"),
    [
        ("Job", "trainning_plan", "training_plan"),
        ("Job", "optimizer", "server_optimizer"),
        ("SecAgg", "treshold", "threshold"),
        ("Guard", "max_nrom", "max_norm"),
        ("Quorum", "min_node", "min_nodes"),
        ("connect", "hubb", "hub"),
        ("cross_validate", "ovr", "over"),
    ],
)
def test_the_nearest_is_what_was_meant(name: str, argument: str, nearest: str) -> None:
    with pytest.raises(WrongArguments, match=f"did you mean '{nearest}'"):
        getattr(fedjob, name)(**{argument: 1})


def test_a_missing_argument_shows_what_is_expected() -> None:
    with pytest.raises(WrongArguments, match=r"Cast\(columns.*missing a required argument: 'columns'"):
        fedjob.Cast()  # type: ignore[call-arg]


def test_a_class_without_a_near_argument_of_many_is_not_listed_in_full() -> None:
    with pytest.raises(WrongArguments) as caught:
        fedjob.Job(zzzzzz=1)  # type: ignore[call-arg]
    assert len(str(caught.value)) < 120


def test_a_type_error_of_the_constructor_itself_stays_one() -> None:
    from fedjob.common.checks import named_arguments

    @named_arguments
    class Counts:
        def __init__(self, start: int) -> None:
            self.start = start + 1

    with pytest.raises(TypeError) as caught:
        Counts("x")  # type: ignore[arg-type]
    assert not isinstance(caught.value, WrongArguments)
    assert Counts(1).start == 2


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [("slit", "split"), ("worker", "workers"), ("vectorise", "vectorize"), ("num_node", "num_nodes")],
)
def test_a_misspelt_argument_of_simulate_is_answered_with_the_nearest(argument: str, nearest: str) -> None:
    with pytest.raises(
        WrongArguments, match=f"simulate has no argument '{argument}': did you mean '{nearest}'"
    ):
        fedjob.simulate(10, **{argument: 1})
    with pytest.raises(
        WrongArguments, match=r"too many positional .*; these are written with their names: split="
    ):
        fedjob.simulate(10, fedjob.IID())  # type: ignore[misc]
