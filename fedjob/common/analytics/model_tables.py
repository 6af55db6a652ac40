"""The result tables of models: coefficients, centres and components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedjob.common.analytics.releases import Floats

if TYPE_CHECKING:
    import pandas as pd

_CONFIDENCE = 0.975


def estimate_table(terms: Sequence[str], found: Floats) -> pd.DataFrame:
    """Return a table of estimates alone, for models whose estimates have no simple standard error."""
    import pandas as pd

    return pd.DataFrame({"term": list(terms), "estimate": found})


def coefficient_table(
    terms: Sequence[str], found: Floats, covariance: Floats, freedom: float | None = None
) -> pd.DataFrame:
    """Return a table of estimates with standard errors, two-sided p-values and 95 % intervals.

    Args:
        freedom: the degrees of freedom of Student's t; None for the normal distribution.
    """
    import pandas as pd
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    errors = np.sqrt(np.diagonal(covariance))
    statistic = found / errors
    if freedom is None:
        p_values, reach = 2 * ndtr(-np.abs(statistic)), ndtri(_CONFIDENCE)
    else:
        p_values, reach = 2 * stdtr(freedom, -np.abs(statistic)), stdtrit(freedom, _CONFIDENCE)
    return pd.DataFrame(
        {
            "term": list(terms),
            "estimate": found,
            "std_error": errors,
            "statistic": statistic,
            "p_value": p_values,
            "low": found - reach * errors,
            "high": found + reach * errors,
        }
    )


def centre_table(features: Sequence[str], centres: Floats, sizes: Sequence[int]) -> pd.DataFrame:
    """Return a table with a row for each cluster: its centre and its number of rows."""
    import pandas as pd

    table = pd.DataFrame(centres, columns=list(features))
    table.insert(0, "cluster", range(len(centres)))
    table["rows"] = list(sizes)
    return table


def component_table(features: Sequence[str], vectors: Floats, variances: Floats) -> pd.DataFrame:
    """Return a table with a row for each component: direction, variance, and fraction of the total variance."""
    import pandas as pd

    table = pd.DataFrame(vectors, columns=list(features))
    table.insert(0, "component", range(1, len(vectors) + 1))
    table["variance"] = variances
    table["ratio"] = variances / variances.sum()
    return table
