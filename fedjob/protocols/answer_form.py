"""The form of the plain value that an ask's answers must have: names, lengths and kinds of numbers.

A protocol declares it with the ask, from what it has sent, so that an answer of another form is left out before
anything is computed with it:

    from fedjob.protocols.answer_form import Count, Numbers, Record
    from fedjob.protocols.base import Ask

    Ask(step="sums", answer=Record({"count": Count(), "linear": Numbers((4,))}))

A form is closed: a name that it does not have, or lacks, is refused.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_COUNT = 10**12
"""The most rows that anybody has."""

MAX_SIZE = 1e300
"""The largest number, so that sums over all nodes are finite."""

MAX_KEYS = 100_000


class AnswerForm(ABC):
    """The form of one value, or of a part of it."""

    @abstractmethod
    def problem(self, found: Any, place: str = "the value") -> str:
        """Return what is expected and what was found in its place; empty if the value has this form."""


@dataclass(frozen=True, slots=True)
class Anything(AnswerForm):
    """Any plain value, such as what a researcher's function returns."""

    def problem(self, found: Any, place: str = "the value") -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Nothing(AnswerForm):
    """No plain value: the answer is tensors, metrics or a node state; the tensors of a model without any are `{}`."""

    def problem(self, found: Any, place: str = "the value") -> str:
        return "" if found is None or found == {} else f"{place}: expected none, found {_words(found)}"


@dataclass(frozen=True, slots=True)
class Something(AnswerForm):
    """Any plain value but none."""

    def problem(self, found: Any, place: str = "the value") -> str:
        return f"{place}: expected a value, found none" if found is None else ""


@dataclass(frozen=True, slots=True)
class Count(AnswerForm):
    """A whole number of 0 or more.

    Args:
        most: the largest.
    """

    most: int = MAX_COUNT

    def problem(self, found: Any, place: str = "the value") -> str:
        if type(found) is int and 0 <= found <= self.most:
            return ""
        return f"{place}: expected a whole number from 0 to {self.most:g}, found {_words(found)}"


@dataclass(frozen=True, slots=True)
class Number(AnswerForm):
    """A finite number.

    Args:
        least: the smallest.
    """

    least: float = -MAX_SIZE

    def problem(self, found: Any, place: str = "the value") -> str:
        if type(found) in (int, float) and self.least <= found <= MAX_SIZE:  # NaN is in no range
            return ""
        return f"{place}: expected a number from {self.least:g} to {MAX_SIZE:g}, found {_words(found)}"


@dataclass(frozen=True, slots=True)
class Numbers(AnswerForm):
    """Lists of numbers, nested as the axes of an array.

    Args:
        shape: length of each axis; None for any, which must be the same in all lists of that axis.
        of: the form of each number.
    """

    shape: tuple[int | None, ...]
    of: AnswerForm = field(default_factory=Number)

    def problem(self, found: Any, place: str = "the value") -> str:
        return self._problem(found, place, self.shape)

    def _problem(self, found: Any, place: str, shape: tuple[int | None, ...]) -> str:
        if not shape:
            return self.of.problem(found, place)
        if not isinstance(found, list) or (shape[0] is not None and len(found) != shape[0]):
            length = "" if shape[0] is None else f" of {shape[0]}"
            return f"{place}: expected a list{length}, found {_words(found)}"
        for number, item in enumerate(found):
            if problem := self._problem(item, f"{place}[{number}]", shape[1:]):
                return problem
        return ""


@dataclass(frozen=True, slots=True)
class Row(AnswerForm):
    """A list with an entry of each of some forms, in their order."""

    of: tuple[AnswerForm, ...]

    def problem(self, found: Any, place: str = "the value") -> str:
        if not isinstance(found, list) or len(found) != len(self.of):
            return f"{place}: expected a list of {len(self.of)}, found {_words(found)}"
        problems = (
            one.problem(item, f"{place}[{number}]")
            for number, (one, item) in enumerate(zip(self.of, found, strict=True))
        )
        return next(filter(None, problems), "")


@dataclass(frozen=True, slots=True)
class Record(AnswerForm):
    """A map with these names, each of its own form.

    Args:
        fields: name -> form.
        optional: names that may be missing, because an owner may withhold them.
    """

    fields: Mapping[str, AnswerForm]
    optional: Collection[str] = ()

    def problem(self, found: Any, place: str = "the value") -> str:
        if not isinstance(found, Mapping):
            return f"{place}: expected a map of {', '.join(self.fields)}, found {_words(found)}"
        missing = [name for name in self.fields if name not in found and name not in self.optional]
        surplus = [str(name)[:80] for name in found if name not in self.fields]
        if missing or surplus:
            return f"{place}: missing {missing[:3]}, unexpected {surplus[:3]}"
        problems = (
            form.problem(found[name], f"{place}.{name}")
            for name, form in self.fields.items()
            if name in found
        )
        return next(filter(None, problems), "")


@dataclass(frozen=True, slots=True)
class TableOf(AnswerForm):
    """A map from texts that only the nodes know, such as categories, to entries of one form.

    Args:
        most: number of entries.
        of_numbers: the texts are finite numbers.
    """

    of: AnswerForm
    most: int = MAX_KEYS
    of_numbers: bool = False

    def problem(self, found: Any, place: str = "the value") -> str:
        if not isinstance(found, Mapping) or len(found) > self.most:
            return f"{place}: expected a map of at most {self.most} entries, found {_words(found)}"
        if odd := [name for name in found if not isinstance(name, str)]:
            return f"{place}: expected texts as names, found {_words(odd[0])}"
        if self.of_numbers and (odd := [name for name in found if not _is_number(name)]):
            return f"{place}: expected finite numbers as names, found {odd[0][:40]!r}"
        problems = (self.of.problem(item, f"{place}.{name[:80]}") for name, item in found.items())
        return next(filter(None, problems), "")


@dataclass(frozen=True, slots=True)
class Points(AnswerForm):
    """Bytes that divide into items of one length.

    Args:
        item_bytes: of one item.
        most: number of items.
        count: their exact number; None for any up to `most`.
    """

    item_bytes: int
    most: int
    count: int | None = None

    def problem(self, found: Any, place: str = "the value") -> str:
        if not isinstance(found, bytes) or len(found) % self.item_bytes:
            return f"{place}: expected items of {self.item_bytes} bytes each, found {_words(found)}"
        num = len(found) // self.item_bytes
        if num > self.most or self.count not in (None, num):
            wanted = f"at most {self.most}" if self.count is None else str(self.count)
            return f"{place}: expected {wanted} items of {self.item_bytes} bytes, found {num}"
        return ""


def _is_number(text: str) -> bool:
    try:
        return len(text) <= 40 and math.isfinite(float(text))
    except ValueError:
        return False


def _words(found: Any) -> str:
    """Return what was found, in few words: its content is somebody else's."""
    if found is None:
        return "none"
    if isinstance(found, (bool, int)):
        return (
            f"the whole number {found}"
            if type(found) is int and abs(found) < 10**15
            else type(found).__name__
        )
    if isinstance(found, float):
        return f"{found:g}" if math.isfinite(found) else str(found)
    if isinstance(found, (list, Mapping, str, bytes)):
        kinds = {list: "a list", str: "a text", bytes: "bytes"}
        return f"{kinds.get(type(found), 'a map')} of {len(found)}"
    return type(found).__name__
