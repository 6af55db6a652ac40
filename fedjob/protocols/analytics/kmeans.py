"""k-means, exactly as over pooled rows.

Lloyd 1982, "Least squares quantization in PCM", https://doi.org/10.1109/TIT.1982.1056489

    every node: each complete row belongs to its nearest centre
    centre_j = sum_k sum(rows of j at k) / sum_k number of rows of j at k;    a centre without rows does not move

until no centre moves by more than `tolerance` standard deviations. The first centres are drawn around the
means of all nodes, or given. A node keeps nothing; the researcher keeps the centres.

What leaks: at each step every node's number and sum of rows in each cluster, to the researcher; their total is
enough. From step to step single rows may change their cluster. Where an owner sets `min_rows`, rows about which
sums were released together change it together, or in parts of at least `min_rows` rows: fewer stay with the larger part.
So the clusters of such a node are those of groups of rows, and no two steps or jobs differ in few rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.privacy.releases import Floats, Release, Rows
from fedjob.protocols.analytics.base import ModelProtocol
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.table import AuditedTable, check_names
from fedjob.protocols.analytics.tables import centre_table
from fedjob.protocols.answer_form import AnswerForm, Count, Number, Numbers, Record
from fedjob.protocols.base import Instruction, State

if TYPE_CHECKING:
    from fedjob.privacy.release_book import OpenBook

ASSIGN = "assign"


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans(ModelProtocol):
    """Clusters of rows around centres.

    Args:
        features: columns of numbers.
        clusters: number of clusters, 2 or more.
        scale: whether distances are measured in standard deviations of all nodes' rows.
        first: the first centres, one list of numbers per cluster in the order of `features`; if empty, they
            are drawn.
        seed: of the draw.
        max_steps: 1 or more.
        tolerance: in standard deviations, 0 or more.

    Raises:
        SpecError: the number of clusters, centres or steps, or the tolerance, is out of range.
    """

    features: tuple[str, ...]
    clusters: int
    scale: bool = True
    first: tuple[tuple[float, ...], ...] = ()
    seed: int = 0
    max_steps: int = 100
    tolerance: float = 1e-6

    name: ClassVar[str] = "kmeans"
    sends: ClassVar[tuple[str, ...]] = ("centres",)

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "features", check_names("features", self.features, least=1))
        object.__setattr__(self, "first", tuple(tuple(map(float, centre)) for centre in self.first))
        if self.clusters < 2 or self.max_steps < 1 or not self.tolerance >= 0:
            raise SpecError(
                "KMeans takes 2 clusters or more, 1 step or more and a tolerance of 0 or more; found "
                f"{self.clusters}, {self.max_steps} and {self.tolerance}"
            )
        if self.first and (
            len(self.first) != self.clusters or {len(centre) for centre in self.first} != {len(self.features)}
        ):
            raise SpecError(
                f"first holds {self.clusters} centres of {len(self.features)} numbers; found {shown(self.first)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features

    @property
    def centred(self) -> bool:
        return True

    @property
    def releases_products(self) -> bool:
        return False

    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        if self.first:
            centres = (np.asarray(self.first) - np.asarray(design.means)) / np.asarray(design.scales)
        else:
            centres = np.random.default_rng(self.seed).normal(size=(self.clusters, len(self.features)))
        return {"centres": centres.tolist(), "steps": 0, "last": self.max_steps == 1, "done": False}

    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        return None if model["done"] else (ASSIGN, {"centres": model["centres"]}, bool(model["last"]))

    def answer_form(self, model: State, design: Design) -> AnswerForm:
        return Record(
            {
                "counts": Numbers((self.clusters,), Count()),
                "sums": Numbers((self.clusters, len(self.features))),
                "inertia": Number(0.0),
                "withheld": Count(self.clusters),
            }
        )

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        before = np.asarray(model["centres"])
        counts, sums = np.asarray(total["counts"], dtype=np.float64), np.asarray(total["sums"])
        after = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], before)
        found = {"sizes": total["counts"], "inertia": total["inertia"], "withheld": total["withheld"]}
        if model["last"]:
            return {**model, **found, "done": True}
        steps = model["steps"] + 1
        moved = float(np.abs(after - before).max())
        last = moved <= self.tolerance or steps + 1 >= self.max_steps
        return {**model, **found, "centres": after.tolist(), "steps": steps, "last": last}

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        terms = design.matrix(values)
        weights = np.ones(terms.shape[1]) if self.scale else np.square(np.asarray(design.scales))
        centres = np.asarray(instruction["centres"])
        distances = np.stack(
            [(np.square(terms - centre) * weights).sum(axis=1) for centre in centres], axis=1
        )
        nearest = distances.argmin(axis=1)
        small = np.zeros(len(centres), dtype=bool)
        if table.book is not None:
            nearest, small = self._in_groups(distances, table, table.book)
        counts = np.bincount(nearest, minlength=len(centres))
        released = ~small[nearest]
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest[released], terms[released])
        return {
            "counts": np.where(small, 0, counts).tolist(),
            "sums": sums.tolist(),
            "inertia": float(distances[np.arange(len(nearest)), nearest][released].sum()),
            "withheld": int(small.sum()),
        }

    def _in_groups(
        self, distances: Floats, table: AuditedTable, book: OpenBook
    ) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return the cluster of each complete row, where few rows do not leave those they were released with.

        Args:
            distances: of shape (rows, clusters).

        Returns:
            The clusters, and for each of them whether it may not be released even so.
        """
        used = table.all_rows if table.used is None else table.used
        incomplete = np.setdiff1d(table.all_rows, used)
        small = np.zeros(distances.shape[1], dtype=bool)
        nearest = distances.argmin(axis=1)
        for least in (table.min_rows, len(used) + 1):  # at last no group is divided
            nearest = grouped(distances, book.pieces(self.features)[used], least)
            rows = [used[nearest == cluster] for cluster in range(distances.shape[1])]
            allowed = table.admit([Release(one, self.features, one, incomplete) for one in rows])
            small = np.array([len(one) > 0 and not may for one, may in zip(rows, allowed, strict=True)])
            if not small.any():
                break
        return nearest, small

    def result(self, model: State, design: Design) -> dict[str, Any]:
        centres = np.asarray(model["centres"]) * np.asarray(design.scales) + np.asarray(design.means)
        return {
            "centres": centre_table(self.features, centres, model["sizes"]),
            "inertia": model["inertia"] if math.isfinite(model["inertia"]) else math.nan,
            "steps": model["steps"],
            "withheld": model["withheld"],
        }


def grouped(distances: Floats, groups: Rows, least: int) -> Rows:
    """Return the nearest cluster of each row, where a group is divided only into parts of `least` rows or more.

    Rows of smaller parts go to the nearest of the larger parts' clusters; a group without a larger part goes where the
    sum of its rows' distances is least.

    Args:
        distances: of shape (rows, clusters).
        groups: a label for each row.
    """
    nearest: Rows = distances.argmin(axis=1)
    for label in np.unique(groups):
        rows = np.flatnonzero(groups == label)
        counts = np.bincount(nearest[rows], minlength=distances.shape[1])
        large = np.flatnonzero(counts >= least)
        if not len(large):
            nearest[rows] = distances[rows].sum(axis=0).argmin()
            continue
        few = rows[~np.isin(nearest[rows], large)]
        nearest[few] = large[distances[np.ix_(few, large)].argmin(axis=1)]
    return nearest
