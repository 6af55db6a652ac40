"""Principal components from the covariance of all nodes' rows.

Pearson 1901, "On lines and planes of closest fit to systems of points in space",
https://doi.org/10.1080/14786440109462720

    S = sum_k (X_k - m)' (X_k - m) / (n - 1),    S v = l v

with the mean m of all nodes; X holds the complete rows. The result is that of pooled rows, with each
component's largest number positive. A node keeps nothing.

What leaks: each node's sums of columns and of their products, to the researcher; their total is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.base import ModelProtocol
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.table import AuditedTable, check_names
from fedjob.protocols.analytics.tables import component_table
from fedjob.protocols.answer_form import AnswerForm, Count, Numbers, Record
from fedjob.protocols.base import Instruction, State

PRODUCTS = "products"


@dataclass(frozen=True, slots=True, kw_only=True)
class PCA(ModelProtocol):
    """Principal components: the directions in which rows vary most.

    Args:
        features: two or more columns of numbers.
        components: number of components, from 1 to the number of features; None for all.
        scale: whether columns are divided by their standard deviations, so that all weigh the same.

    Raises:
        SpecError: the number of components or features is out of range.
    """

    features: tuple[str, ...]
    components: int | None = None
    scale: bool = False

    name: ClassVar[str] = "pca"

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "features", check_names("features", self.features, least=2))
        if self.components is not None and not 1 <= self.components <= len(self.features):
            raise SpecError(
                f"components is a number from 1 to {len(self.features)}, not {shown(self.components)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features

    @property
    def centred(self) -> bool:
        return True

    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        return {}

    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        return None if model else (PRODUCTS, {}, True)

    def answer_form(self, model: State, design: Design) -> AnswerForm:
        width = len(self.features)
        return Record({"count": Count(), "linear": Numbers((width,)), "products": Numbers((width, width))})

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        return dict(total)

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        terms = design.matrix(values)
        return {
            "count": len(terms),
            "linear": terms.sum(axis=0).tolist(),
            "products": (terms.T @ terms).tolist(),
        }

    def result(self, model: State, design: Design) -> dict[str, Any]:
        count, linear = model["count"], np.asarray(model["linear"])
        covariance = (np.asarray(model["products"]) - np.outer(linear, linear) / count) / (count - 1)
        scales = np.asarray(design.scales)
        if self.scale:
            deviations = np.sqrt(np.diagonal(covariance))
            covariance, scales = covariance / np.outer(deviations, deviations), scales * deviations
        else:
            covariance = covariance * np.outer(scales, scales)
        variances, vectors = np.linalg.eigh(covariance)
        order = np.argsort(-variances)
        variances, vectors = np.clip(variances[order], 0, None), vectors[:, order].T
        largest = np.abs(vectors).argmax(axis=1)
        vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
        table = component_table(self.features, vectors, variances)
        means = np.asarray(design.means) + linear / count * np.asarray(design.scales)
        return {
            "components": table.head(self.components or len(vectors)),
            "means": dict(zip(self.features, means.tolist(), strict=True)),
            "scales": dict(zip(self.features, scales.tolist(), strict=True)) if self.scale else {},
            "rows": count,
        }
