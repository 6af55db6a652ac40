"""The demo's data, both shipped with scikit-learn: digits, divided unevenly among the nodes, and a table of patients."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.files import make_folder

if TYPE_CHECKING:
    import numpy as np

NUM_CLASSES = 10
TEST_FRACTION = 0.25
MIN_ROWS = 40
"""The least rows of a node: validation on fewer would be too noisy to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The division of the data among the nodes.

    Args:
        parts: node -> npz file of its own rows.
        pool_path: npz file of all nodes' rows together, which no real federation has.
        counts: node -> number of rows of each digit.
        test: inputs and targets that nobody trains on, float32 `[rows, 64]` and int64 `[rows]`.
    """

    parts: Mapping[str, Path]
    pool_path: Path
    counts: Mapping[str, list[int]]
    test: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

    @property
    def num_rows(self) -> dict[str, int]:
        """Node -> number of rows."""
        return {node: sum(counts) for node, counts in self.counts.items()}


def deal(folder: Path, nodes: list[str], *, alpha: float, seed: int) -> Shares:
    """Deal the digits to nodes: each digit is divided by a draw from Dirichlet(alpha).

    Args:
        alpha: above 0; the smaller, the more uneven.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    pixels, digits = load_digits(return_X_y=True)
    order = rng.permutation(len(digits))
    x, y = (pixels[order] / 16).astype(np.float32), digits[order].astype(np.int64)
    num_test = int(len(y) * TEST_FRACTION)
    owners = _owners(y[num_test:], len(nodes), alpha, rng)
    make_folder(folder)
    parts, counts = {}, {}
    for index, node in enumerate(nodes):
        rows = np.flatnonzero(owners == index) + num_test
        parts[node] = folder / f"{node}.npz"
        np.savez(parts[node], x=x[rows], y=y[rows])
        counts[node] = np.bincount(y[rows], minlength=NUM_CLASSES).tolist()
    pool_path = folder / "pooled.npz"
    np.savez(pool_path, x=x[num_test:], y=y[num_test:])
    return Shares(parts=parts, pool_path=pool_path, counts=counts, test=(x[:num_test], y[:num_test]))


def deal_patients(folder: Path, nodes: list[str], *, seed: int) -> dict[str, Path]:
    """Deal the patients of a study of breast cancer to nodes, all alike; return node -> csv file of its own rows.

    The columns are those of scikit-learn, such as `mean_radius`, and `malignant`, which is 0 or 1.
    """
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    study = load_breast_cancer()
    columns = [name.replace(" ", "_") for name in study.feature_names] + ["malignant"]
    order = np.random.default_rng(seed).permutation(len(study.target))
    make_folder(folder)
    files = {}
    for node, rows in zip(nodes, np.array_split(order, len(nodes)), strict=True):
        files[node] = folder / f"{node}.csv"
        with files[node].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([*study.data[row].tolist(), 1 - int(study.target[row])] for row in rows)
    return files


def _owners(
    y: np.ndarray[Any, Any], num_nodes: int, alpha: float, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Return the node of each row; drawn again until every node has at least `MIN_ROWS` rows, if it can."""
    import numpy as np

    enough = min(MIN_ROWS, len(y) // (2 * num_nodes))
    for _ in range(1000):
        owners = np.empty(len(y), dtype=np.int64)
        for digit in range(NUM_CLASSES):
            rows = np.flatnonzero(y == digit)
            cuts = np.cumsum(rng.dirichlet([alpha] * num_nodes))[:-1] * len(rows)
            for index, share in enumerate(np.split(rows, cuts.astype(np.int64))):
                owners[share] = index
        if np.bincount(owners, minlength=num_nodes).min() >= enough:
            return owners
    return rng.integers(num_nodes, size=len(y))
