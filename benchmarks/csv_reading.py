"""Read a table of 200,000 rows and 20 columns from a csv file, against pandas reading the same file.

fedjob looks at every value before it settles the type of a column, so that codes keep their zeros and identifiers
their digits; pandas guesses as it goes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _federation import spread

from fedjob.data.loader import open_dataset

NUM_ROWS = 200_000
REPEATS = 5


def made() -> pd.DataFrame:
    """Return the table: numbers with and without gaps, whole numbers, words, truth values."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {f"number{place}": rng.normal(size=NUM_ROWS) for place in range(10)}
    columns |= {f"count{place}": rng.integers(0, 100_000, NUM_ROWS) for place in range(6)}
    columns |= {f"word{place}": rng.choice(["male", "female", "other"], NUM_ROWS) for place in range(2)}
    columns["truth"] = rng.random(NUM_ROWS) > 0.5
    columns["gaps"] = np.where(rng.random(NUM_ROWS) > 0.1, rng.normal(size=NUM_ROWS), np.nan)
    return pd.DataFrame(columns)


def timed(read: Callable[[], pd.DataFrame]) -> tuple[list[float], pd.DataFrame]:
    """Return the seconds of each reading, and what the last one read."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        found = read()
        seconds.append(time.perf_counter() - started)
    return seconds, found


def main() -> None:
    """Print medians, spread and the ratio."""
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        file = Path(folder) / "table.csv"
        table = made()
        table.to_csv(file, index=False)
        print(f"{NUM_ROWS} rows, {table.shape[1]} columns, {file.stat().st_size / 1e6:.0f} MB")
        theirs, expected = timed(lambda: pd.read_csv(file))
        ours, found = timed(lambda: open_dataset({"path": file, "reader": "csv"}).frame())
        pd.testing.assert_frame_equal(found, table, check_dtype=False, check_exact=True)
        assert list(expected.columns) == list(found.columns)
        print(f"pandas {spread(theirs)}, fedjob {spread(ours)}: {min(ours) / min(theirs):.1f} times as long")


if __name__ == "__main__":
    main()
