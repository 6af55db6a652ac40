"""Jobs under secure aggregation on sites of this process: what comes out is what comes out without it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob import (
    PCA,
    Cyclic,
    Ditto,
    FedAdam,
    FedAvg,
    FedBuff,
    FedNova,
    FedProx,
    FineTuned,
    Guard,
    Job,
    JobFailed,
    KaplanMeier,
    KMeans,
    LinearRegression,
    LogisticRegression,
    PowerOfChoice,
    Protect,
    QFedAvg,
    Scaffold,
    SecAgg,
    SpecError,
    TrimmedMean,
)
from fedjob.parameters.safetensors_header import read_schema
from fedjob.protocols.analytics.cox import CoxRegression
from fedjob.protocols.analytics.statistics import Statistics
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.folder import JobFolder
from tests.data import make_points
from tests.foreign import accept
from tests.plans import Linear, Tiny

ARGS = {"lr": 0.05, "num_updates": 2, "batch_size": 20, "test_ratio": 0.2, "test_on_global_updates": True}


class Corrected(Linear):
    """A plan whose optimizer can be corrected."""

    aux_modules = ("scaffold",)


class Scored(Tiny):
    """A plan that is tested on the scores of its examples."""

    def testing_step(self, model: Any, batch: Any) -> Any:
        inputs, targets = batch
        return torch.softmax(model(inputs), 1)[:, 1], targets


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return four sites of different sizes."""
    folder = tmp_path_factory.mktemp("points")
    return {name: str(make_points(folder / f"{name}.npz", 40 + 10 * k, k)) for k, name in enumerate("abcd")}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return four tables; one has a single sex, and all have missing ages."""
    folder, rng, found = tmp_path_factory.mktemp("tables"), np.random.default_rng(0), {}
    for k, name in enumerate("abcd"):
        size = 80 + 20 * k
        age = rng.integers(30, 80, size).astype(float)
        age[:3] = np.nan
        x = rng.normal(size=size)
        frame = pd.DataFrame(
            {
                "age": age,
                "sex": rng.choice(["f", "m"], size) if k else ["f"] * size,
                "x": x,
                "y": (x + 0.02 * np.nan_to_num(age, nan=50) + rng.normal(size=size) > 1).astype(int),
                "time": rng.exponential(5, size).round(2) + 0.1,
                "event": rng.integers(0, 2, size),
            }
        )
        frame.to_csv(folder / f"{name}.csv", index=False)
        found[name] = str(folder / f"{name}.csv")
    return found


def run(operation: Any, data: Mapping[str, str], home: Path, **changes: Any) -> Job:
    job = Job(operation, data=data, nodes="local", seed=3, home=home, **changes)
    job.run(progress=False)
    return job


def test_many_sites_with_few_neighbours_have_the_sums_of_the_plain_job(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    many = {f"s{k}": str(tmp_path / f"s{k}.csv") for k in range(22)}
    for path in many.values():
        pd.DataFrame({"x": rng.integers(0, 50, 20), "y": rng.normal(size=20)}).to_csv(path, index=False)
    operation = Statistics(count=["x"], mean=["x", "y"], std=["y"], histogram={"x": [0, 25, 50]})
    plain = run(operation, many, tmp_path).result.value
    secure = run(operation, many, tmp_path, protect=SecAgg(colluding=0.1))
    _same(plain, secure.result.value)
    pd.testing.assert_frame_equal(plain["histogram"], secure.result.value["histogram"])


def weights(job: Job) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in job.result.params.values()])


@pytest.mark.parametrize(
    ("protocol", "plan", "more"),
    [
        (FedAvg(), Tiny, {}),
        (FedProx(), Linear, {}),
        (FedAvg(), Linear, {"server_optimizer": FedAdam(lr=0.01)}),
        (FedNova(), Linear, {}),
        (QFedAvg(), Linear, {}),
        (Scaffold(), Corrected, {}),
        (Scaffold(weighted=False), Corrected, {}),
        (Ditto(), Linear, {}),
        (FineTuned(num_updates=2), Linear, {}),
        (FedAvg(), Linear, {"aggregator": "plain_mean"}),
    ],
    ids=str,
)
def test_a_model_is_that_of_the_plain_job(
    points: dict[str, str], tmp_path: Path, protocol: Any, plan: Any, more: dict[str, Any]
) -> None:
    about = {"training_plan": plan, "training_args": ARGS, "rounds": 2, **more}
    plain = run(protocol, points, tmp_path, **about)
    secure = run(protocol, points, tmp_path, **about, protect=SecAgg())
    assert (weights(plain) - weights(secure)).abs().max() < 1e-6
    measured = {
        (row.round, row.phase, row.metric): row.value for row in plain.position.rows if row.node == "all"
    }
    assert {(row.round, row.phase, row.metric): row.value for row in secure.position.rows} == pytest.approx(
        measured, abs=1e-6
    )


OPERATIONS = {
    "statistics": Statistics(
        mean=["age", "x"],
        std=["age"],
        quantiles=["x"],
        histogram={"age": [0, 40, 60, 100]},
        categories=["sex"],
        by=["sex"],
        correlation=["age", "x"],
        table=["sex", "event"],
    ),
    "linear": LinearRegression(target="x", features=["age", "sex"], categorical=["sex"]),
    "logistic": LogisticRegression(target="y", features=["age", "x"]),
    "cox": CoxRegression(duration="time", event="event", features=["age", "x"]),
    "cox, shared": CoxRegression(duration="time", event="event", features=["age"], baseline="shared"),
    "survival": KaplanMeier(duration="time", event="event", by="sex"),
    "kmeans": KMeans(features=["age", "x"], clusters=3),
    "pca": PCA(features=["age", "x"]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_statistics_and_regressions_are_those_of_the_plain_job(
    tables: dict[str, str], tmp_path: Path, name: str
) -> None:
    plain = run(OPERATIONS[name], tables, tmp_path).result.value
    secure = run(OPERATIONS[name], tables, tmp_path, protect=Protect(secagg=True)).result.value
    _same(plain, secure)
    assert set(secure["nodes"].values()) == {None}
    assert secure["coverage"]["node"].tolist() == ["all"]
    assert secure["coverage"]["used"].sum() == plain["coverage"]["used"].sum()


def _same(plain: Any, secure: Any) -> None:
    """Compare results but for what is about single nodes."""
    if isinstance(plain, Mapping):
        assert plain.keys() == secure.keys()
        for key in plain.keys() - {"nodes", "coverage", "withheld", "joined", "present"}:
            _same(plain[key], secure[key])
    elif isinstance(plain, pd.DataFrame):
        pd.testing.assert_frame_equal(plain, secure, rtol=1e-8, atol=1e-9)
    elif isinstance(plain, str) or (isinstance(plain, list) and any(isinstance(x, str) for x in plain)):
        assert plain == secure
    else:
        np.testing.assert_allclose(
            np.asarray(plain, dtype=float), np.asarray(secure, dtype=float), rtol=1e-7, atol=1e-9
        )


def test_the_area_under_the_curve_is_that_of_the_plain_job_within_its_bound(
    points: dict[str, str], tmp_path: Path
) -> None:
    args = {**ARGS, "test_ratio": 0.5, "test_metric": ["roc_auc", "accuracy", "confusion_matrix"]}
    about = {"training_plan": Scored, "training_args": args, "rounds": 1}
    jobs = [run(FedAvg(), points, tmp_path, **about, protect=protect) for protect in (None, SecAgg())]
    plain, secure = (
        {(row.phase, row.metric): row for row in job.position.rows if row.node == "all"} for job in jobs
    )
    assert plain.keys() == secure.keys()
    for key in (key for key in plain if key[1] == "roc_auc"):
        assert 0 < secure[key].error < 0.25
        assert abs(secure[key].value - plain[key].value) <= secure[key].error + plain[key].error
        assert secure[key].error >= plain[key].error
    pictures = [[job.result.plot(name) for name in ("roc", "confusion")] for job in jobs]
    names = [[text.get_text()[:4] for text in roc.legends[0].get_texts()] for roc, _ in pictures]
    assert names[0] == ["a: 0", "b: 0", "c: 0", "d: 0", "all ", "all "]
    assert names[1] == ["all ", "all "]  # of single nodes nothing is known, and nothing is drawn
    cells = [[text.get_text() for text in matrix.axes[0].texts] for _, matrix in pictures]
    assert cells[0] == cells[1]
    assert len(cells[0]) == 4


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return six sites of different sizes."""
    folder = tmp_path_factory.mktemp("six")
    return {name: str(make_points(folder / f"{name}.npz", 30 + 5 * k, k)) for k, name in enumerate("abcdef")}


BUFFERED = {"training_args": {**ARGS, "test_on_global_updates": False}, "rounds": 4, "keep_breakpoints": 5}


@pytest.mark.parametrize(
    ("protocol", "plan"),
    [(FedBuff(k=3), Linear), (FedBuff(k=3, weighted=True, server_lr=0.5), Tiny)],
    ids=["alike", "weighted, with buffers"],
)
def test_buffers_of_cohorts_are_those_of_the_plain_job(
    six: dict[str, str], tmp_path: Path, protocol: Any, plan: Any
) -> None:
    plain, secure = (
        run(protocol, six, tmp_path, training_plan=plan, **BUFFERED, protect=protect)
        for protect in (None, SecAgg())
    )
    assert (weights(plain) - weights(secure)).abs().max() < 1e-5
    # those who were at work go first, with what they began with a round before
    arrived = [sorted(map(tuple, one.arrived)) for one in secure.position.ledger]
    assert arrived == [sorted(map(tuple, one.arrived)) for one in plain.position.ledger]
    assert arrived[:2] == [[(name, 1) for name in "abc"], [(name, 1) for name in "def"]]
    assert sorted(secure.position.under_way) == sorted(plain.position.under_way) != []


def test_a_sum_waits_for_those_who_would_be_too_few_by_themselves(
    six: dict[str, str], tmp_path: Path
) -> None:
    five = {name: path for name, path in six.items() if name != "f"}
    job = run(FedBuff(k=3), five, tmp_path, training_plan=Linear, **BUFFERED, protect=SecAgg())
    arrived = [sorted(map(tuple, one.arrived)) for one in job.position.ledger]
    assert arrived == [[(name, round_) for name in "abcde"] for round_ in (1, 2, 3, 4)]
    assert job.position.under_way == {}


def test_a_resumed_buffer_of_cohorts_ends_in_the_same_bytes(six: dict[str, str], tmp_path: Path) -> None:
    whole = run(FedBuff(k=3), six, tmp_path / "whole", training_plan=Linear, **BUFFERED, protect=SecAgg())
    moved = tmp_path / "moved"
    (whole.folder / "breakpoints" / "round_0001").rename(moved)
    resumed = accept(moved, home=tmp_path / "resumed")
    resumed.run(progress=False)
    assert (weights(whole) == weights(resumed)).all()
    assert [one.arrived for one in whole.position.ledger] == [one.arrived for one in resumed.position.ledger]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return nine sites; the data of one are a thousand times as large as they should be."""
    folder = tmp_path_factory.mktemp("nine")
    found = {name: make_points(folder / f"{name}.npz", 40, k) for k, name in enumerate("abcdefghi")}
    spoilt = dict(np.load(found["a"]))
    spoilt["y"] = spoilt["y"] * 1000
    np.savez(found["a"], **spoilt)
    return {name: str(path) for name, path in found.items()}


@pytest.mark.parametrize("rule", ["median", TrimmedMean()], ids=["median", "trimmed mean"])
def test_the_median_of_groups_of_three_is_not_led_astray_by_one_node(
    nine: dict[str, str], tmp_path: Path, rule: Any
) -> None:
    about = {"training_plan": Linear, "training_args": {**ARGS, "test_on_global_updates": False}, "rounds": 1}
    honest = run(FedAvg(), {k: v for k, v in nine.items() if k != "a"}, tmp_path, **about)
    settings = SecAgg(groups=3, clip=1000.0)
    robust = run(FedAvg(), nine, tmp_path, **about, aggregator=rule, protect=settings)
    led = run(FedAvg(), nine, tmp_path, **about, protect=SecAgg(clip=1000.0))
    assert (weights(robust) - weights(honest)).abs().max() < 0.1
    assert (weights(led) - weights(honest)).abs().max() > 1.0


def test_too_few_nodes_for_groups_are_refused_before_anybody_computes(
    points: dict[str, str], tmp_path: Path
) -> None:
    about = {"training_plan": Linear, "training_args": ARGS, "rounds": 1, "aggregator": "median"}
    with pytest.raises(
        (SpecError, JobFailed), match=r"SecAgg\(groups=3, min_nodes=3\) needs 9 nodes or more, but"
    ):
        run(FedAvg(), points, tmp_path, **about, protect=SecAgg(groups=3))


def test_counts_are_exact(tables: dict[str, str], tmp_path: Path) -> None:
    operation = Statistics(count=["age"], histogram={"age": [0, 40, 60, 100]}, categories=["sex"])
    plain, secure = (
        run(operation, tables, tmp_path, protect=protect).result.value for protect in (None, SecAgg())
    )
    for key in ("rows", "histogram", "categories"):
        pd.testing.assert_frame_equal(plain[key], secure[key])


def test_more_change_than_the_clip_counts_as_the_clip_and_is_said(
    points: dict[str, str], tmp_path: Path
) -> None:
    secure = run(
        FedAvg(),
        points,
        tmp_path,
        training_plan=Linear,
        training_args=ARGS,
        rounds=1,
        protect=SecAgg(clip=1e-4),
    )
    assert weights(secure).abs().max() <= 1e-4 + 1e-9
    (note,) = [event.body["text"] for event in secure.events() if event.type == "note"]
    assert re.match(
        r"\d+ parameters, of all nodes together, changed by more than SecAgg\(clip=0.0001\)", note
    )


def test_sixteen_bits_are_coarser(points: dict[str, str], tmp_path: Path) -> None:
    about = {"training_plan": Linear, "training_args": ARGS, "rounds": 1}
    plain = run(FedAvg(), points, tmp_path, **about)
    coarse = run(FedAvg(), points, tmp_path, **about, protect=SecAgg(bits=16, clip=1.0))
    off = (weights(plain) - weights(coarse)).abs().max()
    assert 1e-6 < off < 16 / 2**16


def test_eight_bits_of_each_node_are_a_third_of_the_bytes_and_a_sum_that_is_not_off(
    points: dict[str, str], tmp_path: Path
) -> None:
    about = {"training_plan": Linear, "training_args": ARGS, "rounds": 3, "keep": True}
    plain = run(FedAvg(), points, tmp_path, **about)
    bits, clip = 8 + math.ceil(math.log2(len(points))), 0.5
    coarse = run(FedAvg(), points, tmp_path, **about, protect=SecAgg(bits=bits, clip=clip))
    again = run(FedAvg(), points, tmp_path, **about, protect=SecAgg(bits=bits, clip=clip))
    assert (weights(coarse) == weights(again)).all(), "rounding depends on the contribution alone"
    off = (weights(plain) - weights(coarse)).abs().max()
    assert 0 < off < 3 * 2 * clip * len(points) ** 2 / 2**bits
    paths = [*coarse.folder.rglob("masked_*.safetensors")]
    assert paths
    for path in paths:
        dtype, (stored,) = read_schema(path)["tensors"]
        assert (dtype, stored) == ("U8", -(-weights(plain).numel() // 8) * bits)


def test_keys_come_with_the_contributions_so_that_the_first_attempt_is_the_only_one(
    points: dict[str, str], tmp_path: Path
) -> None:
    about = {"training_plan": Linear, "training_args": ARGS, "rounds": 2, "keep": True}
    secure = run(FedAvg(), points, tmp_path, **about, protect=SecAgg())
    vectors = {path.name for path in secure.folder.rglob("masked_*.safetensors")}
    assert vectors == {
        f"masked_{node}_1.safetensors" for node in points
    }  # the second attempt has keys of its own


@pytest.mark.parametrize(
    "settings", [{"clip": 1}, {"max_weight": 100}, {"clip": 2, "max_weight": 300}], ids=str
)
def test_settings_that_are_whole_numbers_do(
    points: dict[str, str], tmp_path: Path, settings: dict[str, Any]
) -> None:
    about = {"training_plan": Linear, "training_args": ARGS, "rounds": 1}
    plain = run(FedAvg(), points, tmp_path, **about)
    secure = run(FedAvg(), points, tmp_path, **about, protect=SecAgg(**settings))
    assert (weights(plain) - weights(secure)).abs().max() < 1e-6


def test_verify_says_that_a_secure_sum_cant_be_computed_again(points: dict[str, str], tmp_path: Path) -> None:
    secure = run(
        FedAvg(),
        points,
        tmp_path,
        training_plan=Linear,
        training_args=ARGS,
        rounds=2,
        protect=SecAgg(),
        keep=True,
    )
    checks = verify_job(JobFolder(secure.folder))
    assert {check.verdict for check in checks} == {"secure sum"}
    assert "no single contribution is known" in checks[0].detail


def largest(values, weights):  # type: ignore[no-untyped-def]
    """Return the contribution with the largest weight."""
    return values[weights.index(max(weights))]


@pytest.mark.parametrize(
    ("operation", "more", "words"),
    [
        (FedAvg(), {"aggregator": "median"}, "the aggregator median compares contributions"),
        (FedAvg(), {"aggregator": largest}, "compares contributions"),
        (FedAvg(), {"aggregator": "krum"}, r"or use groups: aggregator='median' .* SecAgg\(groups=3\)"),
        (FedAvg(), {"protect": SecAgg(groups=3)}, r"SecAgg\(groups=...\) is for the means"),
        (
            FedAvg(),
            {"aggregator": TrimmedMean(num_trimmed=2), "protect": SecAgg(groups=3)},
            r"TrimmedMean\(num_trimmed=2\) needs 5 nodes or more, but",
        ),
        (FedAvg(), {"guard": Guard(max_norm=1.0)}, r"SecAgg\(clip=...\) bounds"),
        (
            FedAvg(),
            {"selector": PowerOfChoice(2)},
            "goes by every node's loss",
        ),
        (FedBuff(k=2), {}, r"under secure aggregation a sum is of 3 nodes or more: take FedBuff\(k=3\)"),
        (Cyclic(), {}, "it passes one node's model on"),
        (Scaffold(kept_by="researcher"), {"training_plan": Corrected}, "kept_by='node' does not"),
        (Statistics(min=["age"]), {"training_plan": None}, "smallest and largest values"),
    ],
    ids=[
        "median",
        "own",
        "krum",
        "groups",
        "trimmed",
        "norm",
        "losses",
        "buffer",
        "cyclic",
        "scaffold",
        "extremes",
    ],
)
def test_what_needs_single_contributions_is_refused_when_the_job_is_made(
    points: dict[str, str], tmp_path: Path, operation: Any, more: dict[str, Any], words: str
) -> None:
    arguments = {"training_plan": Linear, "training_args": ARGS, **more}
    make = {"data": points, "nodes": "local", "home": tmp_path, "protect": SecAgg(), **arguments}
    with pytest.raises(SpecError, match=words):
        Job(operation, **make)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_nodes": 2}, "3 or more"),
        ({"clip": 0.0}, "above 0"),
        ({"clip": float("nan")}, "above 0"),
        ({"bits": 7}, "8 to 16, or 32"),
        ({"threshold": 1}, "more than half"),
        ({"max_weight": -1.0}, "above 0"),
        ({"min_nodes": "3"}, "min_nodes"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        SecAgg(**settings)


def test_two_nodes_are_too_few_which_an_error_says_before_the_first_round(
    points: dict[str, str], tmp_path: Path
) -> None:
    two = {name: points[name] for name in "ab"}
    with pytest.raises(
        SpecError, match=r"SecAgg\(min_nodes=3\) needs 3 nodes or more, but 2 have the job's data"
    ):
        run(FedAvg(), two, tmp_path, training_plan=Linear, training_args=ARGS, protect=SecAgg())
