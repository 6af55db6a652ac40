"""The layout of a table in a text file, found by a look at its first rows where the owner's options leave it open.

What can be read in two ways is not decided here: it is refused, and the message names the option that decides.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

from fedjob.common.errors import MissingPackage, SpecError, UnreadableData
from fedjob.data.column_types import MISSING_TEXTS, SPACES, USUAL, NumberFormat
from fedjob.data.readers.base import words

LOOK_BYTES = 256 * 1024
LOOK_ROWS = 1000

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
_DECIMALS = {"point": ".", "comma": ","}
_THOUSANDS = {"none": "", "point": ".", "comma": ",", "space": " ", "apostrophe": "'"}

TEXT_OPTIONS: Mapping[str, str] = {
    "separator": "the separator between columns: comma, semicolon, tab, pipe, space, or a character (default: found)",
    "decimal": "the decimal sign of numbers: point or comma (default: found)",
    "thousands": "the sign between thousands: none, point, comma, space or apostrophe (default: found)",
    "encoding": "of the text, such as utf-8 or cp1252 (default: found)",
    "skip": "the number of lines before the header, or before the data, that are left out (default 0)",
    "header": "yes, no, or the number of header rows, of which the first names the columns (default yes, no with names)",
    "names": "column names, comma separated; with header=yes in place of those of the file",
    "na": "texts that mean a missing value, comma separated, beside the usual ones",
    "text": "columns that are kept as text, comma separated, such as codes and identifiers",
    "numbers": "columns of numbers that may begin with zeros, comma separated; such columns are text otherwise",
    "quote": "double, single or none: the marks around texts that contain separators (default double)",
    "short_rows": "error or missing: what to do with rows of too few fields (default error)",
}
"""The options of a table in a text file: option -> one line of help."""

_CANDIDATES = (",", ";", "\t", "|")
_QUOTES = {"double": '"', "single": "'", "none": ""}
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçñîïìôûùúÉÈÊÀÂÇÑåæøÅÆØáíóòÁÍÓÚãõÃÕœŒ°µ²³€£§±½¼–—’‘“”„…\u00a0´·×«»®™¿¡ºª")
_SIGNS = frozenset(",. '\u00a0\u2009\u202f\u2019")
_ENCODINGS = (
    "cp1252 (western Europe), cp1250 (central Europe), cp1251 (Cyrillic), cp1253 (Greek), utf-16, gb18030"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """The form of a table in a text file.

    Args:
        separator: one character; a space stands for any number of spaces and tabs.
        quote: the character around texts; empty for none.
        skip: lines before the header.
        header: rows of names, of which the first counts.
        found: option -> its value, for those that the look at the file decided differently than the default.
    """

    encoding: str = "utf-8"
    separator: str = ","
    quote: str = '"'
    skip: int = 0
    header: int = 1
    numbers: NumberFormat = USUAL
    found: Mapping[str, str]


@contextmanager
def opened_bytes(file: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if its name says that it is packed.

    Raises:
        UnreadableData: it can't be unpacked.
        MissingPackage: zst needs the package zstandard.
    """
    suffix = file.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            inside = [name for name in archive.namelist() if not name.endswith("/")]
            if len(inside) != 1:
                raise UnreadableData(f"{file} holds {len(inside)} files; expected one table")
            with archive.open(inside[0]) as stream:
                yield stream
        return
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if suffix == ".zst":
        try:
            openers[suffix] = import_module("zstandard").open
        except ImportError as error:
            raise MissingPackage(f"{file.name} needs the package zstandard: pip install zstandard") from error
    with openers.get(suffix, open)(file, "rb") as stream:
        yield stream


def layout_of(file: Path, options: Mapping[str, str]) -> TextLayout:
    """Return the layout of a file: what the options say, and the rest as its first rows show it.

    Raises:
        UnreadableData: the file is empty or no text, or can be read in several ways.
        SpecError: an option has no such value.
    """
    with opened_bytes(file) as stream:
        head = stream.read(LOOK_BYTES)
    if not head.strip():
        raise UnreadableData(f"{file} can't be read as csv: it is empty")
    found: dict[str, str] = {}
    encoding, text = _encoding(file, head, options, found)
    skip = _count(options, "skip")
    lines = list(io.StringIO(text, newline=""))[skip:]
    if len(head) == LOOK_BYTES and len(lines) > 1:
        lines.pop()  # it may be cut
    separator = _one_of(options, "separator", SEPARATORS, character=True)
    if not skip and lines and (announced := re.fullmatch(r"sep=(.)\s*", lines[0])):  # a line for spreadsheets
        lines, skip = lines[1:], 1
        if separator is None:
            separator = announced[1]
            found["separator"] = _word(SEPARATORS, separator)
    layout = TextLayout(
        encoding=encoding,
        quote=_one_of(options, "quote", _QUOTES) if "quote" in options else '"',
        skip=skip,
        header=_header_rows(options),
        found=found,
    )
    if separator is None:
        separator = _separator(file, lines, layout)
        if separator != ",":
            found["separator"] = _word(SEPARATORS, separator)
    layout = replace(layout, separator=separator)
    _check_separator(file, lines, layout, options)
    return replace(layout, numbers=_number_format(file, lines, layout, options, found), found=dict(found))


def rows_in(lines: Iterable[str], layout: TextLayout) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of lines of text, each with the number of the line that it ends in.

    Raises:
        csv.Error: a quotation mark does not end, or a field is longer than 128 KiB.
    """
    if layout.separator == " ":
        lines = (line.replace("\t", " ").strip() + "\n" for line in lines)
    form: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE, "quotechar": None} if not layout.quote else {"quotechar": layout.quote}
    )
    reader = csv.reader(lines, delimiter=layout.separator, skipinitialspace=True, strict=True, **form)
    for row in reader:
        if row:
            yield reader.line_num, row


def first_rows(lines: Sequence[str], layout: TextLayout) -> list[list[str]]:
    """Return the rows of the look; of lines that can't be read, those before."""
    rows: list[list[str]] = []
    with suppress(csv.Error):  # whoever reads the whole file raises it
        rows.extend(row for _, row in islice(rows_in(lines, layout), LOOK_ROWS) if any(map(str.strip, row)))
    return rows


def trimmed(row: list[str]) -> list[str]:
    """Return a row without the empty fields at its end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


# --- encoding ------------------------------------------------------------------------------------


def _encoding(file: Path, head: bytes, options: Mapping[str, str], found: dict[str, str]) -> tuple[str, str]:
    """Return the encoding, and the beginning of the file as text."""
    given = options.get("encoding")
    if given is not None:
        plain = given.lower().replace("-", "").replace("_", "")
        codec = "utf-8-sig" if plain == "utf8" else given
        try:
            "".encode(codec)  # which refuses codecs that are for something else than text
            return codec, _decoded(head, codec)
        except LookupError as error:
            raise SpecError(
                f"option encoding: there is none of the name {given!r}; try {_ENCODINGS}"
            ) from error
        except UnicodeError as error:
            raise UnreadableData(
                f"{file} can't be read as csv: it is not encoded in {given}; give another --option encoding=..., such "
                f"as utf-8, {_ENCODINGS}"
            ) from error
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        found["encoding"] = "utf-16"
        return "utf-16", _decoded(head[: len(head) // 2 * 2], "utf-16")
    if b"\0" in head:
        raise UnreadableData(
            f"{file} can't be read as csv: it holds bytes that no text has; if it is text, say how it is encoded, "
            "--option encoding=utf-16-le"
        )
    try:
        return "utf-8-sig", _decoded(head, "utf-8-sig")
    except UnicodeError:
        pass
    text = head.decode("cp1252", errors="replace")
    if not _is_western(text):
        raise UnreadableData(
            f"{file} can't be read as csv: it is not encoded in UTF-8; say in what, --option encoding=..., such as "
            f"{_ENCODINGS}"
        )
    found["encoding"] = "cp1252"
    return "cp1252", text


def _decoded(head: bytes, encoding: str) -> str:
    """Decode the beginning of a file, whose last character may be cut."""
    from codecs import getincrementaldecoder

    return getincrementaldecoder(encoding)().decode(head, final=len(head) < LOOK_BYTES)


def _is_western(text: str) -> bool:
    """True if text that was decoded as cp1252 looks like a language of western Europe."""
    if any(ord(character) > 127 and character not in _WESTERN for character in text):
        return False
    return not re.search(r"[^\W\d_\x00-\x7f]{3}|[^\W\d_][²³¼½£µ·][^\W\d_]", text)


# --- options -------------------------------------------------------------------------------------


def _one_of(
    options: Mapping[str, str], name: str, known: Mapping[str, str], *, character: bool = False
) -> Any:
    given = options.get(name)
    if given is None:
        return None
    if given in known:
        return known[given]
    if given == "\\t":
        given = "\t"
    if given in known.values() or (character and len(given) == 1 and given not in "\r\n"):
        return given
    more = ", or one character" if character else ""
    raise SpecError(f"option {name} is {', '.join(known)}{more}; found {given!r}")


def _word(known: Mapping[str, str], sign: str) -> str:
    return next((word for word, own in known.items() if own == sign), sign)


def _count(options: Mapping[str, str], name: str) -> int:
    given = options.get(name, "0")
    if not given.isdecimal() or int(given) > LOOK_ROWS:
        raise SpecError(f"option {name} is a number of lines from 0 to {LOOK_ROWS}; found {given!r}")
    return int(given)


def _header_rows(options: Mapping[str, str]) -> int:
    given = options.get("header")
    if given is None:
        return 0 if words(options, "names") else 1
    known = {"yes": 1, "true": 1, "on": 1, "no": 0, "false": 0, "off": 0}
    if given.lower() in known:
        return known[given.lower()]
    if given.isdecimal() and int(given) <= 10:
        return int(given)
    raise SpecError(f"option header is yes or no, or a number of rows up to 10; found {given!r}")


# --- separator -----------------------------------------------------------------------------------


def _separator(file: Path, lines: Sequence[str], layout: TextLayout) -> str:
    """Return the separator that divides all of the first rows into the same number of columns, two or more.

    Without such a one the first line decides, so that the rows that differ from it are named.
    """
    if {"tsv", "tab"} & set(file.name.lower().split(".")[1:][-2:]) and any("\t" in line for line in lines):
        return "\t"
    divided: dict[str, list[list[str]]] = {}
    for sign in _CANDIDATES:
        rows = first_rows(lines, replace(layout, separator=sign))
        if rows and len(rows[0]) > 1 and all(_fits(rows[0], row) for row in rows):
            divided[sign] = rows
    if divided:
        return min(
            divided, key=lambda sign: (_num_odd(divided[sign], set(divided) - {sign}), -len(divided[sign][0]))
        )
    header = next((line for line in lines if line.strip()), "")
    counts = {sign: header.count(sign) for sign in _CANDIDATES}
    most = max(counts, key=lambda sign: counts[sign])
    if counts[most]:
        return most
    if _is_spaced(first_rows(lines, replace(layout, separator=" "))):
        return " "
    return ","


def _is_spaced(rows: Sequence[list[str]]) -> bool:
    """True if rows that are divided by spaces look like a table: all as wide as the second, with a number in a column."""
    if len(rows) < 2 or len(rows[1]) < 2 or {len(row) for row in rows[1:]} != {len(rows[1])}:
        return False
    numeric = any(all(USUAL.is_number(cell) for cell in cells) for cells in zip(*rows[1:], strict=True))
    return numeric and len(rows[0]) in (len(rows[1]), len(rows[1]) - 1)


def _num_odd(rows: Sequence[list[str]], others: set[str]) -> int:
    """Return the number of fields in which other possible separators stand, numbers with a decimal comma aside."""
    commas = NumberFormat(",")
    return sum(bool(others & set(cell)) and not commas.is_number(cell) for row in rows for cell in row)


def _fits(first: list[str], row: list[str]) -> bool:
    """True if a row has as many fields as the first one, empty ones at the end aside."""
    return len(row) == len(first) or (len(trimmed(row)) <= len(trimmed(first)) < len(row))


def _check_separator(
    file: Path, lines: Sequence[str], layout: TextLayout, options: Mapping[str, str]
) -> None:
    """Refuse a separator that leaves one column, or rows of different lengths, where another one divides all rows alike."""
    rows = first_rows(lines, layout)
    alike = all(_fits(rows[0], row) for row in rows)
    if not rows or (alike and len(rows[0]) > 1) or len(words(options, "names")) == 1:
        return
    for sign in _CANDIDATES:
        divided = first_rows(lines, replace(layout, separator=sign))
        if (
            sign != layout.separator
            and len(divided[0]) > 1
            and all(_fits(divided[0], row) for row in divided)
        ):
            word, now = _word(SEPARATORS, sign), _word(SEPARATORS, layout.separator)
            found = "it has one column" if alike else f"a {now} does not divide its rows alike"
            raise UnreadableData(
                f"{file} can't be read as csv: {found}, and a {word} in every row; give --option separator={word}"
                f"{', or its one name, --option names=NAME' if alike else ''}"
            )


# --- numbers -------------------------------------------------------------------------------------


def _number_format(
    file: Path, lines: Sequence[str], layout: TextLayout, options: Mapping[str, str], found: dict[str, str]
) -> NumberFormat:
    """Return how the file writes numbers: as its options say, or in the one way in which the first rows can be read.

    Raises:
        UnreadableData: the first rows have numbers of several forms, or such that can be read in two ways.
    """
    decimal, thousands = _one_of(options, "decimal", _DECIMALS), _one_of(options, "thousands", _THOUSANDS)
    if decimal is not None and decimal == thousands:
        raise SpecError(f"options decimal and thousands are both {options['decimal']}; expected two signs")
    columns = _signed_columns(first_rows(lines, layout)[layout.header :], layout, options)
    used_signs = {SPACES.get(sign, sign) for cells in columns.values() for sign in set("".join(cells))}
    fitting: dict[NumberFormat, set[int]] = {}
    for form in _forms(decimal, thousands):
        if thousands is None and form.thousands and form.thousands not in used_signs:
            continue
        of_form = {place for place, cells in columns.items() if all(form.is_number(cell) for cell in cells)}
        grouped = [cell for place in of_form for cell in columns[place] if _shows_thousands(form, cell)]
        if not form.thousands or thousands is not None or grouped:
            fitting[form] = of_form
    best = max(fitting, key=lambda form: len(fitting[form]))
    others = set().union(*fitting.values()) - fitting[best]
    if others and decimal is None:
        raise UnreadableData(
            f"{file} can't be read as csv: columns {min(fitting[best]) + 1} and {min(others) + 1} write numbers with "
            "different signs; say which is the decimal sign, --option decimal=comma or --option decimal=point, and where "
            "thousands have a sign, --option thousands=point (or comma, space, apostrophe)"
        )
    sign = best.decimal
    used = [cell for place in fitting[best] for cell in columns[place] if sign in cell]
    doubtful = decimal is None and not best.thousands and (sign == "," or layout.separator == ";")
    if doubtful and used and all(re.fullmatch(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", cell) for cell in used):
        word = _word(_DECIMALS, sign)
        raise UnreadableData(
            f"{file} can't be read as csv: numbers with a {word} before three digits may be fractions or thousands; "
            f"say which, --option decimal={word} or --option thousands={word}"
        )
    if decimal is None and best.decimal != ".":
        found["decimal"] = _word(_DECIMALS, best.decimal)
    if thousands is None and best.thousands:
        found["thousands"] = _word(_THOUSANDS, best.thousands)
    return best


def _forms(decimal: str | None, thousands: str | None) -> list[NumberFormat]:
    """Return the ways to write numbers that the options leave, the usual one first."""
    if decimal is None and thousands in (",", "."):
        decimal = "." if thousands == "," else ","
    return [
        NumberFormat(point, group)
        for group in (("", ",", ".", " ", "'") if thousands is None else (thousands,))
        for point in ((".", ",") if decimal is None else (decimal,))
        if point != group
    ]


def _signed_columns(
    rows: Sequence[list[str]], layout: TextLayout, options: Mapping[str, str]
) -> dict[int, list[str]]:
    """Return the values of each column in which a value has a sign that numbers may have; those kept as text aside."""
    missing = MISSING_TEXTS | set(words(options, "na"))
    columns: dict[int, list[str]] = {}
    for row in rows:
        for place, cell in enumerate(row):
            if (text := cell.strip()) not in missing:
                columns.setdefault(place, []).append(text)
    return {place: cells for place, cells in columns.items() if any(_SIGNS & set(cell) for cell in cells)}


def _shows_thousands(form: NumberFormat, cell: str) -> bool:
    """True if a number leaves no doubt that it has a sign between thousands: two of them, or a fraction as well.

    Two spaces are not enough: telephone numbers and identifiers have them, too.
    """
    sign = form.thousands
    if not sign:
        return False
    text = form.spaced(cell)
    return sign in text and (form.decimal in text or (sign in ",." and text.count(sign) > 1))
