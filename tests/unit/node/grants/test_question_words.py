"""The words in which an owner reads a question."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.types import ENDLESS
from fedjob.node.grants.contract import Request, defaults_of
from fedjob.node.grants.question_words import (
    entries_in_words,
    question_in_words,
    settings_in_words,
    shown_name,
    shown_value,
)
from fedjob.protocols import PROTOCOLS

EXAMPLES: dict[str, dict[str, Any]] = {
    "kaplan_meier": {"duration": "days", "event": "died"},
    "cox_regression": {"features": ["age"], "duration": "days", "event": "died"},
    "fedper": {"personal": ["head.*"]},
    "finetuned": {"epochs": 1},
    "kmeans": {"features": ["age", "chol"], "clusters": 3},
    "linear_regression": {"features": ["age", "sex"], "categorical": ["sex"], "target": "chol"},
    "logistic_regression": {"features": ["age"], "target": "sick"},
    "own": {"entry": "Mine", "text": "class Mine: ..."},
    "pca": {"features": ["age", "chol"], "components": 1},
    "poisson_regression": {"features": ["age"], "target": "visits"},
    "psi": {"on": "patient", "own": "mine"},
    "ridge": {"features": ["age"], "target": "chol", "alpha": 2.0},
    "statistics": {"mean": ["age"], "count": ["age"], "std": ["age"], "by": ["sex"]},
}


def words(protocol: str, min_rows: int = 0, **more: Any) -> str:
    asked = Request(**{"config": EXAMPLES.get(protocol, {}), "rounds": 3, **more})
    return question_in_words(protocol, "HeartPlan", asked, min_rows)


@pytest.mark.parametrize("protocol", PROTOCOLS.names())
def test_every_built_in_operation_has_words_of_its_own(protocol: str) -> None:
    said = words(protocol)
    assert len(said) > 25
    assert "no page of fedjob describes" not in said
    assert "can't have" not in said
    for value in EXAMPLES.get(protocol, {}).values():
        for name in value if isinstance(value, list) else [value]:
            assert not isinstance(name, str) or len(name) > 12 or name in said or protocol == "fedper", said


@pytest.mark.parametrize(
    ("protocol", "more", "said"),
    [
        (
            "statistics",
            {"min_rows": 10},
            "mean, count and standard deviation of `age`, grouped by `sex`, groups under 10 withheld",
        ),
        (
            "statistics",
            {
                "config": {"mean": ["age", "chol"], "max": ["age"], "histogram": {"age": [0, 50, 100]}},
                "min_rows": 5,
            },
            "mean of `age` and `chol`; largest value of `age`; histogram of `age` with the edges 0, 50 and 100, nothing on "
            "fewer than 5 rows leaves",
        ),
        (
            "statistics",
            {"config": {"quantiles": {"age": [0.5]}, "table": ["sex", "zip"]}},
            "quantiles of `age` at 0.5; count of every combination of values of `sex` and `zip`",
        ),
        (
            "linear_regression",
            {},
            "linear regression of `chol` on `age` and the categories of `sex`: coefficients with standard errors",
        ),
        (
            "psi",
            {},
            "which identifiers in `patient` all nodes have: each node sends its own blinded; the identifiers themselves "
            "are sent by node mine alone",
        ),
        (
            "fedavg",
            {"training_args": {"epochs": 2, "batch_size": 16, "column": "x"}, "rounds": ENDLESS},
            "training of the model of plan HeartPlan by fedavg (Federated averaging, weighted by the number of examples), "
            "rounds without end, epochs 2, batch_size 16: the trained parameters, the number of examples and metrics leave "
            "in every round",
        ),
        (
            "inference",
            {"rounds": 1},
            "a prediction for every single row by a given model of plan HeartPlan, 1 round: the predictions are sent to "
            "the researcher",
        ),
        (
            "inference",
            {"config": {"release": False}},
            "a prediction for every single row by a given model of plan HeartPlan, 3 rounds: the predictions stay here as "
            "files, and only their number leaves",
        ),
        ("function", {}, "one call of HeartPlan with the arguments below: whatever it returns leaves"),
    ],
)
def test_a_question_in_the_words_of_a_data_protection_officer(
    protocol: str, more: dict[str, Any], said: str
) -> None:
    assert words(protocol, **more) == said


@pytest.mark.parametrize("config", [{"mean": 5}, {"mean": [1]}, {"raw": 1, "by": 5}, {"mu": "x"}])
def test_settings_that_an_operation_can_not_have_are_said_to_run_nothing(config: dict[str, Any]) -> None:
    assert "that it can't have, so that it would not run" in words("statistics", config=config)


def test_nothing_of_an_argument_is_cut_and_letters_that_look_like_others_are_spelled_out() -> None:
    assert entries_in_words({"column": "x" * 5000}) == [f"column = {'x' * 5000!r}"]
    assert shown_value("\u0430ge") == "'\u0430ge' (in ASCII letters '\\u0430ge')"
    assert shown_name("\u0430ge") == "'\u0430ge' (in ASCII letters '\\u0430ge')"
    assert shown_name("age ") == "'age '"
    assert shown_value("a\x1b[8m") == "'a\\x1b[8m'"
    assert shown_value([1, True, "1"]) == "[1, True, '1']"


def test_settings_that_are_as_they_would_be_are_not_shown() -> None:
    asked = Request(config={**defaults_of("statistics"), "mean": ["age"], "precision": 1e-3})
    assert settings_in_words("statistics", asked) == ["mean = ['age']", "precision = 0.001"]


@pytest.mark.parametrize(
    ("gpus", "count", "said"),
    [
        (None, 0, ""),
        ((), 0, "; no GPU"),
        ((0,), 1, "; may use GPU 0"),
        ((1, 3), 2, "; may use GPUs 1 and 3"),
        ((0, 1, 2), 1, "; may use GPUs 0, 1 and 2 (1 at a time)"),
    ],
)
def test_devices_are_named_where_the_owner_lends_any(gpus: Any, count: int, said: str) -> None:
    text = words("fedavg", gpus=gpus, resources={"gpus": count})
    assert text == words("fedavg") + said
