"""What a task under differential privacy costs, as the node finds it."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob import Filter, Items, Scale, Statistics
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing import to_plain_steps
from fedjob.execution.private_work import TRAININGS, private_work
from fedjob.messaging.messages import Offer, Task
from fedjob.privacy.dp.mechanisms import Gaussian, Pure, cost_of
from fedjob.privacy.dp.sum_terms import SumTerms
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.privacy.protect import NodeDP, RecordDP
from fedjob.protocols import PROTOCOLS

WANTED = RecordDP(epsilon=2.0, delta=1e-5)
ROWS = 400


def task(protocol: str = "fedavg", **fields: Any) -> Task:
    args = {"batch_size": 20, "num_updates": 5, **fields.pop("training_args", {})}
    return Task(dataset="cohort", protocol=protocol, training_args=args, **{"rounds": 3, **fields})


def test_a_job_costs_what_it_asks_for_over_all_its_rounds() -> None:
    found = private_work(task(), WANTED, num_rows=ROWS)
    terms = TrainingTerms.from_plain(found.noise)
    assert found.mechanisms == (Gaussian(noise=terms.noise, rate=0.05, number=5),)
    assert 1.9 < cost_of(found.mechanisms * 3, WANTED.delta) <= 2.0
    assert cost_of(found.whole, WANTED.delta) == pytest.approx(cost_of(found.mechanisms * 3, WANTED.delta))
    assert (terms.epsilon, terms.rounds, terms.steps) == (2.0, 3, 5)


def statistics(protocol: Statistics, **fields: Any) -> Task:
    name, config = PROTOCOLS.config_of(protocol)
    return Task(dataset="cohort", protocol=name, config=config, **fields)


MEANS = Statistics(mean=["age", "chol"], std="age", bounds={"age": (0, 120), "chol": (0, 600)})


def test_statistics_divide_the_budget_among_all_that_is_asked() -> None:
    found = private_work(statistics(MEANS), WANTED, num_rows=ROWS, step="noised")
    terms = SumTerms.from_plain(found.noise)
    assert (terms.number, terms.num_rows) == (5, ROWS)  # two counts, two sums, one sum of squares
    assert found.mechanisms == found.whole == (terms.mechanism,)
    assert 1.9 < cost_of(found.mechanisms, WANTED.delta) <= 2.0
    one = private_work(statistics(Statistics(count="age")), WANTED, num_rows=ROWS, step="noised")
    assert one.mechanisms == (Pure(epsilon=pytest.approx(2.0), number=1),)
    offer = Offer(dataset="cohort", protocol="statistics", config=statistics(MEANS).config, rounds=7)
    assert private_work(offer, WANTED, num_rows=ROWS) == found


@pytest.mark.parametrize("step", ["count", "centre", "refine", "train", ""])
def test_a_task_that_asks_for_exact_statistics_under_a_budget_is_refused(step: str) -> None:
    with pytest.raises(SpecError, match=r"answers without noise.*ask for step 'noised'"):
        private_work(statistics(MEANS), WANTED, num_rows=ROWS, step=step)


@pytest.mark.parametrize(
    ("asked", "rows", "words"),
    [
        (statistics(Statistics(min="age")), ROWS, "values of single records"),
        (statistics(Statistics(mean="age")), ROWS, "needs bounds"),
        (statistics(Statistics(categories="sex")), ROWS, "needs levels"),
        (statistics(MEANS), 4, "the dataset has 4 rows: nothing could be seen"),
        (statistics(MEANS, items=Items(only="new")), ROWS, "Leave items out"),
        (statistics(MEANS, items=Items(limit=3)), ROWS, "Leave items out"),
        (
            statistics(MEANS, preprocess=to_plain_steps([Scale(["age"], own=True)])),
            ROWS,
            "finds values in the data",
        ),
        (task(preprocess=to_plain_steps([Scale(["age"])])), ROWS, "finds values in the data"),
        (task(items=Items(limit=3)), ROWS, "Leave items out"),
        (task("statistics", config={"levels": 5, "count": ["age"]}), ROWS, "can't be read"),
        (task("statistics", config={"bounds": {"age": None}}), ROWS, "can't be read"),
        (task("statistics", config={}), ROWS, "nothing is asked for"),
        (task(preprocess=[{"step": "scale", "columns": 3}]), ROWS, "can't be read"),
        (task(preprocess=[{"step": "nothing"}]), ROWS, "there is no step 'nothing'"),
        (task(preprocess=[{}]), ROWS, "there is no step"),
    ],
)
def test_private_work_that_tells_of_single_records_or_nothing_is_refused(
    asked: Task, rows: int, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        private_work(
            asked, WANTED, num_rows=rows, step="noised" if asked.protocol == "statistics" else "train"
        )


def test_a_training_on_several_tables_is_refused_by_their_names_and_statistics_are_of_the_first() -> None:
    tables = ["patients", "visits"]
    for wanted in (task(), Offer(dataset="cohort", protocol="fedavg", rounds=3)):
        with pytest.raises(SpecError, match=r"dataset\.assets has no place.*patients, visits"):
            private_work(wanted, WANTED, num_rows=ROWS, assets=tables)
    assert private_work(statistics(MEANS), WANTED, num_rows=ROWS, step="noised", assets=tables).mechanisms


@pytest.mark.parametrize("bound", [0.0, -1.0, 1e-7, 1e-300, 2e6, float("inf"), float("nan")])
def test_a_bound_on_a_norm_is_neither_tiny_nor_huge(bound: float) -> None:
    with pytest.raises(SpecError, match=r"max_grad_norm=...\) is a number from 1e-06 to 1e\+06"):
        RecordDP(epsilon=2.0, delta=1e-5, max_grad_norm=bound)
    with pytest.raises(SpecError, match=r"clip_norm=...\) is a number from 1e-06 to 1e\+06"):
        NodeDP(epsilon=2.0, delta=1e-5, clip_norm=bound)


def test_every_protocol_is_private_or_refused_with_what_to_use_instead() -> None:
    for name in set(PROTOCOLS) - {*TRAININGS, "statistics"}:
        with pytest.raises(
            SpecError, match=r"use |ask |train |evaluate |predict |answers about single records"
        ):
            private_work(task(name), WANTED, num_rows=ROWS)


def test_a_filter_before_statistics_is_of_single_rows_and_allowed() -> None:
    steps = to_plain_steps([Filter("age", ">", 50), Filter("sex", "==", 1)])
    assert private_work(statistics(MEANS, preprocess=steps), WANTED, num_rows=ROWS, step="noised").mechanisms


@pytest.mark.parametrize("protocol", TRAININGS)
def test_an_offer_costs_what_its_tasks_cost(protocol: str) -> None:
    args = task().training_args
    offer = Offer(dataset="cohort", protocol=protocol, training_args=args, rounds=3)
    of_task = private_work(task(protocol), WANTED, num_rows=ROWS)
    assert private_work(offer, WANTED, num_rows=ROWS) == of_task


def test_arguments_of_one_round_count_for_that_round() -> None:
    found = private_work(task(round_args={"num_updates": 50}), WANTED, num_rows=ROWS)
    assert found.noise["steps"] == 50


@pytest.mark.parametrize(
    ("asked", "step", "words"),
    [
        (task("function"), "call", "does not run under differential privacy"),
        (task("inference"), "predict", "does not run under differential privacy"),
        (task("psi"), "blind", "does not run under differential privacy"),
        (task("steps"), "run", "does not run under differential privacy"),
        (task("own"), "train", "does not run under differential privacy"),
        (task("nobody_knows"), "train", "does not run under differential privacy"),
        (task("qfedavg"), "train", "loss"),
        (task("ditto"), "train", "twice"),
        (task("fedbn"), "train", "GroupNorm"),
        (task("finetuned"), "train", "use FedAvg"),
        (task(), "validate", "without validation"),
        (task(), "loss", "without validation"),
        (task(), "trained", "without validation"),
        (task(rounds=0), "train", "one round or more"),
        (task(rounds=-3), "train", "one round or more"),
        (task(training_args={"num_updates": 0}), "train", "num_updates"),
        (task(training_args={"batch_size": 300}), "train", "twice as many rows"),
    ],
)
def test_what_cant_be_private_is_refused_with_the_reason(asked: Task, step: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        private_work(asked, WANTED, num_rows=ROWS, step=step)
