"""Steps that turn categories into numbers, with the same columns and codes at every node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.checks import check_kinds, python_numbers, shown
from fedjob.common.errors import SpecError
from fedjob.data.category import category_text, where_categories
from fedjob.data.preprocessing.base import LearningStep, TableStep, names_of, need
from fedjob.data.preprocessing.category_counts import added, counts_of

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion


@dataclass(frozen=True, slots=True)
class Encode(LearningStep):
    """Replace a column by one of 0 and 1 for each category: `sex=male`, `sex=female`.

    Args:
        categories: all categories of all nodes; each becomes a column, so that nodes agree on the columns. With
            None they are found before the first round, from the data of all nodes: numbers before texts, each
            in order. `1`, `1.0` and the text `1` are one category, whichever of them a node's data hold. A node does not release a category that fewer of its rows have than its owner's
            `min_rows`; such a category counts as unknown.
        drop_first: leave the first category out, as regressions need.
        unknown: what to do with a value that is no category: `error`, or `ignore` for a row of zeros.
    """

    name: ClassVar[str] = "encode"
    learned: ClassVar[tuple[str, ...]] = ("categories",)
    column: str
    categories: tuple[Any, ...] | None = None
    drop_first: bool = False
    unknown: str = "error"

    def __post_init__(self) -> None:
        check_kinds(self)
        names_of(self.column, "Encode")
        if self.categories is not None:
            given: Any = python_numbers(self.categories)
            if not isinstance(given, (list, tuple)) or any(
                isinstance(one, (list, tuple, dict)) for one in given
            ):
                raise SpecError(f"Encode(categories=...) is a list of categories or None, not {shown(given)}")
            object.__setattr__(self, "categories", tuple(given))
            if not self.categories or len({*map(category_text, self.categories)}) < len(self.categories):
                raise SpecError(
                    f"Encode({shown(self.column)}) takes one or more categories, each of them once"
                )
        if self.unknown not in ("error", "ignore"):
            raise SpecError(f"Encode(unknown=...) takes error or ignore, not {shown(self.unknown)}")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        import numpy as np
        import pandas as pd

        need(frame, [self.column], "Encode")
        categories = self._found()
        where = where_categories(frame[self.column], categories)
        if self.unknown == "error" and not np.logical_or.reduce(where).all():
            raise SpecError(
                f"Encode: rows of column {shown(self.column)} have none of the {len(categories)} categories: "
                "add what is missing, or give unknown='ignore'"
            )
        place = list(frame.columns).index(self.column)
        kept = list(zip(categories, where, strict=True))[1 if self.drop_first else 0 :]
        coded = pd.DataFrame(
            {f"{self.column}={category_text(value)}": there.astype("int64") for value, there in kept},
            index=frame.index,
        )
        return pd.concat([frame.iloc[:, :place], coded, frame.iloc[:, place + 1 :]], axis=1)

    def measure(self, frame: pd.DataFrame, discretion: Discretion) -> dict[str, Any]:
        need(frame, [self.column], "Encode")
        counts = counts_of(frame, self.column, discretion, "Encode")
        return {"categories": [category for category, _ in counts]}

    def learn(self, measured: Mapping[str, Mapping[str, Any]]) -> Encode:
        found = added([[category, 0] for category in own["categories"]] for own in measured.values())
        if not found:
            raise SpecError(
                f"Encode: no node has a category of column {shown(self.column)} that it may release: the column is empty, or "
                "every category has fewer rows than the owner's minimum; leave it out, or declare its categories"
            )
        return replace(self, categories=tuple(found))

    def transformer(self) -> Any:
        import numpy as np
        import pandas as pd
        from sklearn.preprocessing import OneHotEncoder

        categories = np.array(self._found(), dtype=object)
        encoder = OneHotEncoder(
            categories=[categories],
            drop="first" if self.drop_first else None,
            handle_unknown=self.unknown,
            sparse_output=False,
            feature_name_combiner=lambda column, category: f"{column}={category_text(category)}",
        )
        return encoder.fit(pd.DataFrame({self.column: categories}, dtype=object))

    def _found(self) -> tuple[Any, ...]:
        if self.categories is None:
            raise SpecError(
                "Encode: the categories are not found yet: run the job, and take the step from its result"
            )
        return self.categories


@dataclass(frozen=True, slots=True)
class Bin(TableStep):
    """Replace each number by the index of the interval that it lies in.

    Args:
        edges: increasing; numbers below the first edge become 0, from the first up to the second 1, and so on.
    """

    name: ClassVar[str] = "bin"
    column: str
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        check_kinds(self)
        names_of(self.column, "Bin")
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        if not self.edges or any(a >= b for a, b in pairwise(self.edges)):
            raise SpecError(f"Bin({shown(self.column)}) takes increasing edges, not {shown(self.edges)}")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        import numpy as np

        need(frame, [self.column], "Bin")
        column = frame[self.column]
        if column.dtype.kind not in "iufb" or column.isna().any():
            raise SpecError(f"Bin: column {shown(self.column)} has to hold numbers, none of them missing")
        return frame.assign(**{self.column: np.digitize(column.to_numpy(), self.edges).astype("int64")})
