"""Plans with a training loop of their own: several optimizers, accumulated gradients, mixed precision, a rate for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import FedAvg, FedProx, Job, RecordDP, Scaffold, TorchPlan, simulate
from fedjob.common.errors import (
    IncompletePlan,
    JobFailed,
    NodeFailure,
    NoTestingStep,
    NotPrivate,
    PlanError,
)
from fedjob.training_plans.context import Context
from fedjob.training_plans.plan_checks import check_plan_class

RNG = np.random.default_rng(2)
INPUTS = RNG.normal(size=(40, 3)).astype(np.float32)
TARGETS = (INPUTS @ np.array([[1.0], [-2.0], [0.5]], dtype=np.float32)).astype(np.float32)


class Given(TorchPlan):
    """Fedjob's loop."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset if isinstance(dataset, tuple) else dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets).reshape(-1, 1).float()

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


class Same(Given):
    """The same loop, written out."""

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for batch in data:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.training_step(model, batch)
            loss.backward()
            self.adjust_gradients()
            self.optimizer.step()
            yield loss


class Rich(TorchPlan):
    """Two optimizers, gradients of two batches, mixed precision, clipping, and a learning rate for each step."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset if isinstance(dataset, tuple) else dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets).reshape(-1, 1).float()

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        optimizers = [
            torch.optim.SGD(model[0].parameters(), lr=0.05),
            torch.optim.Adam(model[1].parameters(), lr=0.05),
        ]
        rates = [torch.optim.lr_scheduler.LinearLR(one, total_iters=5) for one in optimizers]
        held = []
        for batch in data:
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                found = model(batch[0])
            loss = torch.nn.functional.mse_loss(found.float(), batch[1])
            (loss / 2).backward()
            held.append(loss.item())
            if len(held) < 2:
                continue
            self.adjust_gradients()
            for one in (*optimizers, *rates):
                one.step()
            model.zero_grad(set_to_none=True)
            yield sum(held) / len(held)
            held.clear()


def built(cls: type[TorchPlan], **args: Any) -> Any:
    plan = cls()
    plan.ctx = Context(node="a", round=1, job_seed=3, seed=11)
    plan.build(None, {"batch_size": 10, **args})
    plan.load_data((INPUTS, TARGETS))
    return plan


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    paths = {}
    for name, part in (("a", slice(0, 20)), ("b", slice(20, 40))):
        np.savez(tmp_path / f"{name}.npz", x=INPUTS[part], y=TARGETS[part, 0])
        paths[name] = str(tmp_path / f"{name}.npz")
    return paths


def job(plan: type[TorchPlan], data: Any, home: Path, protocol: Any = None, **more: Any) -> Job:
    args = more.pop("training_args", {"lr": 0.05, "epochs": 2, "batch_size": 5})
    settings = {"nodes": "local", "rounds": 3, "seed": 4, "home": home, **more}
    return Job(protocol or FedAvg(), training_plan=plan, data=data, training_args=args, **settings)


@pytest.mark.parametrize(
    "protocol", [FedAvg(), FedProx(mu=0.5), Scaffold()], ids=["FedAvg", "FedProx", "SCAFFOLD"]
)
def test_fedjob_s_loop_written_out_ends_in_the_same_bytes(
    protocol: Any, data: dict[str, str], tmp_path: Path
) -> None:
    args = {"lr": 0.05, "epochs": 2, "batch_size": 5, "clip_norm": 1.0}
    given, same = (
        job(plan, data, tmp_path, protocol, training_args=args).run(progress=False).params
        for plan in (Given, Same)
    )
    assert {name: tensor.tolist() for name, tensor in given.items()} == {
        name: tensor.tolist() for name, tensor in same.items()
    }


def test_two_optimizers_accumulation_and_mixed_precision_train(data: dict[str, str], tmp_path: Path) -> None:
    args = {"epochs": 4, "batch_size": 5}
    done = job(Rich, data, tmp_path, rounds=6, training_args=args)
    result = done.run(progress=False)
    model = Rich().init_model({})
    model.load_state_dict(dict(result.params))
    with torch.no_grad():
        loss = torch.nn.functional.mse_loss(model(torch.tensor(INPUTS)), torch.tensor(TARGETS)).item()
    assert loss < 0.5 * float((TARGETS**2).mean())


def test_updates_examples_and_losses_are_those_that_the_loop_yields() -> None:
    plan = built(Rich, epochs=2)
    outcome = plan.train_locally()
    assert (outcome.num_examples, outcome.num_updates) == (40, 4)


def test_gradients_are_clipped_where_the_loop_lets_them_be() -> None:
    plan = built(Same, lr=1.0, clip_norm=1e-3)
    before = {name: tensor.clone() for name, tensor in plan.get_params().items()}
    plan.train_locally()
    moved = sum(float(((plan.get_params()[name] - old) ** 2).sum()) for name, old in before.items()) ** 0.5
    assert 0 < moved <= 4 * 1.0001e-3


class OneCycle(Same):
    """A schedule over all steps of the round, which has to know how many there are."""

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        self.counts = [len(data)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=0.1, total_steps=len(data))
        for batch in data:
            self.optimizer.zero_grad()
            loss = self.training_step(model, batch)
            loss.backward()
            self.optimizer.step()
            schedule.step()
            yield loss
        self.counts += [schedule.last_epoch, len(list(data))]


@pytest.mark.parametrize(
    ("args", "total"),
    [
        ({"epochs": 3}, 12),
        ({"num_updates": 7}, 7),
        ({"batch_size": 7}, 6),
        ({"batch_size": 7, "drop_last": True}, 5),
        ({"batch_maxnum": 2, "epochs": 2}, 4),
        ({"dry_run": True}, 1),
    ],
)
def test_a_loop_knows_how_many_batches_the_round_has(args: dict[str, Any], total: int) -> None:
    plan = built(OneCycle, lr=0.1, **args)
    assert plan.train_locally().num_updates == total
    assert plan.counts == [total, total, 0]


class Remembers(Same):
    """The way of docs/plans.md to keep the moments of an optimizer that the loop makes."""

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        optimizer = torch.optim.Adam(model.parameters(), lr=training_args["lr"])
        if kept := self.ctx.state.get("adam"):
            moments = {int(number): moment for number, moment in kept.items()}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        for batch in data:
            optimizer.zero_grad()
            loss = self.training_step(model, batch)
            loss.backward()
            optimizer.step()
            yield loss
        moments = optimizer.state_dict()["state"]
        self.ctx.state["adam"] = {str(number): moment for number, moment in moments.items()}


class WithAdam(Given):
    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.Adam(model.parameters(), lr=training_args["lr"])


def test_the_memory_of_a_loop_s_own_optimizer_lasts_as_that_of_init_optimizer(
    data: dict[str, str], tmp_path: Path
) -> None:
    given, own = (job(plan, data, tmp_path).run(progress=False).params for plan in (WithAdam, Remembers))
    assert {name: tensor.tolist() for name, tensor in given.items()} == {
        name: tensor.tolist() for name, tensor in own.items()
    }


def test_a_loop_is_not_begun_where_there_are_no_examples() -> None:
    plan = built(OneCycle, lr=0.1)
    plan.load_data((INPUTS[:0], TARGETS[:0]))
    with pytest.raises(NodeFailure, match="training_data gave no examples to train on"):
        plan.train_locally()


def test_a_loop_over_a_stream_is_told_that_its_length_is_not_known() -> None:
    class Streamed(OneCycle):
        def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
            pairs = zip(*(torch.tensor(part) for part in dataset), strict=True)
            return ((one.reshape(1, -1), target.reshape(1, 1)) for one, target in pairs)

    with pytest.raises(TypeError, match="a stream has is not known before its end: give num_updates"):
        built(Streamed, lr=0.1).train_locally()
    assert built(Streamed, lr=0.1, num_updates=9).train_locally().num_updates == 9


class Forgets(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for batch in data:
            yield self.training_step(model, batch)


class Returns(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        return sum(1.0 for _ in data)


class Ignores(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        yield 1.0


class Quiet(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for batch in data:
            self.training_step(model, batch).backward()
        if not model:
            yield 0.0


class Diverges(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for _ in data:
            yield float("nan")


@pytest.mark.parametrize(
    ("plan", "args", "words"),
    [
        (Forgets, {"clip_norm": 1.0}, r"never called self.adjust_gradients\(\), and clip_norm is given"),
        (Returns, {}, "has to yield the loss"),
        (Quiet, {}, "train yielded no loss"),
        (Ignores, {}, "train took no batch"),
        (Diverges, {}, "the loss is nan"),
    ],
    ids=["forgets", "returns", "quiet", "ignores", "diverges"],
)
def test_a_loop_that_can_not_be_right_is_named(
    plan: type[TorchPlan], args: dict[str, Any], words: str
) -> None:
    with pytest.raises(NodeFailure, match=words):
        built(plan, lr=0.1, **args).train_locally()


class NeverSteps(Same):
    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for batch in data:
            loss = self.training_step(model, batch)
            loss.backward()
            yield loss


class ByHand(Same):
    """Writes to `.data`, which torch does not count."""

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for batch in data:
            model.zero_grad()
            loss = self.training_step(model, batch)
            loss.backward()
            for parameter in model.parameters():
                parameter.data -= 0.01 * parameter.grad
            yield loss


@pytest.mark.parametrize(("plan", "number"), [(NeverSteps, 1), (Same, 0), (Rich, 0), (ByHand, 0)])
def test_a_loop_that_changes_no_parameter_is_noted(plan: type[TorchPlan], number: int) -> None:
    made = built(plan, lr=0.1)
    notes: list[str] = []
    made.ctx.send = lambda type_, body: notes.append(body["text"]) if type_ == "note" else None
    made.train_locally()
    assert len(notes) == number
    assert all(
        "no parameter of the model has changed: call the optimizer's step after backward" in n for n in notes
    )


def test_a_loop_that_does_not_let_the_protocol_correct_gradients_is_named() -> None:
    with pytest.raises(NodeFailure, match="the protocol corrects gradients"):
        built(Forgets, lr=0.1).train_locally(lambda model: None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"d": 1.0}, "yielded a dict"),
        (None, r"yielded nothing \(None\)"),
        (torch.zeros(3), r"yielded a tensor of shape \[3\]"),
    ],
)
def test_a_loop_that_yields_no_loss_is_told_what_was_expected(given: Any, words: str) -> None:
    class Yields(Rich):
        def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
            for _ in data:
                yield given

    with pytest.raises(NodeFailure, match=f"train {words}; expected the loss, one number"):
        built(Yields).train_locally(None)


def test_a_plan_with_a_loop_needs_no_step_and_one_without_still_does() -> None:
    assert check_plan_class(Rich) is Rich

    class Neither(TorchPlan):
        init_model, training_data = Rich.init_model, Rich.training_data

    with pytest.raises(IncompletePlan, match=r"init_optimizer.*training_step"):
        check_plan_class(Neither)

    class Odd(Rich):
        def train(self, model):  # type: ignore[no-untyped-def, override]
            yield 0.0

    with pytest.raises(PlanError, match="can't be called as train"):
        check_plan_class(Odd)


def test_a_validation_needs_a_step_that_measures(data: dict[str, str], tmp_path: Path) -> None:
    args = {"test_ratio": 0.2, "test_on_global_updates": True}
    with pytest.raises(NoTestingStep, match=r"`train` of its own and no testing_step"):
        job(Rich, data, tmp_path, training_args=args).run(progress=False)


def test_what_reads_single_records_or_trains_nodes_together_refuses_a_loop(
    data: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(NotPrivate, match="train"):
        job(Rich, data, tmp_path, training_args={}, protect=RecordDP(epsilon=1.0, delta=1e-5)).run(
            progress=False
        )
    together = job(
        Rich, (INPUTS, TARGETS), tmp_path, training_args={}, nodes=simulate(2, workers=0, vectorize=True)
    )
    with pytest.raises(JobFailed, match="train"):
        together.run(progress=False)
