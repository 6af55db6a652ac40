"""Columns of texts, many values at a time: what is missing in them, of what kinds they are, and their values.

This is the same rule as `NumberFormat.kind`, which is asked about single values where the fast way can't decide.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.data.column_types import BOOL, CODE, FLOAT, INT, SPACES, TEXT, TRUE, NumberFormat, text_column

if TYPE_CHECKING:
    import pandas as pd

_SURE_DIGITS = 15
"""A whole number of at most so many characters is held exactly by a float64."""


def known(cells: Sequence[str], missing: Collection[str]) -> Any:
    """Return values as an array of arrow, without spaces around them, and null where one is missing.

    Args:
        missing: the texts that mean a missing value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(pa.array(cells, pa.large_string()))
    gone = pc.is_in(texts, value_set=pa.array(sorted(missing), pa.large_string()))
    return pc.if_else(gone, pa.scalar(None, pa.large_string()), texts)


def kinds_in(texts: Any, form: NumberFormat) -> set[str]:
    """Return the kinds of the values that are not missing.

    Args:
        texts: an array as `known` returns it.
    """
    import pyarrow.compute as pc

    kinds: set[str] = set()
    texts = _spaced(texts.drop_null(), form)
    whole = pc.match_substring_regex(texts, f"^(?:{form.whole_number})$")
    numbers, texts = texts.filter(whole), texts.filter(pc.invert(whole))
    long = pc.greater(pc.utf8_length(numbers), _SURE_DIGITS)
    if pc.any(pc.invert(long)).as_py():
        kinds.add(INT)
    kinds.update(form.kind(text) for text in numbers.filter(long).unique().to_pylist())
    fractions = pc.match_substring_regex(texts, f"^(?:{form.fraction})$")
    if pc.any(fractions).as_py():
        kinds.add(FLOAT)
    for text in texts.filter(pc.invert(fractions)).unique().to_pylist():
        kinds.add(form.kind(text))
        if TEXT in kinds or kinds >= {BOOL, CODE}:  # then the column is text, whatever follows
            break
    return kinds


def column_of(texts: Any, type_: str, form: NumberFormat) -> pd.Series[Any]:
    """Return the values of a column of this type; whole numbers and truth values with gaps stay such.

    Args:
        texts: an array as `known` returns it, of values that are of the type.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    if type_ == TEXT:
        return text_column(texts.to_pylist())
    if type_ == BOOL:
        found = pc.is_in(texts, value_set=pa.array(TRUE, pa.large_string()))
        found = pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), found)
    else:
        found = pc.cast(_as_python_writes(texts, form), pa.int64() if type_ == INT else pa.float64())
    if not found.null_count or type_ == FLOAT:
        return pd.Series(found.to_numpy(zero_copy_only=False))
    dtype: Any = pd.Int64Dtype() if type_ == INT else pd.BooleanDtype()
    return pd.Series(found.to_pandas(types_mapper={found.type: dtype}.get))


def _as_python_writes(texts: Any, form: NumberFormat) -> Any:
    """Return numbers without a plus and signs between thousands, and with a decimal point."""
    import pyarrow.compute as pc

    texts = pc.replace_substring_regex(_spaced(texts, form), r"^\+", "")
    if form.zeros:
        texts = pc.replace_substring_regex(texts, "^(-?)0+([0-9])", r"\1\2")
    if form.thousands:
        texts = pc.replace_substring(texts, form.thousands, "")
    return texts if form.decimal == "." else pc.replace_substring(texts, form.decimal, ".")


def _spaced(texts: Any, form: NumberFormat) -> Any:
    """Return texts with plain spaces and apostrophes, where these stand between thousands."""
    import pyarrow.compute as pc

    for sign, plain in SPACES.items():
        if plain == form.thousands:
            texts = pc.replace_substring(texts, sign, plain)
    return texts


def without_fraction(texts: Any) -> Any:
    """Return texts, where all are whole numbers without the fraction `.0`, as spreadsheets and pandas write it."""
    import pyarrow.compute as pc

    whole = pc.match_substring_regex(texts, r"^-?[0-9]+(?:\.0)?$")
    return pc.replace_substring_regex(texts, r"\.0$", "") if pc.all(whole).as_py() else texts
