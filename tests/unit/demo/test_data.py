"""How the demo deals out its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedjob.demo.data import MIN_ROWS, Shares, deal, deal_patients
from fedjob.demo.watching import of_shared_model
from fedjob.researcher.storage.measurements import Measurement

NODES = ["a", "b", "c", "d"]


def rows_of(shares: Shares) -> list[bytes]:
    """Return every row of all nodes, and those of the common test."""
    parts = [np.load(path, allow_pickle=False)["x"] for path in shares.parts.values()]
    return [row.tobytes() for row in np.concatenate([*parts, shares.test[0]])]


def test_every_image_goes_to_one_node_or_to_the_common_test(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    shares = deal(tmp_path, NODES, alpha=0.3, seed=7)
    everything = (load_digits(return_X_y=True)[0] / 16).astype(np.float32)
    assert sorted(rows_of(shares)) == sorted(row.tobytes() for row in everything)
    pooled = np.load(shares.pool_path, allow_pickle=False)
    assert len(pooled["y"]) == sum(shares.num_rows.values())
    assert all(sum(shares.counts[node]) == shares.num_rows[node] for node in NODES)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 100])
def test_nodes_have_enough_to_look_at_and_small_alphas_make_them_differ(tmp_path: Path, alpha: float) -> None:
    shares = deal(tmp_path, NODES, alpha=alpha, seed=3)
    assert min(shares.num_rows.values()) >= MIN_ROWS
    counts = np.array(list(shares.counts.values()))
    unevenness = (counts.max(axis=0) / counts.sum(axis=0)).mean()
    assert unevenness > 0.5 if alpha < 1 else unevenness < 0.4


def test_the_same_seed_deals_the_same(tmp_path: Path) -> None:
    first, second = (deal(tmp_path / name, NODES, alpha=0.3, seed=1) for name in "xy")
    assert first.counts == second.counts
    assert first.counts != deal(tmp_path / "z", NODES, alpha=0.3, seed=2).counts


def test_what_is_measured_before_a_round_is_of_the_model_of_the_rounds_before() -> None:
    rows = [
        Measurement(round=round_, phase=phase, metric="loss", node="all", value=value, num_examples=9)
        for round_, phase, value in [(1, "before", 2.0), (1, "after", 1.5), (2, "before", 1.0), (2, "validate", 0.5)]
    ]  # fmt: skip
    found = of_shared_model(rows)
    assert {trained: cells["all"]["loss"] for trained, cells in found.items()} == {0: 2.0, 1: 1.0, 2: 0.5}


def test_every_patient_goes_to_one_node(tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    files = deal_patients(tmp_path, NODES, seed=7)
    tables = [np.genfromtxt(path, delimiter=",", names=True) for path in files.values()]
    study = load_breast_cancer()
    assert sorted(round(radius, 6) for table in tables for radius in table["mean_radius"]) == sorted(
        round(radius, 6) for radius in study.data[:, 0]
    )
    assert sum(table["malignant"].sum() for table in tables) == (study.target == 0).sum()
    assert max(map(len, tables)) - min(map(len, tables)) <= 1
