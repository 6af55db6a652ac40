"""The reader of tables from a database: an SQLite file, or any database that SQLAlchemy connects to.

The path is an SQLite file, or a TOML file in which the owner gives the address of the database:

    url = "postgresql://reader@db.hospital.example/patients"      in SQLAlchemy's form, without a password
    password_file = "/etc/fedjob/patients.password"                its first line; only the owner may read the file
    query = "SELECT age, sex, outcome FROM visits"                 here, or as the reader's option

No message repeats the URL or the password. The query runs in a read-only transaction, where the database has such,
and the transaction is always rolled back.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from fedjob.common.errors import FedjobError, MissingPackage, SpecError, UnreadableData
from fedjob.data.column_types import settled
from fedjob.data.readers.base import Dataset, Reader, check_file
from fedjob.data.readers.table import TableDataset

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 5_000_000

_HELD: dict[tuple[str, str], pd.DataFrame | Exception] = {}
"""(path, query option) -> the rows of a database elsewhere, or why they can't be read: see `hold`."""

_SETTINGS = ("url", "password_file", "query")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r"'(?:[^']|'')*'")
_BIND = re.compile(r"(?<![:\w\\]):(?=\w+(?!:))")
_READ_ONLY: Mapping[str, Sequence[str]] = {
    "sqlite": ("PRAGMA query_only = ON",),
    "postgresql": ("SET TRANSACTION READ ONLY",),
    "mysql": ("SET SESSION TRANSACTION READ ONLY", "START TRANSACTION"),
    "mariadb": ("SET SESSION TRANSACTION READ ONLY", "START TRANSACTION"),
    "oracle": ("SET TRANSACTION READ ONLY",),
}


class SqlDataset(TableDataset):
    """The rows of one query."""

    @cached_property
    def _settings(self) -> dict[str, str]:
        if self.path.suffix != ".toml":
            return {}
        try:
            found = tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UnreadableData(f"{self.path.name} can't be read as TOML: {type(error).__name__}") from error
        for name, value in found.items():
            if name not in _SETTINGS or not isinstance(value, str):
                raise SpecError(
                    f"{self.path.name} gives {name!r}; expected {', '.join(_SETTINGS)}, each a text"
                )
        if "url" not in found:
            raise SpecError(f"{self.path.name} gives no url: url = 'postgresql://reader@host/database'")
        return found

    @cached_property
    def query(self) -> str:
        """The statement that is run.

        Raises:
            SpecError: there is no query, or two, or it does more than read.
        """
        given = [text for text in (self.options.get("query"), self._settings.get("query")) if text]
        if len(given) != 1:
            raise SpecError(
                "reader sql takes one query, --option query='SELECT ...' or query = '...' in its TOML file; found "
                f"{len(given)}"
            )
        bare = _TEXT.sub("''", _COMMENT.sub(" ", given[0])).strip().rstrip(";").strip()
        if not re.match(r"(select|with|values)\b", bare, re.IGNORECASE) or ";" in bare:
            raise SpecError("reader sql runs one statement that reads: it begins with SELECT, WITH or VALUES")
        return given[0].strip().rstrip(";")

    def read(self) -> pd.DataFrame:
        held = _HELD.get((str(self.path), self.options.get("query", "")))
        if isinstance(held, Exception):
            raise held
        return self._rows() if held is None else held.copy()

    def _rows(self) -> pd.DataFrame:
        import pandas as pd

        try:
            import sqlalchemy
        except ImportError as error:
            raise MissingPackage("reader sql needs SQLAlchemy: pip install 'fedjob[sql]'") from error
        query = _BIND.sub(r"\:", self.query)  # so that SQLAlchemy does not take a colon in it for a parameter
        with self._connection() as connection:
            found = connection.execute(sqlalchemy.text(query))
            rows = found.fetchmany(MAX_ROWS + 1)
            names = list(map(str, found.keys()))
        if len(rows) > MAX_ROWS:
            raise SpecError(f"the query of {self.path.name} gives more than {MAX_ROWS} rows: narrow it down")
        if len(set(names)) < len(names):
            raise SpecError(f"the query of {self.path.name} gives two columns of one name: name them with AS")
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return pd.DataFrame(
            {
                name: settled(pd.Series(values, dtype=object))
                for name, values in zip(names, columns, strict=True)
            },
            columns=names,
        )

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError

        url = self._url()
        try:
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        except ImportError as error:
            driver = error.name or "a driver"
            raise MissingPackage(f"the database of {self.path.name} needs the package {driver}") from error
        except SQLAlchemyError as error:
            raise SpecError(f"the url in {self.path.name} is none that SQLAlchemy knows") from error
        try:
            with engine.connect() as connection:
                for statement in _READ_ONLY.get(engine.dialect.name, ()):
                    connection.exec_driver_sql(statement)
                yield connection
                connection.rollback()
        except (SQLAlchemyError, OSError) as error:  # whose message may quote the url, the query or values
            raise UnreadableData(
                f"the database of {self.path.name} does not answer, or refuses the query: {type(error).__name__}"
            ) from error
        finally:
            engine.dispose()

    def _url(self) -> Any:
        from sqlalchemy.engine import URL, make_url
        from sqlalchemy.exc import SQLAlchemyError

        if not self._settings:
            return URL.create(
                "sqlite", database=f"file:{quote(str(self.path))}", query={"mode": "ro", "uri": "true"}
            )
        try:
            url = make_url(self._settings["url"])
        except SQLAlchemyError as error:
            raise SpecError(f"the url in {self.path.name} is none that SQLAlchemy knows") from error
        if url.password or any("pass" in name.lower() or "pwd" in name.lower() for name in url.query):
            raise SpecError(
                f"the url in {self.path.name} holds a password: write it into a file of its own, and "
                "password_file = '...' beside the url"
            )
        if "password_file" not in self._settings:
            return url
        file = Path(self._settings["password_file"]).expanduser()
        try:
            if file.stat().st_mode & 0o077:
                raise SpecError(f"the password_file of {self.path.name} can be read by others: chmod 600 it")
            return url.set(password=file.read_text(encoding="utf-8").partition("\n")[0])
        except OSError as error:
            raise UnreadableData(
                f"the password_file of {self.path.name} can't be read: {error.strerror}"
            ) from error


def hold(info: Mapping[str, Any]) -> None:
    """Read the rows of a database elsewhere now, for a process that will have no network when it opens the dataset.

    An SQLite file is left to be read when it is asked for. What can't be read raises then.

    Args:
        info: see `open_dataset`.
    """
    path, options = str(info.get("path", "")), dict(info.get("options") or {})
    if info.get("reader") != SqlReader.name or not path.endswith(".toml"):
        return
    try:
        found = SqlReader().open(path, options)
        assert isinstance(found, SqlDataset)
        held: pd.DataFrame | Exception = found._rows()
    except Exception as error:  # of a driver, too
        held = (
            error
            if isinstance(error, FedjobError)
            else UnreadableData(f"{type(error).__name__} of the driver")
        )
    _HELD[path, options.get("query", "")] = held


class SqlReader(Reader):
    """Opens databases."""

    name: ClassVar[str] = "sql"
    opens: ClassVar[type[Dataset]] = SqlDataset
    options: ClassVar[Mapping[str, str]] = {
        "query": "the statement whose rows are the data, SELECT ...",
        "target": "the column that .arrays() gives as targets (default the last)",
    }

    def accept(self, path: Path) -> Path:
        return check_file(path, self.name)
