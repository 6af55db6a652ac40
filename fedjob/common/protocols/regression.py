"""The base of regressions: explaining columns, some of them categories, and explained ones."""

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
        features: the explaining columns.
        categorical: the features that are categories; the first category, in order, is the reference.

    Raises:
        SpecError: there are no features, the outcome is one of them, or `categorical` names another column.
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
            raise SpecError(f"categorical names {odd[0]!r}, which is not one of the features")

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
        target: the explained column, of numbers.
        intercept: whether the model has an intercept.
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
