"""A table in text files: the one way in which csv, tsv and tables of demographics are read.

The files are read twice. The first time counts rows and settles the type of each column over all rows of all files;
the second time reads the values as these types. Both take rows in pieces, so that memory stays bounded.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.column_types import (
    BOOL,
    CODE,
    FLOAT,
    INT,
    MISSING_TEXTS,
    TEXT,
    USUAL,
    NumberFormat,
    column_of,
    common_type,
    text_column,
)
from fedjob.data.readers.base import words
from fedjob.data.readers.text_layout import TextLayout, layout_of, opened_bytes, rows_in, trimmed

if TYPE_CHECKING:
    import pandas as pd

_CHUNK_ROWS = 50_000
_SHORT_ROWS = ("error", "missing")
_WHOLE = re.compile(r"-?[0-9]+(\.0)?")


@dataclass
class _Facts:
    """What a look at all rows found.

    Args:
        kinds: of the values of each column, in the order of the columns.
        num_empty: rows without any value, which are left out.
    """

    kinds: list[set[str]]
    num_rows: int = 0
    num_empty: int = 0


class TextTable:
    """A table in one text file, or in several with the same columns.

    Args:
        files: read one after the other.
        options: see `TEXT_OPTIONS`.
    """

    def __init__(self, files: Sequence[Path], options: Mapping[str, str]) -> None:
        self._files = list(files)
        self._options = dict(options)
        self._missing = MISSING_TEXTS | set(words(options, "na"))
        self._short = options.get("short_rows", "error")
        if self._short not in _SHORT_ROWS:
            raise SpecError(f"option short_rows is {' or '.join(_SHORT_ROWS)}; found {self._short!r}")

    @cached_property
    def layouts(self) -> dict[Path, TextLayout]:
        """File -> its layout."""
        found = {}
        for file in self._files:
            with _reading(file):
                found[file] = layout_of(file, self._options)
        return found

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns.

        Raises:
            UnreadableData: the files have different columns, or two columns have one name.
            SpecError: an option names a column that is not there.
        """
        first = self._names_of(self._files[0])
        for file in self._files[1:]:
            if (found := self._names_of(file)) != first:
                raise UnreadableData(
                    f"{file.name} has columns {', '.join(found)[:200]}; expected those of {self._files[0].name}: "
                    f"{', '.join(first)[:200]}"
                )
        for option in ("text", "numbers"):
            for name in words(self._options, option):
                if name not in first:
                    raise SpecError(
                        f"option {option} names {name!r}, which is no column; there are {', '.join(first)[:300]}"
                    )
        return first

    @cached_property
    def types(self) -> dict[str, str]:
        """Column -> its type, in the order of the columns: `bool`, `int`, `float` or `string`."""
        found = {}
        text, numbers = words(self._options, "text"), words(self._options, "numbers")
        for name, kinds in zip(self.names, self._facts.kinds, strict=True):
            found[name] = TEXT if name in text else common_type(kinds)
            if name in numbers and found[name] not in (INT, FLOAT):
                raise UnreadableData(
                    f"{self._files[0].name}: option numbers names column {name!r}, but it holds other texts than numbers: "
                    "name those that mean missing values, --option na=..."
                )
        return found

    @property
    def num_rows(self) -> int:
        """The number of rows with a value or more."""
        return self._facts.num_rows

    @cached_property
    def notes(self) -> list[str]:
        """What the owner should know about how the files are read, in sentences."""
        ways: dict[str, list[str]] = {}
        for file, layout in self.layouts.items():
            if layout.found:
                ways.setdefault(" ".join(f"{k}={v}" for k, v in layout.found.items()), []).append(file.name)
        notes = [
            f"read with {way}, found in the first rows{f' of {names[0]}' if len(self._files) > 1 else ''}: give "
            "--option where that is wrong"
            for way, names in ways.items()
        ]
        if self._facts.num_empty:
            notes.append(f"{self._facts.num_empty} rows without any value are left out")
        kinds = dict(zip(self.names, self._facts.kinds, strict=True))
        if codes := [name for name in self.names if CODE in kinds[name] and not kinds[name] & {TEXT, BOOL}]:
            notes.append(
                f"{', '.join(codes)}: kept as text, because numbers would lose zeros at the beginning, an E or digits; "
                "--option numbers=NAME where they are numbers with zeros"
            )
        if self.num_rows and (empty := [name for name in self.names if not kinds[name]]):
            notes.append(f"{', '.join(empty)[:300]}: no row has a value")
        if unnamed := [name for name in self.names if name.startswith("Unnamed: ")]:
            notes.append(f"the header gives no name to {', '.join(unnamed)}: give --option names=...")
        return notes

    def read(self) -> pd.DataFrame:
        """Return the table."""
        import pandas as pd

        types = list(self.types.values())
        parts: list[list[pd.Series[Any]]] = [[] for _ in types]
        for file, rows in self._chunks():
            for place, texts in enumerate(self._columns(rows)):
                parts[place].append(column_of(texts, types[place], self._form(file, place)))
        found = {}
        for place, name in enumerate(self.names):
            empty = [column_of([], types[place], USUAL)]
            found[name] = pd.concat(parts[place] or empty, ignore_index=True)
        return pd.DataFrame(found, columns=self.names)

    def texts(self, name: str) -> pd.Series[Any]:
        """Return a column's values as they stand in the files, without spaces around them.

        Where all values are whole numbers, a fraction `.0`, as spreadsheets and pandas write it, is left out.

        Raises:
            SpecError: there is no such column.
        """
        if name not in self.names:
            raise SpecError(
                f"{self._files[0].name} has no column {name!r}; it has {', '.join(self.names)[:300]}"
            )
        place = self.names.index(name)
        texts: list[str | None] = []
        for _, rows in self._chunks():
            texts.extend(self._known(row[place] for row in rows))
        if all(_WHOLE.fullmatch(text) for text in texts if text is not None):
            texts = [None if text is None else text.removesuffix(".0") for text in texts]
        return text_column(texts)

    # --- rows ------------------------------------------------------------------------------------

    @cached_property
    def _facts(self) -> _Facts:
        facts = _Facts([set() for _ in self.names])
        text = {self.names.index(name) for name in words(self._options, "text")}
        for file, rows in self._chunks(facts):
            facts.num_rows += len(rows)
            for place, texts in enumerate(self._columns(rows)):
                kinds, form = facts.kinds[place], self._form(file, place)
                if place in text or TEXT in kinds:
                    kinds.add(TEXT)
                else:
                    kinds.update(form.kind(value) for value in set(texts) if value is not None)
        return facts

    def _form(self, file: Path, place: int) -> NumberFormat:
        numbers = self.layouts[file].numbers
        return (
            replace(numbers, zeros=True) if self.names[place] in words(self._options, "numbers") else numbers
        )

    def _known(self, cells: Iterator[str]) -> list[str | None]:
        return [None if (text := cell.strip()) in self._missing else text for cell in cells]

    def _columns(self, rows: list[list[str]]) -> Iterator[list[str | None]]:
        for cells in zip(*rows, strict=True):
            yield self._known(iter(cells))

    def _chunks(self, facts: _Facts | None = None) -> Iterator[tuple[Path, list[list[str]]]]:
        """Yield rows, some at a time, with the file that they are in."""
        for file in self._files:
            with _reading(file):
                rows = self._rows(file, facts)
                while chunk := list(islice(rows, _CHUNK_ROWS)):
                    yield file, chunk

    def _rows(self, file: Path, facts: _Facts | None) -> Iterator[list[str]]:
        """Yield the rows of a file, each with as many fields as there are names."""
        layout, width = self.layouts[file], len(self.names)
        for number, (line, row) in enumerate(self._raw(file)):
            if number < layout.header:
                continue
            if width > 1 and not any(map(str.strip, row)):
                if facts is not None:
                    facts.num_empty += 1
                continue
            if len(row) > width:
                row = [*row[:width], *trimmed(row[width:])]
            if len(row) < width and self._short == "missing":
                row += [""] * (width - len(row))
            if len(row) != width:
                raise UnreadableData(self._shifted(file, line, len(row), width))
            yield row

    def _raw(self, file: Path) -> Iterator[tuple[int, list[str]]]:
        layout = self.layouts[file]
        with opened_bytes(file) as stream:
            lines = io.TextIOWrapper(stream, encoding=layout.encoding, newline="")
            for line, row in rows_in(islice(lines, layout.skip, None), layout):
                yield line + layout.skip, row

    def _names_of(self, file: Path) -> list[str]:
        """Return the names of the columns of one file."""
        given = words(self._options, "names")
        layout = self.layouts[file]
        with _reading(file):
            first = next(self._raw(file), None)
        if first is None:
            raise UnreadableData(f"{file} can't be read as csv: it has no rows")
        fields = trimmed(first[1]) if layout.header and not given else first[1]
        if given:
            if len(given) not in range(len(trimmed(first[1])), len(first[1]) + 1) and layout.header != 1:
                raise UnreadableData(
                    f"option names gives {len(given)} names, but {file.name} has {len(first[1])} columns"
                )
            names = given
        elif layout.header:
            names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(fields)]
        else:
            names = [str(place) for place in range(len(fields))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UnreadableData(
                f"{file} can't be read as csv: two columns are called {twice[0]!r}; give all names, --option "
                "names=..., with --option header=yes"
            )
        return names

    def _shifted(self, file: Path, line: int, found: int, width: int) -> str:
        what = "the header names" if self.layouts[file].header else "expected are"
        hints = ["--option separator=..."]
        if found == width + 1:
            named = f"--option header=yes --option names=ROW,{','.join(self.names)[:120]}"
            hints.append(f"{named} where the header leaves out a column of row names")
        if found > width:
            hints.append("--option skip=N where N lines with a title stand before the header")
            hints.append(
                "--option decimal=comma with --option separator=semicolon where commas are decimal signs"
            )
        else:
            hints.append("--option short_rows=missing where empty fields at the end of rows are left out")
        return (
            f"{file} can't be read as csv: line {line} has {found} fields, {what} {width}: columns would be shifted; "
            f"mend the line, or give {'; '.join(hints)}"
        )


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what is raised while a text file is read into an error that names the file and what helps.

    Raises:
        UnreadableData: in place of these errors; its message quotes nothing of the file.
    """
    try:
        yield
    except SpecError:
        raise
    except UnicodeError as error:
        raise UnreadableData(
            f"{file} can't be read as csv: not all of it is of the encoding {getattr(error, 'encoding', 'utf-8')}; say how it is "
            "encoded, --option encoding=..., such as utf-8, cp1252 (western Europe) or cp1250"
        ) from error
    except csv.Error as error:
        raise UnreadableData(
            f"{file} can't be read as csv: {error}; if quotation marks are part of its texts, give --option quote=none"
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UnreadableData(f"{file} can't be read as csv: {error}") from error
