"""The check that products of columns are not about few rows.

The sum of x times y, where x is 1 in three rows and 0 in all others, is the sum of y over these three; and whoever
gets the products of several columns can combine them. So products are released only where

- every column has its most frequent value in all rows, or another one in at least `min_rows` of them;
- no combination of columns is 0 in all rows but one: that row would have a leverage of 1 (Hoaglin, Welsch
  1978, "The hat matrix in regression and ANOVA", https://doi.org/10.1080/00031305.1978.10479237).

Each answer is checked by itself; answers about different columns are not compared with each other.
"""

from __future__ import annotations

import numpy as np

from fedjob.privacy.releases import Floats

_ALONE = 1 - 1e-9


def isolates(values: Floats, min_rows: int) -> bool:
    """Return whether products of these columns would be about fewer than `min_rows` rows.

    Args:
        values: of shape (rows, columns), without NaN.
        min_rows: 0 or 1 for no limit.
    """
    if min_rows <= 1 or not values.size:
        return False
    for column in values.T:
        _, counts = np.unique(column, return_counts=True)
        if 0 < len(column) - counts.max() < min_rows:
            return True
    return bool((_leverages(values) > _ALONE).any())


def _leverages(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    scales = np.abs(centred).max(axis=0)
    varying = centred[:, scales > 0] / scales[scales > 0]
    left, sizes, _ = np.linalg.svd(varying, full_matrices=False)
    kept = sizes > 1e-10 * sizes.max(initial=0.0)
    leverages: Floats = np.square(left[:, kept]).sum(axis=1) + 1 / len(values)
    return leverages
