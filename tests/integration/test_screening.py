"""The screening example: filter, inference, rule, table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "screening.py"


@pytest.mark.feature("BF-69", "BF-26")
def test_two_hospitals_are_screened_and_a_table_is_saved(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("screening", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    screening = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screening)
    table = screening.screen(tmp_path, tmp_path / "screening.csv")
    saved = pandas.read_csv(tmp_path / "screening.csv")
    assert list(saved.columns) == ["node", "record", "risk", "refer"]
    assert len(saved) == len(table)
    known = {node: pandas.read_csv(tmp_path / f"{node}.csv") for node in ("north", "south")}
    for node, own in saved.groupby("node"):
        wanted = known[str(node)].set_index("record")
        assert set(own["record"]) == set(wanted.index[wanted["mean radius"] >= 10.0]), "the filter"
        assert own["risk"].is_monotonic_decreasing
        assert (own["refer"] == (own["risk"] >= 0.5)).all(), "the rule"
        right = (
            own["refer"].astype(int).to_numpy() == wanted.loc[own["record"], "malignant"].to_numpy()
        ).mean()
        assert right > 0.85, "the inference"
