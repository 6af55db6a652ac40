"""A table in text files: the one way in which csv, tsv and tables of demographics are read.

A look at all rows of all files counts them and settles the type of each column; then their values are made of their
texts. Rows are taken in pieces, so that a look at a large file needs little memory.
"""

from __future__ import annotations

import csv
import io
import lzma
import zipfile
import zlib
from collections import deque
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
    common_type,
    text_column,
)
from fedjob.data.readers.base import words
from fedjob.data.readers.text_layout import TextLayout, layout_of, opened_bytes, rows_in, trimmed
from fedjob.data.text_columns import column_of, kinds_in, known, split, without_fraction

if TYPE_CHECKING:
    import pandas as pd

_CHUNK_ROWS = 50_000
_BLOCK_CHARS = 4 << 20
_SHORT_ROWS = ("error", "missing")


@dataclass
class _Facts:
    """The result of a look at all rows.

    Args:
        kinds: of the values of each column, in the order of the columns.
        num_empty: rows without any value at the end of files, as spreadsheets write them; they are left out.
    """

    kinds: list[set[str]]
    num_rows: int = 0
    num_empty: int = 0


class _Lines:
    """The lines of a text: one at a time, or a block of them.

    Args:
        number: of lines that were taken.
        left: of a block that was put back, those that were not taken yet.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self.number = 0
        self.left: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.left.popleft() if self.left else next(self._stream)
        self.number += 1
        return line

    def block(self) -> str:
        """Take the next lines at once, without counting them; return "" at the end."""
        text = self._stream.read(_BLOCK_CHARS)
        return text if text.endswith("\n") else text + self._stream.readline()

    def put_back(self, block: str) -> None:
        """Have the lines of a block taken one at a time."""
        self.left.extend(io.StringIO(block, newline=""))


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
        """The number of rows, without the empty ones at the end of files."""
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
            many = self._facts.num_empty > 1
            rows = f"{self._facts.num_empty} rows" if many else "1 row"
            notes.append(f"{rows} without any value at the end {'are' if many else 'is'} left out")
        kinds = dict(zip(self.names, self._facts.kinds, strict=True))
        if codes := [name for name in self.names if CODE in kinds[name] and not kinds[name] & {TEXT, BOOL}]:
            notes.append(
                f"{', '.join(codes)}: kept as text, because numbers would lose zeros at the beginning, an E or digits; "
                "--option numbers=NAME where they are numbers with zeros"
            )
        if self.num_rows and (empty := [name for name in self.names if not kinds[name]]):
            notes.append(f"{', '.join(empty)[:300]}: no row has a value")
        if mixed := [name for name in self.names if TEXT in kinds[name] and kinds[name] & {INT, FLOAT}]:
            notes.append(
                f"{', '.join(mixed)[:300]}: text, because not all values are numbers; give --option na=... for texts that mean "
                "a missing value, or --option decimal=... where the numbers have another decimal sign"
            )
        if unnamed := [name for name in self.names if name.startswith("Unnamed: ")]:
            notes.append(f"the header gives no name to {', '.join(unnamed)}: give --option names=...")
        return notes

    def read(self) -> pd.DataFrame:
        """Return the table."""
        import pandas as pd

        kept: list[tuple[Path, list[Any]]] = []
        if "_facts" not in self.__dict__:
            self._facts = self._found(kept)
        types = list(self.types.values())
        parts: list[list[pd.Series[Any]]] = [[] for _ in types]
        for file, columns in kept or self._pieces():
            for place, texts in enumerate(columns):
                parts[place].append(column_of(texts, types[place], self._form(file, place)))
        nothing = known([], self._missing)
        found = {
            name: pd.concat(parts[place] or [column_of(nothing, types[place], USUAL)], ignore_index=True)
            for place, name in enumerate(self.names)
        }
        return pd.DataFrame(found, columns=self.names)

    def texts(self, name: str) -> pd.Series[Any]:
        """Return a column's values as they stand in the files, without spaces around them.

        Where all values are whole numbers, a fraction `.0`, as spreadsheets and pandas write it, is left out.

        Raises:
            SpecError: there is no such column.
        """
        import pyarrow as pa

        if name not in self.names:
            raise SpecError(f"there is no column {name!r}; there are {', '.join(self.names)[:300]}")
        parts = [columns[self.names.index(name)] for _, columns in self._pieces()]
        texts = pa.chunked_array(parts, pa.large_string())
        return text_column(without_fraction(texts).to_pylist())

    # --- rows ------------------------------------------------------------------------------------

    @cached_property
    def _facts(self) -> _Facts:
        return self._found(None)

    def _found(self, kept: list[tuple[Path, list[Any]]] | None) -> _Facts:
        """Look at all rows.

        Args:
            kept: a list to which the rows are appended, column by column; None where they are not needed.
        """
        import pandas as pd  # noqa: F401  so that data are not registered where nothing can read their values

        facts = _Facts([set() for _ in self.names])
        text = {self.names.index(name) for name in words(self._options, "text")}
        for file, columns in self._pieces(facts):
            facts.num_rows += len(columns[0])
            for place, texts in enumerate(columns):
                kinds = facts.kinds[place]
                if TEXT in kinds or (place in text and texts.null_count < len(texts)):
                    kinds.add(TEXT)
                else:
                    kinds.update(kinds_in(texts, self._form(file, place)))
            if kept is not None:
                kept.append((file, columns))
        return facts

    def _form(self, file: Path, place: int) -> NumberFormat:
        numbers = self.layouts[file].numbers
        return (
            replace(numbers, zeros=True) if self.names[place] in words(self._options, "numbers") else numbers
        )

    def _pieces(self, facts: _Facts | None = None) -> Iterator[tuple[Path, list[Any]]]:
        """Yield rows, some at a time, as a list of columns, with the file that they are in."""
        for file in self._files:
            with _reading(file):
                for columns in self._pieces_of(file, facts):
                    yield file, columns

    def _pieces_of(self, file: Path, facts: _Facts | None) -> Iterator[list[Any]]:
        """Yield the rows of a file, those without any value at its end left out: block by block where they are regular."""
        layout, width = self.layouts[file], len(self.names)
        with opened_bytes(file) as stream:
            lines = _Lines(io.TextIOWrapper(stream, encoding=layout.encoding, newline=""))
            for _ in islice(lines, layout.skip):
                pass
            raw = (row for _, row in rows_in(lines, layout))
            for _ in islice(raw, layout.header):
                pass
            num_empty = 0
            while block := lines.block():
                columns = split(block, width, layout.separator, layout.quote, self._missing)
                if columns is not None:
                    if num_empty:
                        yield [known([""] * num_empty, self._missing)] * width
                    num_empty = 0
                    lines.number += block.count("\n")
                    yield columns
                    continue
                lines.put_back(block)
                while lines.left:
                    chunk, num_empty = self._rows(file, raw, lines, num_empty)
                    if chunk:
                        yield [known(cells, self._missing) for cells in zip(*chunk, strict=True)]
            if facts is not None:
                facts.num_empty += num_empty

    def _rows(
        self, file: Path, raw: Iterator[list[str]], lines: _Lines, num_empty: int
    ) -> tuple[list[list[str]], int]:
        """Return some rows, each with as many fields as there are names, and how many empty ones stand behind them.

        Args:
            num_empty: rows without any value that stand before.
        """
        width = len(self.names)
        rows: list[list[str]] = []
        for row in raw:
            if width > 1 and not any(map(str.strip, row)):
                num_empty += 1
            else:
                rows += ([""] * width for _ in range(num_empty))
                num_empty = 0
                if len(row) > width:
                    row = [*row[:width], *trimmed(row[width:])]
                if len(row) < width and self._short == "missing":
                    row += [""] * (width - len(row))
                if len(row) != width:
                    raise UnreadableData(self._shifted(file, lines.number, len(row), width))
                rows.append(row)
            if not lines.left or len(rows) >= _CHUNK_ROWS:
                break
        return rows, num_empty

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
        named = "the header has" if self.layouts[file].header else "expected are"
        if found < width:
            hints = ["--option short_rows=missing where empty fields at the end of rows are left out"]
        elif width == 1:
            hints = ["--option skip=1 where the first line is a title", "--option separator=..."]
        elif found == width + 1:
            names = f"ROW,{','.join(self.names)[:120]}"
            hints = [
                f"--option header=yes --option names={names} where the header leaves out a column of row names",
                "--option skip=N where N lines of titles come first",
            ]
        else:
            hints = ["--option skip=N where N lines of titles come first", "--option separator=..."]
        return (
            f"{file} can't be read as csv: line {line} has {found} field{'s' if found > 1 else ''}, {named} {width}: "
            f"columns would be shifted; mend the line, or give {', or '.join(hints)}"
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
