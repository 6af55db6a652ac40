"""The resolution of the argument `data=` to one dataset at each node."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import MAX_NAMED, shown, some_of
from fedjob.common.errors import NoDatasets, NoReply, SpecError
from fedjob.common.quorum import ALL, reasons_text
from fedjob.common.types import party_of, seat
from fedjob.data.shares import SharedDatasets
from fedjob.execution.allocator import give_back_freed_memory
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.own import inner_of
from fedjob.researcher.connection.catalogue import DatasetHandle, Offered, list_datasets, list_nodes
from fedjob.researcher.definition.arguments import check_enough
from fedjob.researcher.definition.brought_data import unpacked
from fedjob.researcher.definition.components import from_part
from fedjob.researcher.definition.data_checks import check_columns
from fedjob.researcher.definition.preprocessing import attach
from fedjob.researcher.selection import SELECTORS
from fedjob.researcher.selection.explicit import Explicit
from fedjob.researcher.simulation.datasets import SIMULATED, GivenData, divide, given_data
from fedjob.researcher.simulation.opening import check_workers
from fedjob.researcher.simulation.population import Simulation, simulation_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import BROUGHT, JobSpec

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection

_FORMS = (
    'data={"tags": ["heart"]}, data="node/name", data={"node-a": "name", "node-b": "other name"}, dataset handles, '
    "a local path, None, or a list of these"
)

SCHEMA = "schema"
"""The key of a found dataset under which its columns stand; a spec does not keep them."""

HANDLE = "handle"
"""The same, of what a node published of it."""

SEARCH_S = 10.0
"""Seconds that nodes have to say what they offer: a job must not begin without a slow one."""

_log = logging.getLogger("fedjob")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The datasets that a job uses, and the nodes that may have had more.

    Args:
        datasets: node -> `{name, num_rows, version}`; `name` is empty for a job without data, and with
            `brought`, its name, for brought data.
        silent: node -> why it is taken to be away, of the nodes that could have taken part.
    """

    datasets: dict[str, dict[str, Any]]
    silent: dict[str, str] = field(default_factory=dict)


def check_names(data: Any, nodes: Any) -> None:
    """Refuse one name for the datasets of several nodes: each node names its own.

    Raises:
        SpecError: says how to name each.
    """
    if not isinstance(data, str) or "/" in data or nodes is None or isinstance(nodes, str) or len(nodes) < 2:
        return
    each = ", ".join(
        [*(f"{node!r}: ..." for node in list(nodes)[:MAX_NAMED]), *["..."] * (len(nodes) > MAX_NAMED)]
    )
    raise SpecError(
        f"data={data!r} is one name, but there are {len(nodes)} nodes, each with names of its own: "
        f"write data={{{each}}}, or search by tags"
    )


def resolve(
    data: Any,
    nodes: list[str] | None,
    session: Connection,
    *,
    use: str = "private",
    project: str = "",
    patient: bool = False,
) -> Resolution:
    """Find the dataset to use at each node.

    Data that are brought go to `nodes`, or to every node that answers, where the rest
    of `data` names none.

    Args:
        data: see `_FORMS`; what is brought stands as `{"brought": name}`.
        nodes: use these only; None for every node that has the data.
        use: `mock` for datasets that have one.
        project: only nodes that are enrolled in it take part; empty for all.
        patient: wait as long for nodes that show no presence as for others.

    Raises:
        NoDatasets: nothing matches; what there is is listed.
        SpecError: `data` is none of the forms, or matches two datasets at one node.
    """
    brought, rest = _divide(data)
    found: dict[str, dict[str, Any]] = {}
    silent: dict[str, str] = {}
    if rest is not None:
        offered = list_datasets(session, timeout_s=SEARCH_S, project=project, patient=patient)
        found = _at_nodes(rest, nodes, session, offered, use, alone=brought is None)
        silent = offered.silent if _names_no_nodes(rest) else {}
    if brought is None and rest is not None:
        return Resolution(datasets=found, silent=_among(silent, nodes))
    if use == "mock" and rest is None:
        raise SpecError("use='mock' is for datasets at nodes: this job uses none")
    asked = list_nodes(session, SEARCH_S, patient=patient)
    there = [node.id for node in asked if node.online and node.takes_part(project)]
    silent |= {node.id: node.silence for node in asked if not node.online}
    everywhere = there if nodes is None else nodes
    if project and (outside := sorted(set(everywhere) - set(there))):
        raise NoDatasets(f"nodes {', '.join(outside)} do not answer, or take no part in project {project}")
    if not everywhere:
        raise NoDatasets(f"no node answers: start one, or look at session.nodes(){_clock_of(session)}")
    empty = {"name": "", "num_rows": None, "version": ""}
    if brought is not None:
        empty[BROUGHT] = brought
    datasets = {node: found.get(node, dict(empty)) for node in sorted({*everywhere, *found})}
    return Resolution(datasets=datasets, silent=_among(silent, nodes))


def _among(silent: Mapping[str, str], nodes: Sequence[str] | None) -> dict[str, str]:
    """Return the silent nodes that a job could have had: of those that it names, where it names any."""
    return {node: why for node, why in silent.items() if nodes is None or node in nodes}


def _names_no_nodes(data: Any) -> bool:
    """Return whether any node may have what was asked for, as for tags and names without a node."""
    if isinstance(data, (list, tuple)):
        return any(_names_no_nodes(item) for item in data)
    if isinstance(data, Mapping):
        return bool(data) and not set(data) - {"tags", "name"}
    return isinstance(data, str) and "/" not in data


def _clock_of(session: Connection) -> str:
    return f"; {session.clock}" if session.clock else ""


def resolve_for(
    spec: JobSpec,
    data: Any,
    nodes: Iterable[str] | None,
    as_node: str,
    folder: JobFolder,
    session: Connection | None,
    try_on: Callable[[JobSpec, Mapping[str, DatasetHandle]], None],
) -> tuple[JobSpec, dict[str, str]]:
    """Return a job's spec with the dataset to use at each node, and the silent nodes with reasons.

    Args:
        data: as it was given.
        nodes: that were asked for; None for all that have the data.
        as_node: the node that a local job plays.
        session: None for a local job.
        try_on: is given the spec and node -> the dataset found there, of a job at nodes; raises where it can't run.

    Raises:
        NoDatasets: nothing matches.
        NoReply: every node is required, and one that may have the data did not answer.
        SpecError: those that have the data are too few, or not those that the job requires.
    """
    silent: dict[str, str] = {}
    datasets: Mapping[str, dict[str, Any]]
    if spec.simulation:
        datasets, spec = resolve_simulated(spec, data, nodes, folder)
    elif session is None:
        datasets = resolve_local(data, as_node, folder, use=spec.use)
    else:
        asked = None if nodes is None else list(nodes)
        wants_all = spec.quorum.get("required") == ALL
        found = resolve(data, asked, session, use=spec.use, project=spec.project, patient=wants_all)
        datasets, silent = found.datasets, found.silent
        if silent and wants_all:
            raise NoReply(
                f'the job requires all nodes (required="all"), and {reasons_text(silent)}. Start them, or name the nodes '
                f"that the job is for: nodes={shown(sorted(datasets))}"
            )
        spec = replace(
            spec,
            researcher=session.party,
            owner_key=session.identity.public_key_hex,
            federation=session.federation,
        )
    _check_found(spec, datasets)
    _check_named(spec, datasets, silent)
    handles: dict[str, DatasetHandle] = {}
    schemas: dict[str, Any] = {}
    if not isinstance(datasets, SharedDatasets):  # which are found by nobody else
        handles = {node: info.pop(HANDLE) for node, info in datasets.items() if HANDLE in info}
        schemas = {node: info.pop(SCHEMA, {}) for node, info in datasets.items()}
    spec = replace(spec, datasets=attach(spec.preprocess, data, datasets))
    check_columns(spec, schemas)
    if handles:
        try_on(spec, handles)
    if silent:
        _log.warning("job %s goes without %s", spec.name or spec.id, reasons_text(silent))
    return spec, silent


def _check_found(spec: JobSpec, datasets: Mapping[str, Any]) -> None:
    """Raise what can't be met by the nodes that have the data."""
    required = {*spec.the_quorum.required, *_explicit_nodes(spec), *spec.each}
    unknown = sorted(required - set(datasets))
    where = f" in project {spec.project}" if spec.project else ""
    if unknown:
        raise SpecError(
            f"the job requires nodes {some_of(unknown)}, but only {some_of(datasets)} have its data{where}"
        )
    if spec.the_quorum.min_nodes > len(datasets):
        raise SpecError(
            f"the quorum needs {spec.the_quorum.min_nodes} nodes, but only {len(datasets)} have the "
            f"job's data{where}: {some_of(datasets)}"
        )
    check_enough(spec, len(datasets), f"{len(datasets)} have the job's data{where}")


def _check_named(spec: JobSpec, datasets: Mapping[str, Any], silent: Mapping[str, str]) -> None:
    """Raise what a protocol has for nodes that are not among those of the job, the silent ones included."""
    protocol = inner_of(PROTOCOLS.build(spec.protocol.name, spec.protocol.config))
    if not protocol.named_nodes:
        return
    nodes = {*datasets, *silent}
    if unknown := sorted({*protocol.named_nodes} - nodes - {*map(party_of, nodes)}):
        near = [match for name in unknown for match in get_close_matches(name, nodes, 1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SpecError(
            f"{type(protocol).__name__} names {some_of(unknown)}, but the job has {some_of(sorted(nodes))}{hint}"
        )


def _explicit_nodes(spec: JobSpec) -> tuple[str, ...]:
    """Return the nodes that the selector names; none for one that names none."""
    chosen = from_part(SELECTORS, spec.selector) if spec.selector.name else None
    return chosen.nodes if isinstance(chosen, Explicit) else ()


def _divide(data: Any) -> tuple[str | None, Any]:
    """Return the name of what is brought, and the rest; None for nothing."""
    if isinstance(data, Mapping) and data.keys() == {BROUGHT}:
        return str(data[BROUGHT]), None
    if not isinstance(data, (list, tuple)):
        return None, data
    brought = [item for item in data if isinstance(item, Mapping) and item.keys() == {BROUGHT}]
    rest = [item for item in data if item not in brought]
    return (str(brought[0][BROUGHT]) if brought else None), (rest or None)


def _at_nodes(
    data: Any, nodes: list[str] | None, session: Connection, offered: Offered, use: str, *, alone: bool
) -> dict[str, dict[str, Any]]:
    silence = f"; no answer from {reasons_text(offered.silent)}" if offered.silent else ""
    chosen = list(_choose(data, list(offered)))
    if nodes is not None:
        known = {handle.node for handle in offered}
        missing = sorted(set(nodes) - {handle.node for handle in chosen})
        if missing and alone:
            known_text = ", ".join(sorted(known)) or "no node"
            raise NoDatasets(
                f"nodes {', '.join(missing)} offer nothing that matches data={data!r}; "
                f"datasets are offered by {known_text}{silence}: look at session.datasets()"
            )
        chosen = [handle for handle in chosen if handle.node in nodes]
    by_node: dict[str, list[DatasetHandle]] = {}
    for handle in chosen:
        if str(handle) not in map(str, by_node.setdefault(handle.node, [])):
            by_node[handle.node].append(handle)
    named = _named_one_by_one(data)
    for node, handles in by_node.items():
        if len(handles) > 1 and not named.issuperset(map(str, handles)):
            names = ", ".join(str(handle) for handle in handles)
            raise SpecError(
                f"{node} has {len(handles)} datasets that match ({names}): say which, data=[{names!r}], or name each"
            )
    if not by_node:
        listed = (
            ", ".join(f"{h} (tags: {', '.join(h.tags) or 'none'})" for h in offered[:10]) or "none at all"
        )
        raise NoDatasets(
            f"no dataset matches data={data!r}{nearest_text(data, offered)}; the nodes that answered offer {listed}"
            f"{silence}{_clock_of(session)}"
        )
    taken = [handle for handles in by_node.values() for handle in handles]
    if use == "mock" and not any(handle.has_mock for handle in taken):
        names = ", ".join(map(str, taken))
        raise NoDatasets(f"use='mock', but {names} have no mock: ask their owners to add one")
    return {
        node if len(handles) == 1 else seat(node, handle.name): _info(handle, use)
        for node, handles in sorted(by_node.items())
        for handle in handles
    }


def nearest_text(data: Any, offered: Iterable[DatasetHandle]) -> str:
    """Return which tag or dataset was probably meant by one that nothing has, for an error; empty where nothing is near.

    Args:
        data: what was asked for, in any of its forms.
        offered: the datasets that there are.
    """
    handles = list(offered)
    known = {
        "tag": {tag for handle in handles for tag in handle.tags},
        "dataset": {name for handle in handles for name in (handle.name, str(handle))},
    }
    near: dict[str, None] = {}
    for kind, word in _words_of(data):
        if word in known[kind]:
            continue
        node = next((handle.node for handle in handles if word.startswith(f"{handle.node}/")), "")
        there = {one for one in known[kind] if one.startswith(f"{node}/")} if node else known[kind]
        by_fold = {one.casefold(): one for one in sorted(there)}
        for match in get_close_matches(word.casefold(), by_fold, 1):
            near[f"the {kind} {by_fold[match]!r} for {word!r}"] = None
    return f" (did you mean {', '.join(near)}?)" if near else ""


def _words_of(data: Any) -> Iterable[tuple[str, str]]:
    """Return the tags and names of datasets in what was asked for, each with its kind."""
    if isinstance(data, (str, DatasetHandle)):
        return [("dataset", str(data))]
    if isinstance(data, (list, tuple)):
        return [word for item in data for word in _words_of(item)]
    if not isinstance(data, Mapping):
        return []
    tags = data.get("tags", ())
    found = [("tag", str(tag)) for tag in ([tags] if isinstance(tags, str) else tags)]
    return [*found, *([("dataset", str(data["name"]))] if "name" in data else [])]


def _named_one_by_one(data: Any) -> set[str]:
    """Return the datasets that stand in a list as themselves: of these, several of one node may take part."""
    items = data if isinstance(data, (list, tuple)) else []
    return {str(item) for item in items if isinstance(item, (str, DatasetHandle)) and "/" in str(item)}


def _info(handle: DatasetHandle, use: str) -> dict[str, Any]:
    return {
        "name": handle.name,
        # how many rows a mock has is nobody's concern; nothing is held against it
        "num_rows": handle.num_rows if use == "private" else None,
        SCHEMA: handle.schema,
        HANDLE: handle,
        "version": handle.version if use == "private" else handle.mock_version,
    }


def _choose(data: Any, offered: list[DatasetHandle]) -> Iterable[DatasetHandle]:
    if isinstance(data, DatasetHandle):
        return [next((handle for handle in offered if str(handle) == str(data)), data)]
    if isinstance(data, str):
        if "/" not in data:
            return [handle for handle in offered if handle.name == data]
        return [handle for handle in offered if str(handle) == data]
    if isinstance(data, Mapping):
        if not data or set(data) - {"tags", "name"}:
            return _named_by_node(data, offered)
        tags = data.get("tags", [])
        if isinstance(tags, str):
            tags = [tags]
        return [
            handle
            for handle in offered
            if set(tags) <= set(handle.tags) and data.get("name", handle.name) == handle.name
        ]
    if isinstance(data, (list, tuple)):
        return [handle for item in data for handle in _choose(item, offered)]
    raise SpecError(f"data={data!r} is a {type(data).__name__}; write {_FORMS}")


def _named_by_node(names: Mapping[Any, Any], offered: list[DatasetHandle]) -> list[DatasetHandle]:
    """Return the dataset that is named at each node."""
    if not names or not all(isinstance(text, str) for text in (*names, *names.values())):
        raise SpecError(f"data={names!r}: expected the keys 'tags' or 'name', or nodes; write {_FORMS}")
    found = {handle.node: handle for handle in offered if names.get(handle.node) == handle.name}
    if missing := [f"{node}/{name}" for node, name in names.items() if node not in found]:
        listed = ", ".join(map(str, offered)) or "none at all"
        near = nearest_text(list(missing), offered)
        raise NoDatasets(
            f"there is no dataset {' or '.join(missing)}{near}; the nodes that answered offer {listed}"
        )
    return list(found.values())


def resolve_local(
    data: Any, as_node: str, folder: JobFolder, *, use: str = "private"
) -> dict[str, dict[str, Any]]:
    """Describe local data for a job with `nodes="local"`.

    Args:
        data: a path; `{"path": ..., "reader": ..., "options": {...}, "loading": {...}, "mock": ...}`; `{"assets":
            {name: path, or {"path": ..., "mock": ...}}}` for several tables or files; or a map from node names to these, for a federation simulated in this process; None for a job without data.
        folder: of the job, with what it brings.
        use: `mock` reads the mocks.

    Returns:
        node -> `{name, path, reader, tags, options, loading, num_rows, version, schema}`, and `assets` where there
        are several.

    Raises:
        SpecError: it is none of these, or can't be read.
    """
    if isinstance(data, Mapping) and not data.keys() & {"path", "assets", BROUGHT}:
        if not data:
            raise NoDatasets('nodes="local" needs data: a path, or {"node": path, ...}')
        return {str(node): _local(item, str(node), folder, use) for node, item in sorted(data.items())}
    return {as_node: _local(data, as_node, folder, use)}


def resolve_simulated(
    spec: JobSpec, data: Any, nodes: Any, folder: JobFolder
) -> tuple[Mapping[str, dict[str, Any]], JobSpec]:
    """Return the datasets of simulated nodes, and the spec, which has the hash of their rows.

    Args:
        nodes: what `simulate` returned, where this process has it.

    Raises:
        SpecError: the data can't be divided in that way, or are not those that the job divided before.
    """
    if spec.use == "mock":
        raise SpecError("use='mock' is for datasets at nodes: a simulation has the data that it is given")
    simulation = nodes if isinstance(nodes, Simulation) else simulation_of(spec.simulation)
    check_workers(simulation, folder)
    if simulation.split is None and not isinstance(data, GivenData) and SIMULATED not in data:
        return resolve_local(data, "local", folder, use=spec.use), spec
    shares = divide(simulation, data, folder.simulated, spec.seed)
    give_back_freed_memory()  # that of all row numbers
    known = spec.simulation.get("rows", shares.rows_hash)
    if known != shares.rows_hash:
        raise SpecError(
            "these data are divided into other rows than those that the job began with: give it the same data"
        )
    return shares.datasets, replace(spec, simulation={**spec.simulation, "rows": shares.rows_hash})


def take_data(spec: JobSpec, data: Any, folder: JobFolder) -> Any:
    """Return the data that a simulation goes on with; objects of this process are written into the job's folder.

    Raises:
        SpecError: they can't be simulated on.
    """
    given = given_data(simulation_of(spec.simulation), data)
    if isinstance(given, GivenData) and not folder.simulated.exists():
        given.write(folder.simulated)
    return given


def _local(item: Any, node: str, folder: JobFolder, use: str) -> dict[str, Any]:
    if item is None:
        return {"name": "", "num_rows": None, "version": ""}
    if isinstance(item, Mapping) and item.keys() == {BROUGHT}:
        item = {"path": unpacked(folder)}
    if isinstance(item, Mapping) and "assets" in item:
        return _local_assets(item, node, use)
    return _local_file(item, node, use)


def _local_file(item: Any, node: str, use: str) -> dict[str, Any]:
    """Describe local data of one table, folder or file."""
    from fedjob.data.loader import describe
    from fedjob.data.readers import fitting_reader

    if isinstance(item, (str, Path)):
        item = {"path": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("path"), (str, Path)):
        rows = isinstance(item, (list, tuple)) or hasattr(item, "shape")
        kind = f"a {type(item).__name__}" if rows else shown(item)  # no rows in a message
        raise SpecError(
            f'nodes="local" takes data="file.csv" or data={{"path": ..., "reader": ..., "options": {{...}}}}; found '
            f"{kind} for {node}. Data in memory are taken by nodes=simulate(4, split=IID()), and a map of them by "
            "nodes=simulate()"
        )
    unknown = set(item) - {"path", "reader", "options", "loading", "name", "tags", "mock"}
    if unknown:
        raise SpecError(
            f"data for {node}: unknown keys {sorted(unknown)}; expected path, reader, options, loading, name, "
            "tags, mock"
        )
    if use == "mock" and not item.get("mock"):
        raise SpecError(f"use='mock' needs a mock for {node}: data={{'path': ..., 'mock': ...}}")
    private = Path(item["path"]).expanduser().resolve()
    path = private if use == "private" else Path(item["mock"]).expanduser().resolve()
    options = {str(key): value for key, value in dict(item.get("options") or {}).items()}
    reader = item.get("reader") or fitting_reader(path)
    loading = dict(item.get("loading") or {})
    about = describe(path, reader, options, loading)
    return {
        "name": str(item.get("name") or private.stem),
        "path": str(path),
        "reader": reader,
        "tags": list(item.get("tags") or ()),
        "options": options,
        "loading": loading,
        "num_rows": about.get("num_rows"),
        "version": about["version"],
        SCHEMA: {str(column["name"]): str(column["type"]) for column in about.get("columns") or ()},
    }


def _local_assets(item: Mapping[str, Any], node: str, use: str) -> dict[str, Any]:
    """Describe local data of several named tables or files; the first is the dataset's own."""
    given = item["assets"]
    if not isinstance(given, Mapping) or not given or set(item) - {"assets", "name", "tags"}:
        raise SpecError(
            f"data for {node}: expected {{'assets': {{name: path or {{'path': ..., 'mock': ...}}}}}} and at most name "
            f"and tags beside it; found {item!r}"
        )
    for asset, data in given.items():
        if not isinstance(data, (str, Path, Mapping)) or (isinstance(data, Mapping) and "path" not in data):
            raise SpecError(f"data for {node}: asset {asset!r} is a path or {{'path': ...}}, not {data!r}")
        if isinstance(data, Mapping) and (odd := set(data) - {"path", "reader", "options", "mock"}):
            raise SpecError(
                f"data for {node}: asset {asset!r} has path, reader, options, mock, no {sorted(odd)}"
            )
    opened = {str(asset): _local_file(data, f"{node}, asset {asset}", use) for asset, data in given.items()}
    first = next(iter(opened.values()))
    kept = ("path", "reader", "options")
    versions = "\0".join(f"{asset}\0{info['version']}" for asset, info in opened.items())
    return {
        **first,
        "name": str(item.get("name") or next(iter(opened))),
        "tags": list(item.get("tags") or ()),
        "version": hashlib.sha256(versions.encode()).hexdigest(),
        "assets": [{"name": name, **{key: info[key] for key in kept}} for name, info in opened.items()],
    }
