"""Logistic and Poisson regression by federated Newton steps.

McCullagh, Nelder 1989, "Generalized Linear Models", chapter 2 (with the canonical link, iteratively reweighted
least squares is Newton's method); federated as in Wu, Jiang, Kim, Ohno-Machado 2012, "Grid binary LOgistic
REgression (GLORE)", https://doi.org/10.1136/amiajnl-2012-000862

    g = sum_k X_k' (y_k - m_k),    H = sum_k X_k' W_k X_k,    b <- b + H^-1 g,    cov(b) = H^-1
    logistic: m = 1 / (1 + exp(-Xb)), W = m (1 - m);    Poisson: m = W = exp(Xb)

Each step is an ask; it ends when a step is smaller than 1e-9 standard deviations. The result is that of
pooled rows. A node keeps nothing.

What leaks: each node's sums of terms, and at every b its log-likelihood, gradient and H, to the
researcher; their total is enough. The owner's `min_rows` is compared with the number of complete rows, and with the
number of rows that have weight at b, and in the difference from every b that was answered before: made-up
coefficients, steep ones or two that differ in a few rows' weight, are refused (`newton.check_point`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedjob.common.errors import NodeFailure
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.base import TargetRegression, names_of
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.newton import advance, begin, check_point, inverse
from fedjob.protocols.analytics.table import AuditedTable
from fedjob.protocols.analytics.tables import coefficient_table
from fedjob.protocols.answer_form import AnswerForm, Count, Number, Numbers, Record
from fedjob.protocols.base import Instruction, State

NEWTON = "newton"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonRegression(TargetRegression):
    """A regression whose likelihood is maximised by Newton's method.

    Args:
        target: the explained column, of numbers.
        features: the explaining columns.
        categorical: the features that are categories; the first category, in order, is the reference.
        intercept: whether the model has an intercept.
    """

    sends: ClassVar[tuple[str, ...]] = ("at",)

    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        return begin(len(names_of(design)))

    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        return None if model["done"] else (NEWTON, {"at": model["at"]}, bool(model["last"]))

    def answer_form(self, model: State, design: Design) -> AnswerForm:
        width = len(names_of(design))
        return Record(
            {
                "count": Count(),
                "likelihood": Number(),
                "gradient": Numbers((width,)),
                "hessian": Numbers((width, width)),
            }
        )

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        return {**advance(model, total), "hessian": total["hessian"], "count": total["count"]}

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        terms, target = design.matrix(values), others[:, 0]

        def weights(linear: Floats) -> tuple[Floats, ...]:
            with np.errstate(over="ignore", invalid="ignore"):
                _, mean, weight = self.at(linear, target)
            return weight, target - mean

        check_point(table, self.name, design, np.asarray(instruction["at"]), weights)
        with np.errstate(over="ignore", invalid="ignore"):
            likelihood, mean, weight = self.at(terms @ np.asarray(instruction["at"]), target)
            hessian = (terms * weight[:, None]).T @ terms
        return {
            "count": len(terms),
            "likelihood": likelihood,
            "gradient": (terms.T @ (target - mean)).tolist(),
            "hessian": hessian.tolist(),
        }

    def result(self, model: State, design: Design) -> dict[str, Any]:
        found, covariance = design.in_their_units(
            np.asarray(model["at"]), inverse(np.asarray(model["hessian"]))
        )
        return {
            "coefficients": coefficient_table(names_of(design), found, covariance),
            "rows": model["count"],
            "log_likelihood": model["likelihood"],
            "iterations": model["iterations"],
        }

    @abstractmethod
    def at(self, linear: Floats, target: Floats) -> tuple[float, Floats, Floats]:
        """Return log-likelihood, means and weights for the linear predictor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression(NewtonRegression):
    """A regression of the log odds of a target of 0 and 1."""

    name: ClassVar[str] = "logistic_regression"

    def at(self, linear: Floats, target: Floats) -> tuple[float, Floats, Floats]:
        mean = 0.5 * (1 + np.tanh(linear / 2))
        likelihood = float((target * linear - np.logaddexp(0, linear)).sum())
        return likelihood, mean, mean * (1 - mean)

    def check_outcomes(self, table: AuditedTable, others: Floats) -> None:
        if not np.isin(others[:, 0], (0.0, 1.0)).all():
            raise NodeFailure(
                table.node, "columns", f"column {self.target!r} holds other numbers than 0 and 1 at this node"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonRegression(NewtonRegression):
    """A regression of the log of the mean of a target of counts."""

    name: ClassVar[str] = "poisson_regression"

    def at(self, linear: Floats, target: Floats) -> tuple[float, Floats, Floats]:
        mean = np.exp(linear)
        known = math.fsum(math.lgamma(count + 1) for count in target.tolist())
        return float((target * linear - mean).sum()) - known, mean, mean

    def check_outcomes(self, table: AuditedTable, others: Floats) -> None:
        if (others[:, 0] < 0).any() or (others[:, 0] != np.floor(others[:, 0])).any():
            raise NodeFailure(
                table.node, "columns", f"column {self.target!r} holds other numbers than counts at this node"
            )
