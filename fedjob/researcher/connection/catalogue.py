"""The nodes and datasets of a federation, as lists that read well, and the mocks of its datasets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedjob.common.checks import printable, some_of
from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import NoReply, ObjectTooLarge, SpecError
from fedjob.common.notebooks import html
from fedjob.common.notebooks.plain_tables import cell_text, text_facts, text_table
from fedjob.common.terminal.times import when_of_text
from fedjob.common.types import Contact, Ref, check_party, contacts_from_plain, contacts_text
from fedjob.data.archive import is_asset_name, unpacked_asset, unpacked_once
from fedjob.data.readers import READERS, find_reader, guess_reader
from fedjob.messaging.messages import Found, Ping, Pong, Search

if TYPE_CHECKING:
    from fedjob.data.readers.base import Dataset
    from fedjob.researcher.connection.connection import Connection

MAX_MOCK_BYTES = 4 << 30
"""Size limit of a mock that is unpacked here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node, as it is seen from here.

    Args:
        online: it answers messages.
        ready: a task would begin there now.
        busy, free: its workers that compute, and that do not.
        last_task: when a task ended there last, seconds since 1970; 0 for never.
        versions: package -> version, of the packages that plans run with.
        twin: another daemon runs under its name, such as one on a copy of its home.
        silence: why it is taken to be away, where it is not `online`.
        faults: number of its owner's settings that it can't read; while there are any, its strictest hold.
        sandbox: around its workers: `namespaces`, `landlock`, `none`, or `refused` where it starts none.
    """

    id: str
    online: bool
    ready: bool = False
    version: str = ""
    num_datasets: int = 0
    busy: int = 0
    free: int = 0
    last_task: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    workers: int = 0
    contacts: tuple[Contact, ...] = ()
    labels: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    twin: bool = False
    silence: str = ""
    faults: int = 0
    sandbox: str = ""

    @property
    def contact(self) -> str:
        """The contacts, in words."""
        return contacts_text(self.contacts)

    def _facts(self) -> dict[str, Any]:
        """Return what is shown of it, without what is not known."""
        facts: dict[str, Any] = {
            "online": self.online,
            "why": self.silence,
            "ready": self.ready if self.online else None,
            "version": self.version,
            "datasets": self.num_datasets if self.online else None,
            "workers": f"{self.busy} busy, {self.free} free" if self.online else None,
            "contact": self.contact,
            "labels": self.labels,
            "projects": self.projects,
            "sandbox": self.sandbox,
            "settings that can't be read": self.faults or None,
            "another daemon of its name": self.twin or None,
            "packages": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        return {key: value for key, value in facts.items() if value not in ("", (), None)}

    def __repr__(self) -> str:
        return text_facts({"node": self.id, **self._facts()})

    def _repr_html_(self) -> str:
        return html.panel(printable(self.id), html.facts(self._facts()))

    def takes_part(self, project: str) -> bool:
        """Return whether the node is enrolled in a project; every node takes part in jobs without one."""
        return not project or any(fnmatchcase(project, pattern) for pattern in self.projects)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetHandle:
    """One table or file of a dataset at a node: what its owner published of it."""

    name: str
    reader: str = ""
    num_rows: int = 0
    columns: tuple[dict[str, Any], ...] = ()

    @property
    def schema(self) -> dict[str, str]:
        """Column name -> type."""
        return {str(column.get("name")): str(column.get("type")) for column in self.columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetHandle:
    """A dataset at a node: a name to compute on, never the data.

    Args:
        version, mock_version: hashes that change when the data, or the mock, change.
        assets: name -> table or file, of a dataset that has several; rows and columns of the handle are those of
            the first.
        approval: `on` where the owner approves each text of code before it runs; `off` where code runs at once.
        has_mock: jobs may `use="mock"`; where the owner publishes it, `mock()` brings it here too.
        session: the session that found it.
    """

    node: str
    name: str
    tags: tuple[str, ...] = ()
    reader: str = ""
    num_rows: int = 0
    columns: tuple[dict[str, Any], ...] = ()
    has_mock: bool = False
    approval: str = ""
    min_rows: int = 0
    description: str = ""
    contacts: tuple[Contact, ...] = ()
    version: str = ""
    mock_version: str = ""
    assets: Mapping[str, AssetHandle] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    session: Connection | None = field(default=None, repr=False, compare=False)

    @property
    def contact(self) -> str:
        """Whom to ask about the data, in words; `contacts` has names, roles and addresses."""
        return contacts_text(self.contacts)

    @property
    def schema(self) -> dict[str, str]:
        """Column name -> type."""
        return {str(column.get("name")): str(column.get("type")) for column in self.columns}

    def describe(self) -> dict[str, Any]:
        """Return everything that the node publishes of the dataset."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("extra", "session")}
        assets = {name: to_plain(asset) for name, asset in self.assets.items()}
        return facts | {"contacts": to_plain(self.contacts), "assets": assets} | self.extra

    def mock(self, timeout_s: float = 60.0) -> Dataset:
        """Download the mock and return it as a local dataset: `.frame()`, `.arrays()`, `.path`.

        The data themselves stay where they are.

        Args:
            timeout_s: to wait for the node.

        Raises:
            SpecError: the node has none, or does not publish it.
            NoReply: the node does not answer.
        """
        return _fetch_mock(self, timeout_s)

    def __str__(self) -> str:
        return printable(f"{self.node}/{self.name}")

    def _facts(self) -> dict[str, Any]:
        """Return what is shown of it, without what is not known."""
        facts: dict[str, Any] = {
            "description": self.description,
            "contacts": self.contact,
            "tags": self.tags,
            "rows": self.num_rows,
            "least rows": self.min_rows or None,
            "reader": self.reader,
            "mock": self.has_mock,
            "approval": self.approval,
        }
        return {key: value for key, value in facts.items() if value not in ("", (), None)}

    def __repr__(self) -> str:
        facts = {"dataset": str(self), **self._facts(), "columns": _columns_text(self.schema)}
        for asset in self.assets.values():
            facts[f"asset {asset.name}"] = f"{asset.num_rows} rows, {_columns_text(asset.schema)}"
        return text_facts(facts)

    def _repr_html_(self) -> str:
        pieces = [html.facts(self._facts())]
        if self.schema:
            pieces.append(html.table(("column", "type"), list(self.schema.items())))
        for asset in self.assets.values():
            title = f"asset {asset.name}, {asset.num_rows} rows"
            pieces.append(html.table(("column", "type"), list(asset.schema.items()), caption=title))
        return html.panel(str(self), *pieces)


def _columns_text(schema: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in list(schema.items())[:30]) or "-"


T = TypeVar("T")


class Listing(list[T]):
    """A list that shows itself as a table, in a terminal and in a notebook."""

    def __init__(self, items: Iterable[T], columns: Sequence[str]) -> None:
        super().__init__(items)
        self._columns = tuple(columns)

    def _rows(self) -> list[list[Any]]:
        """Return what is shown, as cells of any kind."""
        return [[_cell(column, getattr(item, column)) for column in self._columns] for item in self]

    def _shown(self) -> tuple[list[str], list[list[Any]]]:
        """Return the names and the rows of the columns that have any content."""
        rows = self._rows()
        kept = [n for n in range(len(self._columns)) if any(cell_text(row[n]).strip() for row in rows)]
        return [self._columns[n] for n in kept], [[row[n] for n in kept] for row in rows]

    def __repr__(self) -> str:
        return text_table(*self._shown()) if self else "(none)"

    def _repr_html_(self) -> str:
        return html.panel("", html.table(*self._shown()) if self else html.note("none"))


MAX_ROWS = 20
"""Nodes up to which each is shown in a row of its own; of more, those of which the same is said share one."""


def alike_together(rows: list[list[Any]]) -> list[list[Any]]:
    """Return rows, each with a node's name first; where there are many, those alike but for the name as one row."""
    if len(rows) <= MAX_ROWS:
        return rows
    alike: dict[tuple[Any, ...], list[str]] = {}
    for node, *cells in rows:
        alike.setdefault(tuple(cells), []).append(node)
    return [[some_of(nodes, 2), *cells] for cells, nodes in alike.items()]


_TIMES = frozenset(("updated", "last_task"))
"""Columns of seconds since 1970."""

_TEXT_TIMES = frozenset(("submitted", "created", "started", "finished"))
"""Columns of times that are texts of ISO 8601."""


def _cell(column: str, value: Any) -> Any:
    if column in _TIMES and isinstance(value, float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if value else ""
    if column in _TEXT_TIMES and isinstance(value, str):
        return when_of_text(value, "")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsed:
    """A dataset that a job uses: `str()` of it is `node/name`.

    Args:
        version: hash of its content when the job found it; empty for a job without data.
        brought: the researcher brings it.
    """

    node: str
    name: str
    version: str = ""
    brought: bool = False

    def __str__(self) -> str:
        return printable(f"{self.node}/{self.name}")


def datasets_used(datasets: Mapping[str, Mapping[str, Any]]) -> Listing[DatasetUsed]:
    """Return the datasets of a job's spec, as a table."""
    used = [
        DatasetUsed(
            node=node,
            name=str(info.get("brought") or info["name"]),
            version=str(info.get("version") or ""),
            brought="brought" in info,
        )
        for node, info in sorted(datasets.items())
    ]
    return Listing(used, ("node", "name", "version", "brought"))


def dataset_from_wire(node: str, info: dict[str, Any], session: Connection | None = None) -> DatasetHandle:
    """Build a handle from a node's answer, whose types are not trusted."""
    known = {f.name for f in fields(DatasetHandle)} - {"extra", "session"}
    tags = info.get("tags")
    return DatasetHandle(
        node=node,
        name=str(info.get("name", "")),
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        reader=str(info.get("reader", "")),
        num_rows=_count_of(info.get("num_rows")),
        columns=_columns_of(info.get("columns")),
        has_mock=bool(info.get("has_mock")),
        approval=str(info.get("approval", ""))[:8],
        min_rows=_count_of(info.get("min_rows")),
        description=str(info.get("description", "")),
        contacts=contacts_from_plain(info.get("contacts")),
        version=str(info.get("version", "")),
        mock_version=str(info.get("mock_version", "")),
        assets=_assets_from_wire(info.get("assets")),
        extra={key: value for key, value in info.items() if key not in known},
        session=session,
    )


def _assets_from_wire(plain: Any) -> dict[str, AssetHandle]:
    """Return assets from a node's answer, whose types are not trusted."""
    infos = [info for info in plain if isinstance(info, dict)] if isinstance(plain, list) else []
    found = {}
    for info in infos:
        name = str(info.get("name", ""))
        found[name] = AssetHandle(
            name=name,
            reader=str(info.get("reader", "")),
            num_rows=_count_of(info.get("num_rows")),
            columns=_columns_of(info.get("columns")),
        )
    return found


def _count_of(plain: Any) -> int:
    """Return a node's number of rows; 0 for what is none."""
    return plain if type(plain) is int and 0 <= plain < 1 << 63 else 0


def _columns_of(plain: Any) -> tuple[dict[str, Any], ...]:
    return tuple(column for column in plain if isinstance(column, dict)) if isinstance(plain, list) else ()


class Offered(Listing[DatasetHandle]):
    """The datasets that nodes offer, and the nodes that did not answer.

    Args:
        silent: node -> why it is taken to be away; it may offer more.
    """

    def __init__(self, handles: Iterable[DatasetHandle], silent: Mapping[str, str] | None = None) -> None:
        super().__init__(handles, ("node", "name", "tags", "num_rows", "reader"))
        self.silent = dict(silent or {})

    def _silence(self) -> str:
        return printable("; ".join(f"{node}: {why}" for node, why in self.silent.items()))

    def __repr__(self) -> str:
        return (
            f"{super().__repr__()}\nno answer from {self._silence()}" if self.silent else super().__repr__()
        )

    def _repr_html_(self) -> str:
        rows = html.table(*self._shown()) if self else html.note("none")
        silence = f"no answer from {self._silence()}" if self.silent else ""
        return html.panel("", rows, html.note(silence, warns=True))


def list_nodes(connection: Connection, timeout_s: float = 3.0, *, patient: bool = False) -> Listing[NodeInfo]:
    """Return every enrolled node and whether it answers.

    Args:
        patient: wait as long for nodes that show no presence.
    """
    connection.roster.refresh()
    answers = connection.ask(None, Ping(), timeout_s=timeout_s, patient=patient)
    infos = []
    for node in connection.roster.parties("node"):
        message = answers.get(node)
        if message is None or not isinstance(message.body, Pong):
            infos.append(NodeInfo(id=node, online=False, silence=connection.silence_of(node, timeout_s)))
        else:
            pong = message.body
            infos.append(
                NodeInfo(
                    id=node,
                    online=True,
                    version=pong.version,
                    num_datasets=pong.num_datasets,
                    busy=pong.busy,
                    free=pong.free,
                    ready=pong.ready,
                    last_task=pong.last_task,
                    versions=pong.versions,
                    workers=pong.workers,
                    contacts=contacts_from_plain(pong.contacts),
                    labels=tuple(pong.labels),
                    projects=tuple(pong.projects),
                    twin=pong.twin,
                    faults=pong.faults,
                    sandbox=pong.sandbox,
                )
            )
    return Listing(infos, ("id", "online", "version", "num_datasets", "ready", "busy", "free"))


def list_datasets(
    connection: Connection,
    tags: Iterable[str] | None = None,
    name: str | None = None,
    timeout_s: float = 3.0,
    *,
    project: str = "",
    patient: bool = False,
) -> Offered:
    """Return the datasets that nodes offer, and who did not answer.

    Args:
        tags: a dataset must have all of them.
        name: exact name of a dataset.
        project: only nodes that are enrolled in it answer with data; empty for all nodes.
        patient: wait as long for nodes that show no presence.
    """
    if isinstance(tags, str):
        raise SpecError(f"tags is a list of strings: tags=[{tags!r}]")
    body = Search(tags=[str(tag) for tag in tags or ()], name=name or "", project=project)
    connection.roster.refresh()
    answers = connection.ask(None, body, timeout_s=timeout_s, patient=patient)
    silent = [node for node in connection.roster.parties("node") if node not in answers]
    handles = [
        dataset_from_wire(node, info, connection)
        for node, message in sorted(answers.items())
        if isinstance(message.body, Found)
        for info in message.body.datasets
    ]
    return Offered(handles, {node: connection.silence_of(node, timeout_s) for node in silent})


def _fetch_mock(handle: DatasetHandle, timeout_s: float) -> Dataset:
    """Return a dataset's mock as a local dataset; see `DatasetHandle.mock`."""
    from fedjob.data.loader import open_dataset

    if not handle.has_mock:
        raise SpecError(f"{handle} has no mock{_ask(handle)}")
    session = handle.session
    if session is None:
        raise SpecError(f"{handle} was not found by a session: take it from session.datasets()")
    question = Search(name=handle.name, mock=True)
    message = session.ask([handle.node], question, timeout_s=timeout_s).get(handle.node)
    if message is None or not isinstance(message.body, Found):
        raise NoReply(f"{handle.node} did not answer within {timeout_s:.0f} s: look at session.nodes()")
    answer = message.body.datasets[0] if message.body.datasets else {}
    if "mock" not in answer:
        why = answer.get("problem") or "its owner does not publish mocks (`publish_mocks`)"
        raise SpecError(
            f"{handle} offers no mock to fetch: {why}{_ask(handle)}; jobs with use='mock' may run on it"
        )
    ref = from_plain(Ref, answer["mock"])
    if ref.size_bytes > MAX_MOCK_BYTES:
        raise ObjectTooLarge(
            f"the mock of {handle} has {ref.size_bytes} bytes, at most {MAX_MOCK_BYTES} are fetched"
        )
    home = _mock_folder(session.home, handle)
    path = unpacked_once(home / ref.sha256, partial(session.repository.get, ref), limit_bytes=MAX_MOCK_BYTES)
    parts: dict[str, Any] = {
        part: answer[part] for part in ("options", "loading") if isinstance(answer.get(part), dict)
    }
    given = answer.get("assets")
    if isinstance(given, list) and given:
        assets = [_asset_of(asset, path) for asset in given]
        parts |= {"assets": assets}
        path = assets[0]["path"]
    reader = _local_reader(answer.get("reader"), path)
    return open_dataset({**parts, "path": path, "reader": reader, "name": handle.name, "tags": handle.tags})


def _mock_folder(home: Path, handle: DatasetHandle) -> Path:
    """Return the folder for a dataset's mocks, whose name is the node's to choose.

    Raises:
        SpecError: the name is none that a dataset may have, such as one that leads elsewhere.
    """
    if not is_asset_name(handle.name):
        raise SpecError(
            f"{handle.node} offers a dataset named {handle.name[:80]!r}: a name has letters, digits, `_`, `.` and `-`, at "
            "most 63, and begins with a letter or a digit; nothing is fetched of it"
        )
    return home / "mocks" / check_party(handle.node) / handle.name


def _asset_of(asset: Any, folder: Path) -> dict[str, Any]:
    """Return one table or file of a mock, as `open_dataset` takes it, from a node's answer."""
    if not isinstance(asset, dict) or not isinstance(asset.get("options") or {}, dict):
        raise SpecError("the node described its mock in a form that no node of fedjob sends")
    name = str(asset.get("name"))
    path = unpacked_asset(folder, name)
    reader = _local_reader(asset.get("reader"), path)
    return {"name": name, "path": path, "reader": reader, "options": dict(asset.get("options") or {})}


def _local_reader(given: Any, path: Path) -> str:
    """Return the reader of a mock, which is the node's to choose.

    Raises:
        SpecError: it would open more than the files that were fetched, such as a database's address that stands in them.
    """
    name = str(given or guess_reader(path))
    if not find_reader(name).stays_in_path:
        local = ", ".join(known for known in READERS if READERS.find(known).stays_in_path)
        raise SpecError(
            f"the mock is to be opened by the reader {name[:40]!r}, which opens what the node's files name: a mock is "
            f"opened by {local} only; ask its owner for one of these, or run jobs with use='mock'"
        )
    return name


def _ask(handle: DatasetHandle) -> str:
    return f"; ask {handle.contact}" if handle.contact else ""
