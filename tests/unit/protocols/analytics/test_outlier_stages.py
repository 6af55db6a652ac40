"""What a researcher may ask of a node in the name of outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import NodeFailure
from fedjob.protocols.analytics.outliers import Outliers
from fedjob.protocols.base import Instruction, Local

FIRST = {"mean": ["age"], "std": ["age"], "quantiles": {"age": [0.25, 0.75]}, "precision": 1e-12}
LATER = {"count": ["age"], "histogram": {"age": [10.0, 90.0]}}


@pytest.mark.parametrize(
    "measures",
    [
        {"mean": ["ssn"]},
        {**FIRST, "mean": ["ssn"]},
        {**FIRST, "mean": ["age", "ssn"], "std": ["age", "ssn"]},
        {**FIRST, "by": ["zip"]},
        {**FIRST, "max": ["age"]},
        {**FIRST, "quantiles": {"age": [0.001]}},
        {**FIRST, "quantiles": {"ssn": [0.25, 0.75]}},
        {**FIRST, "precision": 1e-15},
        {**LATER, "count": ["ssn"]},
        {**LATER, "by": ["zip"]},
        {**LATER, "histogram": {"age": [1.0, 2.0, 3.0]}},
        {**LATER, "histogram": {"ssn": [1.0, 2.0]}},
        {**LATER, "categories": ["zip"]},
        {"table": ["age", "zip"]},
        {},
        None,
        "age",
    ],
)
def test_a_stage_asks_for_outliers_of_its_own_columns_and_nothing_else(measures: Any, tmp_path: Path) -> None:
    local = Local(
        node="ward",
        round=1,
        seed=1,
        plan=None,
        data=None,
        args=None,
        state={},
        emit=lambda type_, data: None,
        progress=lambda done, total: None,
        scratch=tmp_path,
    )
    with pytest.raises(NodeFailure, match="more than outliers of the columns that were named"):
        Outliers(columns=("age",)).contribute(
            Instruction(step="first", round=1, values={"measures": measures}), local
        )
