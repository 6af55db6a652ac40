"""What regressions share: columns that explain, some of them categories, and what they explain."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.analytics.columns import check_names
from fedjob.common.analytics.design import INTERCEPT, Design
from fedjob.common.errors import SpecError
from fedjob.common.protocols.model import ModelProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression(ModelProtocol):
    """A model that explains outcomes by features.

    Args:
        features: columns that explain it.
        categorical: those of the features that are categories; the first one, in order, is the base.

    Raises:
        SpecError: no features, the outcome among them, or a category that is no feature.
    """

    features: tuple[str, ...]
    categorical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", check_names("features", self.features, least=1))
        object.__setattr__(self, "categorical", check_names("categorical", self.categorical))
        outcomes = check_names("the outcome", list(self.outcomes), least=1)
        if both := sorted(set(outcomes) & set(self.features)):
            raise SpecError(f"{both[0]!r} can't be explained by itself: leave it out of features")
        if odd := sorted(set(self.categorical) - set(self.features)):
            raise SpecError(f"categorical names {odd[0]!r}, which is no feature")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features

    @property
    def categories(self) -> tuple[str, ...]:
        return self.categorical


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegression(Regression):
    """A regression of one column.

    Args:
        target: column of numbers that is explained.
        intercept: whether there is one.
    """

    target: str
    intercept: bool = True

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def with_intercept(self) -> bool:
        return self.intercept


def names_of(design: Design) -> list[str]:
    """Return the names of all coefficients."""
    return [INTERCEPT, *design.terms] if design.intercept else design.terms
