"""Linear and ridge regression from sufficient statistics.

Least squares, and Hoerl, Kennard 1970, "Ridge regression: biased estimation for nonorthogonal
problems", https://doi.org/10.1080/00401706.1970.10488634

    b = (sum_k X_k' X_k + P)^-1 sum_k X_k' y_k              P: alpha on the diagonal, 0 for the intercept
    s^2 = (sum_k y_k' y_k - b' sum_k X_k' y_k) / (n - p),   cov(b) = s^2 (sum_k X_k' X_k)^-1

X holds the terms of the complete rows, centred and scaled by the means and scales of all nodes, against cancellation;
the result is in the units of the unscaled terms. It is that of pooled rows. A node keeps nothing.

What leaks: each node's sums of terms and of their products, to the researcher; their total is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError, Unsolvable
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.base import TargetRegression, names_of
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.newton import inverse, solve
from fedjob.protocols.analytics.table import AuditedTable
from fedjob.protocols.analytics.tables import coefficient_table, estimate_table
from fedjob.protocols.answer_form import AnswerForm, Count, Numbers, Record
from fedjob.protocols.base import Instruction, State

PRODUCTS = "products"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRegression(TargetRegression):
    """Least squares with standard errors and p-values.

    Args:
        target: the explained column, of numbers.
        features: the explaining columns.
        categorical: the features that are categories; the first category, in order, is the reference.
        intercept: whether the model has an intercept.

    Raises:
        SpecError: there are no features, or the target is one of them.
    """

    name: ClassVar[str] = "linear_regression"

    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        return {}

    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        return None if model else (PRODUCTS, {}, True)

    def answer_form(self, model: State, design: Design) -> AnswerForm:
        width = len(names_of(design))
        return Record(
            {
                "count": Count(),
                "terms": Numbers((width, width)),
                "both": Numbers((width,)),
                "target": Numbers((2,)),
            }
        )

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        return dict(total)

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        terms, target = design.matrix(values), others[:, 0]
        return {
            "count": len(terms),
            "terms": (terms.T @ terms).tolist(),
            "both": (terms.T @ target).tolist(),
            "target": [float(target.sum()), float(target @ target)],
        }

    def result(self, model: State, design: Design) -> dict[str, Any]:
        products, both = np.asarray(model["terms"]), np.asarray(model["both"])
        count, freedom = model["count"], model["count"] - len(both)
        if freedom <= 0:
            raise Unsolvable(f"{count} complete rows are not enough for {len(both)} coefficients")
        found = solve(products, both)
        total, squares = model["target"]
        left = max(0.0, squares - float(found @ both))
        around = squares - total * total / count if self.intercept else squares
        scale = left / freedom
        found, covariance = design.in_their_units(found, scale * inverse(products))
        return {
            "coefficients": coefficient_table(names_of(design), found, covariance, freedom),
            "rows": count,
            "r_squared": 1 - left / around if around > 0 else math.nan,
            "residual_std_error": math.sqrt(scale),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge(LinearRegression):
    """Least squares with a penalty on the squares of the coefficients, but for the intercept.

    Args:
        alpha: strength of the penalty, above 0, for unscaled terms, as in scikit-learn.
    """

    alpha: float = 1.0

    name: ClassVar[str] = "ridge"

    def __post_init__(self) -> None:
        check_kinds(self)
        TargetRegression.__post_init__(self)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise SpecError(f"alpha is a finite number above 0, not {shown(self.alpha)}")

    def result(self, model: State, design: Design) -> dict[str, Any]:
        products, both = np.asarray(model["terms"]), np.asarray(model["both"])
        unscaled = self.alpha / np.square(np.asarray(design.scales))
        penalty = np.diag([0.0, *unscaled] if self.intercept else unscaled)
        found = solve(products + penalty, both)
        found, _ = design.in_their_units(found, np.zeros_like(products))
        return {
            "coefficients": estimate_table(names_of(design), found),
            "rows": model["count"],
        }
