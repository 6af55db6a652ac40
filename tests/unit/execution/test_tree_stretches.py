"""Which tasks go on with the same trees of noise, and what a local job records of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob import Filter, Items
from fedjob.common.types import Ref
from fedjob.data.preprocessing import to_plain_steps
from fedjob.execution.tree_stretches import LocalTrees, tree_of
from fedjob.messaging.messages import Task
from fedjob.privacy.dp.tree_terms import TreeTerms, tree_terms

TERMS = tree_terms(epsilon=5.0, delta=1e-4, max_grad_norm=1.0, rounds=4, num_rows=20, batch_size=5, steps=2)
PLAN = Ref(sha256="ab" * 32, size_bytes=10)
TASK = Task(
    dataset="toy", protocol="fedavg", plan=PLAN, entry="Plan", training_args={"lr": 0.1, "batch_size": 5}
)


def name_of(task: Task = TASK, terms: TreeTerms = TERMS, **about: str) -> str:
    return tree_of(task, terms, **{"researcher": "ann", "job": "j1", "version": "v1", **about})


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"protocol": "fedprox"},
        {"config": {"mu": 0.1}},
        {"plan": replace(PLAN, sha256="cd" * 32)},
        {"entry": "Other"},
        {"use": "mock"},
        {"seed": 12},
        {"project": "other"},
        {"model_args": {"width": 1}},
        {"training_args": {"lr": 0.2, "batch_size": 5}},
        {"round_args": {"lr": 0.3}},
        {"props": {"order": "backwards"}},
        {"preprocess": to_plain_steps([Filter("age", ">", 50)])},
        {"items": Items(limit=10)},
        {"split": {"by": "site"}},
        {"artifacts": {"order": PLAN}},
    ],
    ids=str,
)
def test_what_decides_the_examples_of_a_task_begins_trees_of_its_own(change: dict[str, Any]) -> None:
    assert name_of(replace(TASK, **change)) != name_of()


@pytest.mark.parametrize("about", [{"researcher": "bob"}, {"job": "j2"}, {"version": "v2"}], ids=str)
def test_who_asks_and_which_data_do_so_too(about: dict[str, str]) -> None:
    assert name_of(**about) != name_of()
    assert name_of(terms=replace(TERMS, rounds=5)) != name_of()


def test_the_model_and_what_a_round_is_given_do_not() -> None:
    later = replace(
        TASK, params={"params": PLAN}, values={"a": 1}, limit_s=5.0, state="s1", keep_states=["s1"]
    )
    assert name_of(later) == name_of()
    assert name_of(replace(TASK, round_args={"lr": 0.1})) == name_of()


def test_a_site_gives_each_task_further_steps_and_a_repeated_one_those_that_it_had(tmp_path: Path) -> None:
    trees = LocalTrees(tmp_path / "trees")
    found = [trees.stretch(TERMS, "a", key) for key in ("k1", "k2", "k1")]
    assert [one.first for one in found] == [0, 2, 0]
    again = LocalTrees(tmp_path / "trees")
    assert again.stretch(TERMS, "a", "k2") == found[1]
    assert again.stretch(TERMS, "a", "k3").first == 4
    other = again.stretch(TERMS, "b", "k4")
    assert (other.first, other.seed != found[0].seed) == (0, True)
