"""Small data for tests, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
