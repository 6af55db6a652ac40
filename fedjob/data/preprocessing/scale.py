"""The step that brings numbers of different units to one scale, the same at every node."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.base import LearningStep, names_of, need
from fedjob.data.preprocessing.moments import combined, moments_of, numbers_of, present

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion

_METHODS = ("standard", "minmax")


@dataclass(frozen=True, slots=True)
class Scale(LearningStep):
    """Turn each column into `(x - centre) / spread`; missing values stay missing.

    Args:
        method: `standard` takes mean and standard deviation (of the whole population, as scikit-learn's
            StandardScaler); `minmax` takes the smallest value and the range, which releases to the researcher
            the extremes of all nodes together and each node's own.
        own: take these from each node's own rows instead of all nodes' together; the node then releases nothing.
        centre, spread: a number for each column, where they are known; else they are found before the
            first round. The spread of a constant column is 1.
    """

    name: ClassVar[str] = "scale"
    learned: ClassVar[tuple[str, ...]] = ("centre", "spread")
    columns: tuple[str, ...]
    method: str = "standard"
    own: bool = False
    centre: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "columns", names_of(self.columns, "Scale"))
        if self.method not in _METHODS:
            raise SpecError(f"Scale(method=...) takes {' or '.join(_METHODS)}, not {shown(self.method)}")
        if (self.centre is None) != (self.spread is None) or (self.own and self.centre is not None):
            raise SpecError("Scale takes centre and spread together, or finds both; own=True takes neither")
        for field in ("centre", "spread"):
            given = getattr(self, field)
            if given is not None:
                object.__setattr__(self, field, tuple(float(number) for number in given))
        for centre, spread in zip(self.centre or (), self.spread or (), strict=False):
            if not math.isfinite(centre) or not (math.isfinite(spread) and spread > 0):
                raise SpecError(
                    f"Scale takes finite centres and spreads above 0, not {shown(centre)}, {shown(spread)}"
                )
        if self.centre is not None and not len(self.centre) == len(self.spread or ()) == len(self.columns):
            raise SpecError(f"Scale takes a centre and a spread for each of its {len(self.columns)} columns")

    @property
    def complete(self) -> bool:
        return self.own or self.centre is not None

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        from fedjob.data.preprocessing.disclosure import at_least

        need(frame, self.columns, "Scale")
        step = self
        if self.own:
            step = replace(self, own=False).learn({"": self.measure(frame, at_least(1))})
        for column in self.columns:
            numbers_of(frame, column, "Scale")
        scaled = step.transformer().transform(frame[list(self.columns)].astype("float64"))
        return frame.assign(**{name: scaled[:, place] for place, name in enumerate(self.columns)})

    def measure(self, frame: pd.DataFrame, discretion: Discretion) -> dict[str, Any]:
        need(frame, self.columns, "Scale")
        if self.method == "minmax" and not discretion.releases_extremes:
            raise SpecError(
                "Scale(method='minmax') needs the smallest and largest values, which belong to single rows: the owner "
                "sets a minimum of rows and does not release them (option extremes); method='standard' works without"
            )
        values = {name: numbers_of(frame, name, "Scale") for name in self.columns}
        return {
            name: self._share(values[name]) if discretion.admit(present(frame, name), name) else []
            for name in self.columns
        }

    def _share(self, values: np.ndarray[Any, Any]) -> list[float]:
        """Return the number of values with their mean and spread, or with the smallest and the largest."""
        if self.method == "standard":
            return list(moments_of(values))
        return [float(len(values)), float(values.min()), float(values.max())]

    def learn(self, measured: Mapping[str, Mapping[str, Any]]) -> Scale:
        found = [self._found(name, [own[name] for own in measured.values()]) for name in self.columns]
        return replace(
            self, centre=tuple(centre for centre, _ in found), spread=tuple(spread for _, spread in found)
        )

    def _found(self, column: str, shares: list[list[float]]) -> tuple[float, float]:
        there = [(share[0], share[1], share[2]) for share in shares if share]
        if not there:
            raise SpecError(
                f"Scale: no node has values of column {column!r} to scale by, or has as many as its owner's minimum: "
                "leave the column out"
            )
        if self.method == "minmax":
            low, high = min(share[1] for share in there), max(share[2] for share in there)
            return low, high - low or 1.0
        num, mean, spread = combined(there)
        variance = spread / num
        # the variance that rounding alone gives a constant column, see scikit-learn's _is_constant_feature
        unchanged = num * sys.float_info.epsilon * variance + (num * mean * sys.float_info.epsilon) ** 2
        return mean, 1.0 if variance <= unchanged else math.sqrt(variance)

    def transformer(self) -> Any:
        import numpy as np
        from sklearn.preprocessing import MinMaxScaler, StandardScaler

        if self.centre is None or self.spread is None:
            raise SpecError(
                "Scale: centre and spread are not found yet: run the job, and take the step from its result"
            )
        centre, spread = np.array(self.centre), np.array(self.spread)
        names = np.array(self.columns, dtype=object)
        if self.method == "minmax":
            scaler = MinMaxScaler()
            scaler.data_min_, scaler.data_max_, scaler.data_range_ = centre, centre + spread, spread
            scaler.scale_, scaler.min_ = 1 / spread, -centre / spread
        else:
            scaler = StandardScaler()
            scaler.mean_, scaler.scale_, scaler.var_ = centre, spread, spread**2
        scaler.feature_names_in_, scaler.n_features_in_ = names, len(names)
        return scaler
