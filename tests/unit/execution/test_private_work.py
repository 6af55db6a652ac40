"""What a task under differential privacy costs, as the node finds it."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import SpecError
from fedjob.execution.private_work import TRAININGS, private_work
from fedjob.messaging.messages import Offer, Task
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.privacy.protect import RecordDP

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
