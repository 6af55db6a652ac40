"""Every training protocol on two nodes, against numbers computed by hand from its paper's rule.

Node `a` pulls towards 4 with one example, node `b` towards -2 with three; the parameter
begins at 0. A step of gradient descent at a learning rate of 0.5 goes half the way.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import (
    Cyclic,
    Ditto,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedBN,
    FedNova,
    FedOpt,
    FedPer,
    FedProx,
    FineTuned,
    QFedAvg,
    Scaffold,
    SklearnPlan,
    SpecError,
    TorchPlan,
)
from fedjob.common.errors import PlanError
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.training.fednova import gradient_weight
from fedjob.protocols.training.fedopt import with_optimizer
from fedjob.testing.sites import Sites
from tests.unit.protocols.training.pulling import PullTwo, pulling


def trained(sites: Sites, protocol: FederatedProtocol, rounds: int = 1) -> float:
    return float(sites.play(protocol, rounds).value["w"])


def test_fedavg_weighs_by_examples(tmp_path: Path) -> None:
    a, b = 2.0, -1.0
    assert trained(pulling(tmp_path), FedAvg()) == (1 * a + 3 * b) / 4


def test_fedprox_pulls_back_to_where_the_round_began(tmp_path: Path) -> None:
    a = 1.0 - 0.25 * ((1.0 - 4.0) + 1.0 * (1.0 - 0.0))
    b = -0.5 - 0.25 * ((-0.5 + 2.0) + 1.0 * (-0.5 - 0.0))
    sites = pulling(tmp_path, lr=0.25, num_updates=2)
    assert trained(sites, FedProx(mu=1.0)) == (1 * a + 3 * b) / 4 == -0.1875
    assert trained(sites, FedProx(mu=0.0)) == trained(sites, FedAvg())


def test_fedopt_takes_the_average_as_a_direction(tmp_path: Path) -> None:
    sites = pulling(tmp_path)
    protocol = with_optimizer(FedAvg(), FedAdam(lr=1.0, tau=1.0, betas=(0.5, 0.5)))
    assert isinstance(protocol, FedOpt)
    delta = -0.25
    m, v = 0.5 * delta, 0.5 * 1.0 + 0.5 * delta**2
    w = m / (math.sqrt(v) + 1.0)
    assert trained(sites, protocol) == pytest.approx(w, rel=1e-6)
    delta = (1 * (4.0 - w) + 3 * (-2.0 - w)) / 4 * 0.5
    m, v = 0.5 * m + 0.5 * delta, 0.5 * v + 0.5 * delta**2
    assert trained(sites, protocol, rounds=2) == pytest.approx(w + m / (math.sqrt(v) + 1.0), rel=1e-6)


def test_fednova_takes_out_how_many_steps_a_node_made(tmp_path: Path) -> None:
    sites = pulling(tmp_path, each={"b": {"num_updates": 2}})
    direction_a, direction_b = -2.0 / 1, 1.5 / 2
    steps = (1 * 1 + 3 * 2) / 4
    expected = 0.0 - steps * (1 * direction_a + 3 * direction_b) / 4
    assert trained(sites, FedNova()) == expected == -0.109375
    assert trained(sites, FedAvg()) == (1 * 2.0 + 3 * -1.5) / 4


def test_fednova_counts_what_momentum_adds(tmp_path: Path) -> None:
    sites = pulling(tmp_path, each={"b": {"num_updates": 2}}, momentum=0.5)
    # b: -1, then a velocity of 0.5 * 2 + 1 from there; it gave its gradients the weights 1.5 and 1
    moved_b = -1.0 - 0.5 * (0.5 * 2.0 + 1.0)
    steps = (1 * 1.0 + 3 * 2.5) / 4
    expected = -steps * (1 * (-2.0 / 1.0) + 3 * (-moved_b / 2.5)) / 4
    found = trained(sites, FedNova())
    assert found == pytest.approx(expected, rel=1e-6)
    # momentum begins anew in every round, as in the paper: the second starts like the first
    again = trained(sites, FedNova(), rounds=2)
    a, b = found + 0.5 * (4.0 - found), found + 0.5 * (-2.0 - found)
    b = b + 0.5 * (0.5 * (-2.0 - found) + (-2.0 - b))
    assert again == pytest.approx(found - steps * ((found - a) + 3 * (found - b) / 2.5) / 4, rel=1e-5)


@pytest.mark.parametrize(("momentum", "num_updates"), [(0.0, 5), (0.9, 1), (0.9, 7), (0.5, 40)])
def test_the_weight_of_gradients_is_the_papers_closed_form(momentum: float, num_updates: int) -> None:
    class Stub:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=momentum)

    k, rho = num_updates, momentum
    expected = (k - rho * (1 - rho**k) / (1 - rho)) / (1 - rho)
    assert gradient_weight(Stub(), k) == pytest.approx(expected)


def test_the_weight_of_gradients_of_nesterov_is_how_far_ones_would_move_it() -> None:
    class Stub:
        weight = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, nesterov=True)

    for _ in range(6):
        Stub.weight.grad = torch.ones(1)
        Stub.optimizer.step()
    assert gradient_weight(Stub(), 6) == pytest.approx(-Stub.weight.item())


def test_qfedavg_listens_to_the_node_with_the_higher_loss(tmp_path: Path) -> None:
    loss_a, loss_b, lipschitz = 8.0, 2.0, 2.0
    change_a, change_b = lipschitz * (0.0 - 2.0), lipschitz * (0.0 + 1.0)
    h_a = 1 * loss_a**0 * change_a**2 + lipschitz * loss_a
    h_b = 1 * loss_b**0 * change_b**2 + lipschitz * loss_b
    expected = 0.0 - (loss_a * change_a + loss_b * change_b) / (h_a + h_b)
    sites = pulling(tmp_path)
    assert trained(sites, QFedAvg(q=1.0)) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.7)
    assert trained(sites, QFedAvg(q=1.0, lipschitz=2.0)) == pytest.approx(0.7, rel=1e-6)
    assert trained(sites, QFedAvg(q=0.0)) == (2.0 - 1.0) / 2  # every node alike


def test_ditto_keeps_a_model_near_the_shared_one(tmp_path: Path) -> None:
    sites = pulling(tmp_path, lr=0.25)
    played = sites.play(Ditto(lam=1.0), 2)
    shared = (1 * 1.0 + 3 * -0.5) / 4  # after the first round
    a = 1.0 - 0.25 * ((1.0 - 4.0) + 1.0 * (1.0 - shared))
    b = -0.5 - 0.25 * ((-0.5 + 2.0) + 1.0 * (-0.5 - shared))
    assert float(played.node_states["a"]["personal"]["w"]) == a == 1.46875
    assert float(played.node_states["b"]["personal"]["w"]) == b == -0.78125
    assert float(played.value["w"]) == trained(sites, FedAvg(), rounds=2)


def test_dittos_two_trainings_have_a_momentum_each(tmp_path: Path) -> None:
    sites = pulling(tmp_path, momentum=0.5)
    alone = sites.play(Ditto(lam=0.0), 3).node_states["a"]["personal"]["w"]
    # what a would come to by itself: 0.5 * momentum carried over from round to round
    w = velocity = 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + (w - 4.0)
        w -= 0.5 * velocity
    assert float(alone) == w
    assert trained(sites, Ditto(lam=0.0), rounds=3) == trained(sites, FedAvg(), rounds=3)


def test_fedper_averages_the_base_and_leaves_the_head(tmp_path: Path) -> None:
    sites = pulling(tmp_path, PullTwo, lr=0.25)
    played = sites.play(FedPer(["head"]), 2)
    base = (1 * 1.0 + 3 * -0.5) / 4
    step_a, step_b = 0.25 * (base + 1.0 - 4.0), 0.25 * (base - 0.5 + 2.0)
    assert float(played.value["base"]) == (1 * (base - step_a) + 3 * (base - step_b)) / 4 == -0.1875
    assert float(played.node_states["a"]["own"]["head"]) == 1.0 - step_a
    assert float(played.node_states["b"]["own"]["head"]) == -0.5 - step_b
    assert float(played.value["head"]) == 0.0  # as it began: the researcher never saw another


def test_fine_tuning_goes_on_from_the_shared_model(tmp_path: Path) -> None:
    played = pulling(tmp_path).play(FineTuned(num_updates=2), 1)
    shared = -0.25
    assert float(played.value["w"]) == shared
    assert float(played.node_states["a"]["personal"]["w"]) == shared + (4.0 - shared) * 0.75
    assert float(played.node_states["b"]["personal"]["w"]) == shared + (-2.0 - shared) * 0.75
    assert played.asks == [("train", ("a", "b")), ("fine_tune", ("a", "b"))]


def test_cyclic_transfer_goes_from_node_to_node(tmp_path: Path) -> None:
    sites = pulling(tmp_path)
    after_a = 0.0 + (4.0 - 0.0) / 2
    after_b = after_a + (-2.0 - after_a) / 2
    assert trained(sites, Cyclic(order="fixed"), rounds=1) == after_b
    assert trained(sites, Cyclic(order="fixed", round="visit"), rounds=1) == after_a
    assert trained(sites, Cyclic(order="fixed", round="visit"), rounds=2) == after_b
    assert sites.play(Cyclic(order="fixed"), 2).asks == [
        ("train_1", ("a",)),
        ("train_2", ("b",)),
        ("train_1", ("a",)),
        ("train_2", ("b",)),
    ]


def test_a_random_cycle_is_drawn_anew_and_visits_everybody() -> None:
    nodes = [f"n{number}" for number in range(6)]
    cycles = [Cyclic().cycle(nodes, 7, number) for number in range(20)]
    assert all(sorted(cycle) == nodes for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 15
    assert len({cycle[0] for cycle in cycles}) == 6
    assert cycles[3] == Cyclic().cycle(reversed(nodes), 7, 3)
    assert cycles[3] != Cyclic().cycle(nodes, 8, 3)


def test_a_node_may_make_more_steps_than_others(tmp_path: Path) -> None:
    sites = pulling(tmp_path, each={"a": {"num_updates": 2}, "b": {"epochs": 3}})
    a, b = 4.0 * (1 - 0.5**2), -2.0 * (1 - 0.5**3)
    assert trained(sites, FedAvg()) == (1 * a + 3 * b) / 4


@pytest.mark.parametrize(
    "protocol",
    [FedAvg(), FedProx(0.5), FedOpt(FedAvgM(momentum=0.0)), FedNova(), Ditto()],
    ids=lambda protocol: protocol.name,
)
def test_one_full_step_at_every_node_is_one_step_on_the_pooled_data(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    w = 0.0
    for _ in range(4):
        w -= 0.1 * (1 * (w - 4.0) + 3 * (w + 2.0)) / 4
    assert trained(pulling(tmp_path, lr=0.1), protocol, rounds=4) == pytest.approx(w, rel=1e-5)


class Normalised(TorchPlan):
    """A layer, batch normalisation, a layer."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        _, targets = dataset.arrays()
        noise = torch.linspace(-1, 1, 8)[:, None]
        target = torch.as_tensor(targets).mean()
        return target / 8 + noise, target + noise

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return ((model(batch[0]) - batch[1]) ** 2).mean()


def test_fedbn_leaves_batch_normalisation_at_its_node(tmp_path: Path) -> None:
    sites = pulling(tmp_path, Normalised, lr=0.1)
    first, played = sites.first(), sites.play(FedBN(), 2)
    own = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(played.node_states["a"]["own"]) == own
    assert all(played.value[name].equal(first[name]) for name in own)
    states = [played.node_states[node]["own"]["1.running_mean"] for node in "ab"]
    assert not states[0].equal(states[1])
    assert not played.value["0.weight"].equal(first["0.weight"])


@pytest.mark.parametrize("protocol", [FedOpt(FedAdam(lr=1.0)), FedNova()], ids=["fedopt", "fednova"])
def test_buffers_are_averaged_whatever_becomes_of_the_rest(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    sites = pulling(tmp_path, Normalised, each={"b": {"num_updates": 3}}, lr=0.1)
    found, plain = sites.play(protocol, 1).value, sites.play(FedAvg(), 1).value
    assert all(found[f"1.{name}"].allclose(plain[f"1.{name}"]) for name in ("running_mean", "running_var"))
    assert found["1.num_batches_tracked"].item() == plain["1.num_batches_tracked"].item() == 2  # of 1 and 3
    assert not found["0.weight"].allclose(plain["0.weight"], rtol=1e-3)


def test_qfedavg_leaves_a_variance_between_those_of_the_nodes(tmp_path: Path) -> None:
    sites = pulling(tmp_path, Normalised, lr=0.1, num_updates=3)
    of_a = sites.play(Cyclic(order="fixed", round="visit"), 1).value["1.running_var"]
    # both nodes' inputs vary alike, so that any average of their variances is theirs
    assert sites.play(QFedAvg(2.0), 1).value["1.running_var"].allclose(of_a, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FedProx(mu=-1.0), "FedProx(mu=...) is a number of 0 or more"),
        (lambda: FedProx(mu="much"), "not 'much'"),
        (lambda: FedOpt("adam"), "did you mean 'fedadam'"),
        (lambda: FedOpt({"name": "fedadam"}), "as data"),
        (lambda: FedOpt(3), "a optimizer is"),
        (lambda: with_optimizer(Ditto(), "fedadam"), "not with ditto"),
        (lambda: QFedAvg(q=-0.1), "QFedAvg(q=...)"),
        (lambda: QFedAvg(lipschitz=0), "above 0"),
        (lambda: Ditto(lam=math.inf), "Ditto(lam=...)"),
        (lambda: FedPer([]), "FedPer(personal=...)"),
        (lambda: FedPer("head"), "FedPer(personal=...)"),
        (lambda: FineTuned(), "one of the two"),
        (lambda: FineTuned(num_updates=1, epochs=1), "one of the two"),
        (lambda: FineTuned(epochs=0), "FineTuned(epochs=...) is a whole number of 1 or more"),
        (lambda: Cyclic(order="up"), "'fixed' or 'random'"),
        (lambda: Cyclic(round="day"), "'cycle' or 'visit'"),
        (lambda: FedProx(mu=0.1).check_plan(SklearnPlan), "FedProx(mu=0.1) corrects gradients"),
        (lambda: Scaffold().check_plan(SklearnPlan), "Scaffold() corrects gradients"),
        (lambda: FedPer(["tail"]).check({"base": 1, "head": 2}), "no parameter is named 'tail'"),
        (lambda: FedPer(["*"]).check({"base": 1, "head": 2}), "nothing is shared"),
        (lambda: FedBN().check({"base": 1}), "this model has none"),
    ],
)
def test_wrong_settings_are_refused_in_words(make: Any, says: str) -> None:
    with pytest.raises((SpecError, PlanError)) as caught:
        make()
    assert says in str(caught.value)
