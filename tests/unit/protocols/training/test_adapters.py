"""FlexLoRA and FLoRA: adapters of unequal ranks, averaged by their products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, FlexLoRA, FLoRA, Job, Median, RecordDP, SecAgg, SpecError, TorchPlan, simulate
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.stacked import StackedAdapters
from fedjob.parameters.adapters import Pair, first_ranks, pairs_of, stacked, truncated
from fedjob.parameters.files import FileParams
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.data import make_points

A, B = "0.lora_A.weight", "0.lora_B.weight"
ARGS = {"lr": 0.05, "num_updates": 3, "batch_size": 8, "weight_decay": 0.1}
RANKS = {"a": 1, "b": 2}


class Adapted(TorchPlan):
    """A frozen layer with an adapter of rank 4 beside it, and a head that learns."""

    extra_args = ("weight_decay",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.base = torch.nn.Linear(4, 6)
                self.base.requires_grad_(False)
                self.lora_A = torch.nn.Linear(4, model_args.get("rank", 4), bias=False)
                self.lora_B = torch.nn.Linear(model_args.get("rank", 4), 6, bias=False)
                torch.nn.init.zeros_(self.lora_B.weight)

            def forward(self, inputs):  # type: ignore[no-untyped-def]
                return self.base(inputs) + 2.0 * self.lora_B(self.lora_A(inputs))

        return torch.nn.Sequential(Layer(), torch.nn.Tanh(), torch.nn.Linear(6, 2))

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        trained = [p for p in model.parameters() if p.requires_grad]
        decay = training_args.get("weight_decay", 0.0)
        return torch.optim.AdamW(trained, lr=training_args["lr"], weight_decay=decay)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("points")
    return {name: str(make_points(folder / f"{name}.npz", 40 + 8 * k, k)) for k, name in enumerate("abc")}


def job_of(points: dict[str, str], home: Path, protocol: Any, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Adapted,
        "data": points,
        "nodes": "local",
        "training_args": ARGS,
        "rounds": 2,
        "seed": 5,
        "home": home,
        "keep": True,
    }
    return Job(protocol, **{**arguments, **changes})


def run(*args: Any, **changes: Any) -> Job:
    job = job_of(*args, **changes)
    job.run(progress=False)
    return job


def sent(job: Job, round_: int) -> dict[str, FileParams]:
    folder = JobFolder(job.folder)
    return {node: FileParams(folder.contributions(round_, "train", node)[0]) for node in "abc"}


def mean_product(job: Job, round_: int) -> torch.Tensor:
    """Return the mean of the products that the nodes sent, by their numbers of examples."""
    found, weights = sent(job, round_), {"a": 40, "b": 48, "c": 56}
    return sum(
        (weights[node] / 144 * params[B].double() @ params[A].double() for node, params in found.items()),
        torch.zeros(6, 4, dtype=torch.float64),
    )


def test_a_stack_is_the_mean_of_products_and_what_is_no_adapter_is_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    given = []
    for rank, weight in ((1, 1.0), (3, 2.0), (2, 5.0)):
        value = {
            A: torch.randn(rank, 4, generator=generator),
            B: torch.randn(6, rank, generator=generator),
            "head": torch.full((2,), float(rank)),
        }
        given.append(Contribution(value, weight))
    total = StackedAdapters().aggregate(given)
    expected = sum((c.weight / 8 * c.value[B] @ c.value[A] for c in given), torch.zeros(6, 4))
    assert total.value[A].shape == (6, 4)
    torch.testing.assert_close(total.value[B] @ total.value[A], expected)
    torch.testing.assert_close(total.value["head"], torch.full((2,), (1 + 3 * 2 + 2 * 5) / 8))
    assert total.weight == 8


def test_a_truncation_is_the_best_of_its_rank_and_nested() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(7, 5, generator=generator), torch.randn(6, 7, generator=generator)
    u, values, v = torch.linalg.svd(b @ a)
    for rank in (1, 3, 5, 9):
        new_a, new_b = truncated(a, b, rank)
        kept = min(rank, 5)
        torch.testing.assert_close(
            new_b @ new_a, u[:, :kept] @ torch.diag(values[:kept]) @ v[:kept], rtol=1e-4, atol=1e-4
        )
    large = dict(zip((A, B), truncated(a, b, 5), strict=True))
    small = first_ranks(large, 2)
    for one, other in zip((small[A], small[B]), truncated(a, b, 2), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(stacked([(a, b)], [1.0])[0], a)


def test_flexlora_has_nodes_train_their_ranks_and_divides_the_mean_of_products_anew(
    points: dict[str, str], tmp_path: Path
) -> None:
    job = run(points, tmp_path, FlexLoRA(ranks=RANKS), rounds=1)
    assert {node: len(params[A]) for node, params in sent(job, 1).items()} == {"a": 1, "b": 2, "c": 4}
    params = job.result.params
    assert params[A].shape == (4, 4)
    torch.testing.assert_close((params[B] @ params[A]).double(), mean_product(job, 1), rtol=1e-4, atol=1e-6)
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"equal"}
    model = job.result.model()
    assert torch.equal(model[0].lora_A.weight, params[A])


def test_flora_adds_the_mean_of_products_of_each_round_to_all_before(
    points: dict[str, str], tmp_path: Path
) -> None:
    one = run(points, tmp_path, FLoRA(ranks={"a": 1, "b": 1, "c": 1}), rounds=1)
    assert one.result.params[A].shape == (3, 4)
    torch.testing.assert_close(
        (one.result.params[B] @ one.result.params[A]).double(), mean_product(one, 1), rtol=1e-4, atol=1e-6
    )
    two = run(points, tmp_path, FLoRA(ranks={"a": 1, "b": 1, "c": 1}), rounds=2)
    assert {node: len(params[A]) for node, params in sent(two, 2).items()} == dict.fromkeys("abc", 1)
    product = (one.result.params[B] @ one.result.params[A]).double() + mean_product(two, 2)
    assert two.result.params[A].shape == (4, 4)  # the rank of the layer, in which nothing is lost
    torch.testing.assert_close(
        (two.result.params[B] @ two.result.params[A]).double(), product, rtol=1e-4, atol=1e-6
    )
    assert two.result.model()[0].lora_A.weight.shape == (4, 4)


def test_flora_goes_on_from_an_adapter_that_adds_something_already(
    points: dict[str, str], tmp_path: Path
) -> None:
    before = run(points, tmp_path / "before", FedAvg(), model_args={"rank": 2}).result.params
    assert before[B].any()
    job = run(points, tmp_path / "on", FLoRA(ranks={"a": 1}), model_args={"rank": 2}, init=before, rounds=1)
    product = (before[B] @ before[A]).double() + mean_product(job, 1)
    assert {node: len(params[A]) for node, params in sent(job, 1).items()} == {"a": 1, "b": 2, "c": 2}
    params = job.result.params
    torch.testing.assert_close((params[B] @ params[A]).double(), product, rtol=1e-4, atol=1e-6)
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"equal"}
    still = {"training_args": {**ARGS, "lr": 1e-9}, "model_args": {"rank": 2}, "init": before, "rounds": 1}
    kept = run(points, tmp_path / "still", FLoRA(), **still).result.params
    torch.testing.assert_close(kept[B] @ kept[A], before[B] @ before[A], rtol=1e-4, atol=1e-6)


def test_flexlora_gives_small_nodes_the_largest_components_of_an_adapter_that_was_trained_before(
    points: dict[str, str], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(4, 4, generator=generator), torch.randn(6, 4, generator=generator)
    b[:, 0] = 0.01  # the first component is the smallest
    before = {**run(points, tmp_path / "before", FedAvg(), rounds=1).result.params, A: a, B: b}
    still = {"training_args": {**ARGS, "lr": 1e-9}, "init": before, "rounds": 1}
    job = run(points, tmp_path / "on", FlexLoRA(ranks={"a": 2}), **still)
    new_a, new_b = truncated(a, b, 2)
    found = sent(job, 1)
    torch.testing.assert_close(found["a"][B] @ found["a"][A], new_b @ new_a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["c"][B] @ found["c"][A], b @ a, rtol=1e-4, atol=1e-5)


def test_what_a_protocol_keeps_from_its_first_round_is_sent_in_all_rounds(
    points: dict[str, str], tmp_path: Path
) -> None:
    """The files of a round go two rounds later; what is in them still is then sent from the newest round's."""
    whole = run(points, tmp_path, FLoRA(), rounds=6, keep=False)
    cut = run(points, tmp_path, FLoRA(), rounds=2, keep=False)
    again = Job.resume(cut.breakpoints[-1], rounds=6)
    again.run(progress=False)
    simulated = run(points, tmp_path, FLoRA(), rounds=6, keep=False, nodes=simulate(workers=0))
    found = [hash_file(job.folder / "result" / "params.safetensors") for job in (whole, again, simulated)]
    assert len({*found}) == 1


@pytest.mark.parametrize("protocol", [FlexLoRA(ranks=RANKS), FLoRA(ranks=RANKS)])
def test_a_cut_job_goes_on_to_the_same_bytes(points: dict[str, str], tmp_path: Path, protocol: Any) -> None:
    whole = run(points, tmp_path, protocol, rounds=3)
    cut = run(points, tmp_path, protocol, rounds=1)
    again = Job.resume(cut.breakpoints[-1], rounds=3)
    again.run(progress=False)
    digests = [hash_file(job.folder / "result" / "params.safetensors") for job in (whole, again)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("kind", [FlexLoRA, FLoRA])
@pytest.mark.parametrize(
    ("ranks", "changes", "words"),
    [
        ({"a": 5}, {}, r"ranks gives a rank 5, which is larger than that of the plan's adapters, 4"),
        (
            {},
            {"model_args": {"rank": 5}},
            r"has rank 5, and its layer is of 6 by 4: expected a rank of 4 at most",
        ),
        ({"a": 1}, {"aggregator": Median()}, "has an aggregator of its own: leave aggregator out"),
        ({"a": 1}, {"protect": SecAgg()}, "averages the products of each node's two factors"),
        ({"a": 1}, {"protect": RecordDP(epsilon=5.0, delta=1e-4)}, "does not run under differential privacy"),
    ],
)
def test_what_can_not_be_is_an_error_before_the_first_round(
    points: dict[str, str], tmp_path: Path, kind: Any, ranks: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        job_of(points, tmp_path, kind(ranks=ranks), **changes)


@pytest.mark.parametrize("kind", [FlexLoRA, FLoRA])
def test_a_rank_for_a_node_that_the_job_does_not_have_is_an_error(
    points: dict[str, str], tmp_path: Path, kind: Any
) -> None:
    sites = {f"clinic-{name}": path for name, path in points.items()}
    words = (
        rf"{kind.__name__} names clinic-d, but the job has clinic-a, clinic-b, clinic-c; did you mean clinic-"
    )
    with pytest.raises(SpecError, match=words):
        job_of(sites, tmp_path, kind(ranks={"clinic-a": 2, "clinic-d": 1})).run(progress=False)


@pytest.mark.parametrize("ranks", [{"a": 0}, {"a": 1.5}, {"a": True}, {3: 1}, ["a"], {"a": "4"}])
def test_ranks_are_whole_numbers_by_node(ranks: Any) -> None:
    for kind in (FlexLoRA, FLoRA):
        with pytest.raises(SpecError, match=r"ranks=\.\.\.\)"):
            kind(ranks=ranks)


def test_the_two_factors_are_found_by_name_or_refused() -> None:
    good = {"x.lora_A.default.weight": torch.zeros(2, 3), "x.lora_B.default.weight": torch.zeros(4, 2)}
    assert pairs_of(good) == (Pair(*good),)
    with pytest.raises(SpecError, match=r"has no x.lora_B.default.weight beside it"):
        pairs_of({"x.lora_A.default.weight": torch.zeros(2, 3)})
    with pytest.raises(SpecError, match=r"adapters of linear layers"):
        pairs_of({**good, "x.lora_B.default.weight": torch.zeros(4, 3)})
    with pytest.raises(SpecError, match="ranks are of low-rank adapters, and the model trains none"):
        FlexLoRA(ranks={"a": 1}).check({"w": torch.zeros(2)})
    FedAvg().check(good)
