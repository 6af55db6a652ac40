"""Columns of texts, many values at a time: what is missing in them, of what kinds they are, and their values.

This is the same rule as `NumberFormat.kind`, which is asked about single values where the fast way can't decide.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.data.column_types import (
    BOOL,
    CODE,
    FALSE,
    FLOAT,
    INT,
    SPACES,
    TEXT,
    TRUE,
    USUAL,
    NumberFormat,
    text_column,
)

if TYPE_CHECKING:
    import pandas as pd

_SURE_DIGITS = 15
"""A whole number of at most so many characters is held exactly by a float64."""
_EXACT = 2**53
_BLANKS = (b" ", b"\t", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x1f")


def split(block: str, width: int, separator: str, quote: str, missing: Collection[str]) -> list[Any] | None:
    """Return the columns of whole lines of text, each as `known` returns it; None where rows have to be read one by one.

    That is so where a row has more or fewer fields, where lines end in different ways, where a text with quotation
    marks goes on in the next line or a mark stands elsewhere than around a text, and where the last row is empty.

    Args:
        width: number of columns.
        quote: the mark around texts; empty for none.
        missing: the texts that mean a missing value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    last = block.rstrip("\r\n").rpartition("\n")[2]
    odd = not separator.isascii() or separator == " " or "\0" in block or block.startswith("\ufeff")
    if odd or not last.replace(separator, "").replace(quote, "").strip():
        return None
    if "\r" in block and block.count("\r") != block.count("\r\n"):
        return None
    quote = quote if quote and quote in block else ""
    if quote and quote in _quoted(separator, quote).sub("", block):
        return None
    names = [str(place) for place in range(width)]
    data = block.encode("utf-8")
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            arrow_csv.ParseOptions(delimiter=separator, quote_char=quote or False),
            arrow_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.large_string()),
                null_values=sorted(missing),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:  # rows of different lengths
        return None
    columns = [column.combine_chunks() for column in table.columns]
    if len(data) > (most := csv.field_size_limit()) and any(
        (pc.max(pc.binary_length(column)).as_py() or 0) > most for column in columns
    ):
        return None
    return [known(column, missing) if _may_be_trimmed(column) else column for column in columns]


def _quoted(separator: str, quote: str) -> re.Pattern[str]:
    """Return what matches a field with quotation marks around its text, which may hold doubled ones."""
    sign = re.escape(separator)
    return re.compile(rf"(?<![^{sign}\n]){quote}(?:[^{quote}\r\n]|{quote}{quote})*+{quote}(?![^{sign}\r\n])")


def _bytes_of(texts: Any) -> bytes:
    """Return what an array of texts holds, and perhaps more: it may be a part of another."""
    data = texts.buffers()[2]
    return b"" if data is None else data.to_pybytes()


def _may_be_trimmed(texts: Any) -> bool:
    data = _bytes_of(texts)
    return not data.isascii() or any(blank in data for blank in _BLANKS)


def known(cells: Sequence[str] | Any, missing: Collection[str]) -> Any:
    """Return values as an array of arrow, without spaces around them, and null where one is missing.

    Args:
        cells: texts, or an array of them.
        missing: the texts that mean a missing value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = cells if isinstance(cells, pa.Array) else pa.array(cells, pa.large_string())
    texts = pc.utf8_trim_whitespace(texts)
    gone = pc.is_in(texts, value_set=pa.array(sorted(missing), pa.large_string()))
    return pc.if_else(gone, pa.scalar(None, pa.large_string()), texts)


def kinds_in(texts: Any, form: NumberFormat) -> set[str]:
    """Return the kinds of the values that are not missing.

    Args:
        texts: an array as `known` returns it.
    """
    import pyarrow.compute as pc

    texts = texts.drop_null() if texts.null_count else texts
    if form == USUAL and (plain := _plain_kinds(texts)) is not None:
        return plain
    kinds: set[str] = set()
    texts = _spaced(texts.unique(), form)
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


def _plain_kinds(texts: Any) -> set[str] | None:
    """Return the kinds of numbers and truth values as programs write them; None for any others.

    Arrow reads more texts as numbers than `NumberFormat` does: those with zeros at the beginning and without a point
    before an exponent, such as 007 and 1e5, are the ones with a point or without that it also reads.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(texts):
        return set()
    first = USUAL.kind(texts[0].as_py())
    if first not in (BOOL, INT, FLOAT):
        return None
    if first == BOOL:
        both = pa.array([*TRUE, *FALSE], pa.large_string())
        return {BOOL} if pc.all(pc.is_in(texts, value_set=both)).as_py() else None
    whole, fractions = texts, texts.slice(0, 0)
    if b"." in _bytes_of(texts):
        pointed = pc.match_substring(texts, ".")
        if pc.all(pointed).as_py():
            whole, fractions = fractions, texts
        else:
            whole, fractions = texts.filter(pc.invert(pointed)), texts.filter(pointed)
    try:
        numbers = pc.cast(whole, pa.int64())
        pc.cast(fractions, pa.float64())
    except pa.ArrowInvalid:
        return None
    if not pc.all(pc.equal(pc.cast(numbers, pa.large_string()), whole), min_count=0).as_py():
        return None
    for sign in ("0", "-0"):
        zeros = pc.starts_with(fractions, sign)
        if pc.any(zeros).as_py() and pc.starts_with(fractions, sign + ".") != zeros:
            return None
    ends = pc.min_max(numbers).as_py()
    if len(numbers) and not -_EXACT <= ends["min"] <= ends["max"] <= _EXACT:
        return None
    return ({INT} if len(numbers) else set()) | ({FLOAT} if len(fractions) else set())


def column_of(texts: Any, type_: str, form: NumberFormat) -> pd.Series[Any]:
    """Return the values of a column of this type; whole numbers and truth values with gaps stay such.

    Args:
        texts: an array as `known` returns it, of values that are of the type.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    if type_ == TEXT:
        found = texts.to_pandas()
        return found if found.dtype == text_column(["text"]).dtype else text_column(texts.to_pylist())
    if type_ == BOOL:
        found = pc.is_in(texts, value_set=pa.array(TRUE, pa.large_string()))
        found = pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), found)
    else:
        wanted = pa.int64() if type_ == INT else pa.float64()
        try:
            found = pc.cast(texts if form == USUAL else _as_python_writes(texts, form), wanted)
        except pa.ArrowInvalid:  # a plus
            found = pc.cast(_as_python_writes(texts, form), wanted)
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
