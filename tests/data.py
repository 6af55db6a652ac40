"""Small data for tests, made from a seed, and the hearts of four hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.parts import shared_data


def make_points(path: Path, num_rows: int, seed: int) -> Path:
    """Write two classes of points in four dimensions as an npz file; return its path."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_rows, 4))
    targets = (inputs.sum(axis=1) + rng.normal(scale=0.3, size=num_rows) > 0).astype(np.int64)
    np.savez(path, x=inputs, y=targets)
    return path


TRAINING = {
    "lr": 0.05,
    "num_updates": 8,
    "batch_size": 16,
    "test_ratio": 0.25,
    "test_on_global_updates": True,
    "test_on_local_updates": True,
    "test_metric": ["accuracy"],
}

LOSS_ALONE = {name: value for name, value in TRAINING.items() if name != "test_metric"}
"""The same for plans that measure nothing but their loss."""

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
HEART_COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)


def heart_data() -> dict[str, dict[str, Any]]:
    """Return the four hospitals as a local job takes them."""
    folder = shared_data("heart")
    options = {"names": ",".join(HEART_COLUMNS), "na": "?"}
    return {
        hospital: {"path": str(folder / f"processed.{hospital}.data"), "reader": "csv", "options": options}
        for hospital in HOSPITALS
    }


def pooled_hearts() -> pd.DataFrame:
    """Return the rows of all hospitals, with a column `hospital`."""
    frames = [
        pd.read_csv(one["path"], names=list(HEART_COLUMNS), na_values="?").assign(hospital=hospital)
        for hospital, one in heart_data().items()
    ]
    return pd.concat(frames, ignore_index=True)
