"""The measures that statistics are asked for: which of them, and of which columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from fedjob.common.checks import check_kinds, is_number, python_numbers, shown
from fedjob.common.errors import SpecError
from fedjob.data.category import category_text
from fedjob.data.column_types import BOOL, FLOAT, INT, LONG, TRUE, USUAL
from fedjob.protocols.analytics.quantiles import FIRST_EDGES, edges_within
from fedjob.protocols.analytics.table import MAX_CATEGORIES, MAX_CATEGORY_CHARS, check_names
from fedjob.protocols.answer_form import AnswerForm, Count, Number, Numbers, Record, Row, TableOf

_OF_COLUMNS = ("count", "missing", "mean", "variance", "std", "min", "max")
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Measures of columns, over all nodes and in groups. `Statistics` describes each field.

    Raises:
        SpecError: nothing is asked for, or not in this form.
    """

    count: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mean: tuple[str, ...] = ()
    variance: tuple[str, ...] = ()
    std: tuple[str, ...] = ()
    min: tuple[str, ...] = ()
    max: tuple[str, ...] = ()
    histogram: dict[str, tuple[float, ...]] = field(default_factory=dict)
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    covariance: tuple[str, ...] = ()
    correlation: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    precision: float = 1e-9
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    levels: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in (*_OF_COLUMNS, "categories", "covariance", "correlation", "table", "by"):
            least = 2 if name in ("covariance", "correlation", "table") and getattr(self, name) else 0
            object.__setattr__(self, name, check_names(name, getattr(self, name), least=least))
        object.__setattr__(self, "histogram", _checked_edges(self.histogram))
        object.__setattr__(self, "quantiles", _checked_fractions(self.quantiles))
        object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
        object.__setattr__(self, "levels", _checked_levels(self.levels))
        if not 1e-15 <= self.precision <= 0.5:
            raise SpecError(f"precision is a fraction from 1e-15 to 0.5, not {shown(self.precision)}")
        if not self.all_columns:
            raise SpecError(
                'nothing is asked for: Statistics(mean="age"), for example; see docs/analytics.md'
            )

    @property
    def counted_columns(self) -> tuple[str, ...]:
        """The columns that have measures of one number each, which stand in one row."""
        return together(*(getattr(self, name) for name in _OF_COLUMNS))

    @property
    def column_measures(self) -> tuple[str, ...]:
        """The measures that stand in such a row."""
        return tuple(name for name in _OF_COLUMNS if getattr(self, name))

    @property
    def spread_columns(self) -> tuple[str, ...]:
        """Those whose variance is needed."""
        return together(self.variance, self.std)

    @property
    def joint_columns(self) -> tuple[str, ...]:
        """Those whose products are needed."""
        return together(self.covariance, self.correlation)

    @property
    def summed_columns(self) -> tuple[str, ...]:
        """Those that have to hold numbers, for a sum."""
        return together(self.mean, self.spread_columns)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """All but those to group by."""
        return together(
            self.counted_columns,
            tuple(self.histogram),
            tuple(self.quantiles),
            self.categories,
            self.joint_columns,
            self.table,
        )


def together(*names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of all these, each once, in their order."""
    return tuple(dict.fromkeys(name for some in names for name in some))


def _checked_edges(histogram: Any) -> dict[str, tuple[float, ...]]:
    if not isinstance(histogram, Mapping):
        raise SpecError(f"histogram maps columns to the edges of their bins; found {shown(histogram)}")
    checked = {name: _numbers(f"histogram[{shown(name)}]", edges) for name, edges in histogram.items()}
    for name, edges in checked.items():
        ascending = all(low < high for low, high in pairwise(edges))
        if len(edges) < 2 or not ascending or not all(map(math.isfinite, edges)):
            raise SpecError(
                f"histogram[{shown(name)}] has two ascending, finite edges or more; found {edges}"
            )
    return checked


def _checked_fractions(quantiles: Any) -> dict[str, tuple[float, ...]]:
    if not isinstance(quantiles, Mapping):
        quantiles = dict.fromkeys(check_names("quantiles", quantiles), _QUARTILES)
    checked = {name: _numbers(f"quantiles[{shown(name)}]", given) for name, given in quantiles.items()}
    for name, fractions in checked.items():
        if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
            raise SpecError(f"quantiles[{shown(name)}] has fractions from 0 to 1; found {fractions}")
    return checked


_MIDNIGHT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]00:00:00")
_MIDNIGHT_CHARS = 19


@lru_cache(maxsize=100_000)
def level_text(text: str) -> str:
    """Return the name of a category that is the same whatever type a file's other rows give its column.

    Equal are `1`, `1.0`, true and the texts of them, and a day and its midnight; codes such as `01` are texts.
    """
    if len(text) == _MIDNIGHT_CHARS and (day := _MIDNIGHT.fullmatch(text)):
        return day[1]
    kind = USUAL.kind(text)
    if kind == BOOL:
        return "1" if text in TRUE else "0"
    if kind in (INT, LONG, FLOAT):
        return category_text(float(text))
    return text[:MAX_CATEGORY_CHARS]


def _checked_levels(levels: Any) -> dict[str, tuple[str, ...]]:
    """Return the argument `levels` of statistics: column -> names of its categories.

    Raises:
        SpecError: it is no such map, or has a category twice.
    """
    if not isinstance(levels, Mapping):
        raise SpecError(f"levels maps columns to lists of their categories; found {shown(levels)}")
    checked = {}
    for name, given in levels.items():
        what = f"levels[{shown(name)}]"
        values = list(given) if isinstance(given, (list, tuple, range)) else []
        if not values or any(value is None or isinstance(value, (list, tuple, Mapping)) for value in values):
            raise SpecError(f"{what} is a list of one category or more, not {shown(given)}")
        texts = tuple(level_text(category_text(value)) for value in values)
        if len(set(texts)) < len(texts):
            raise SpecError(f"{what} has a category twice: {shown(values)}")
        if len(texts) > MAX_CATEGORIES:
            raise SpecError(f"{what} has {len(texts):,} categories, at most {MAX_CATEGORIES:,}")
        checked[str(name)] = texts
    return checked


def _checked_bounds(bounds: Any) -> dict[str, tuple[float, float]]:
    """Return the argument `bounds` of statistics: column -> least and largest value.

    Raises:
        SpecError: it is no such map.
    """
    if not isinstance(bounds, Mapping):
        raise SpecError(f"bounds maps columns to their least and largest value; found {shown(bounds)}")
    checked = {}
    for name, given in bounds.items():
        try:
            low, high = (float(value) for value in given)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(
                f"bounds[{shown(name)}] is a pair of numbers such as (0, 120), not {shown(given)}"
            ) from error
        if not (low < high and math.isfinite(high - low)):
            raise SpecError(
                f"bounds[{shown(name)}] is a finite number and a larger one, found ({low:g}, {high:g})"
            )
        checked[str(name)] = (low, high)
    return checked


def _numbers(what: str, given: Any) -> tuple[float, ...]:
    """Return a number or several as floats."""
    try:
        found = python_numbers(given)
        if isinstance(found, (str, bytes, Mapping)):
            raise TypeError
        return tuple(float(number) for number in ([found] if is_number(found) else found))
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecError(f"{what} is a list of numbers, not {shown(given)}") from error


MAX_GROUPS = 10_000
"""Groups, categories or combinations of one node: no more cells leave it."""


def first_form(measures: Measures) -> dict[str, AnswerForm]:
    """Return the form of each part of a node's first answer; a part whose cells are all withheld is missing."""
    columns: dict[str, AnswerForm] = {}
    for name in measures.counted_columns:
        counts: dict[str, AnswerForm] = {"count": Count(), "missing": Count()}
        columns[name] = Record({**counts, "sum": Number()} if name in measures.summed_columns else counts)
    binned = {
        name: Record(dict.fromkeys(places, Count()), optional=places)
        for name, edges in measures.histogram.items()
        for places in [("below", *map(str, range(len(edges) - 1)), "above")]
    }
    counted: AnswerForm = TableOf(Count(), MAX_GROUPS)
    width = len(measures.joint_columns)
    pair = Row((Number(), Number()))
    parts: dict[str, AnswerForm] = {
        "rows": counted,
        "withheld": Count(),
        "columns": _by_group(columns),
        "histogram": _by_group(binned),
        "categories": _by_group(dict.fromkeys(measures.categories, counted)),
        "joint": TableOf(Row((Count(), Numbers((width,)))), MAX_GROUPS),
        "table": TableOf(counted, MAX_GROUPS),
        "extremes": _by_group(dict.fromkeys((*measures.min, *measures.max), pair)),
    }
    return parts | quantile_form(measures, None)


def centred_form(measures: Measures) -> dict[str, AnswerForm]:
    """Return the form of sums of differences from the centres, of their squares and of their products."""
    width = len(measures.joint_columns)
    sums = Row((Count(), Number(), Number(0.0)))
    products = Row((Count(), Numbers((width,)), Numbers((width, width))))
    return {
        "centred": _by_group(dict.fromkeys(measures.spread_columns, sums)),
        "products": TableOf(products, MAX_GROUPS),
    }


def quantile_form(
    measures: Measures, brackets: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, AnswerForm]:
    """Return the form of the counts below the edges of brackets; those of the first grid, for None, in any group."""
    if brackets is None:
        first = dict.fromkeys(measures.quantiles, _bracket_form([len(FIRST_EDGES)]))
        return {"quantiles": _by_group(first)}
    groups: dict[str, AnswerForm] = {}
    for group, columns in brackets.items():
        lengths = {
            name: [len(edges_within(*span)) for span in spans] for name, spans in columns.items() if spans
        }
        forms = {name: _bracket_form(found) for name, found in lengths.items()}
        groups[group] = Record(forms, optional=set(forms))
    return {"quantiles": Record(groups, optional=set(groups))}


def _bracket_form(lengths: Sequence[int]) -> AnswerForm:
    bounds = [Row((Numbers((length,), Count()), Numbers((length,), Count()))) for length in lengths]
    return Record({"count": Count(), "brackets": Row(tuple(bounds))})


def _by_group(columns: Mapping[str, AnswerForm]) -> AnswerForm:
    return TableOf(Record(columns, optional=set(columns)), MAX_GROUPS)
