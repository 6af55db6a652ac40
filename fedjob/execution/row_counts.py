"""The counts of rows that a reply carries: registered by the owner, read for the work, and used by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.training_plans.base import TrainingPlan

if TYPE_CHECKING:
    from fedjob.data.readers.base import Dataset

REGISTERED, READ, USED = "registered", "read", "used"


def row_counts(
    info: Mapping[str, Any], dataset: Dataset | None, plan: Any, *, num_examples: int, min_rows: int
) -> dict[str, int]:
    """Return how many rows of a dataset are registered, were read, and were used.

    Args:
        info: what the dataset was opened by, with `num_rows` as its owner registered it; empty for work without data.
        dataset: as the work saw it, after preprocessing.
        plan: that worked on it, with its data loaded; None for a protocol without one.
        num_examples: that the reply reports.
        min_rows: where this is set, no count of some of the rows is reported but `num_examples`, which is anyway.

    Returns:
        The counts that are known, by `registered`, `read` and `used`.
    """
    if dataset is None or not info:
        return {}
    registered = info.get("num_rows")
    counts = {} if registered is None else {REGISTERED: int(registered)}
    read = dataset.rows_read
    if read is None:  # nothing was read of it: the work is not from its rows
        return counts
    if min_rows <= 1 or read == registered:
        counts[READ] = read
    if min_rows > 1:
        return {**counts, USED: num_examples} if num_examples else counts
    left = dataset.num_rows
    if isinstance(plan, TrainingPlan):
        loaded = plan.num_loaded
        left = min(left, loaded) if loaded else left
    elif plan is None and num_examples:
        left = min(left, num_examples)
    return {**counts, USED: left}
