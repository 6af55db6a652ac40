"""From what a researcher writes as `data=` to one dataset at each node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import NoDatasets, SpecError
from fedjob.researcher.catalogue import DatasetHandle
from fedjob.researcher.session import Session

_FORMS = 'data={"tags": ["heart"]}, data="node/name", dataset handles, or a list of these'


def resolve(data: Any, nodes: list[str] | None, session: Session) -> dict[str, dict[str, Any]]:
    """Find the dataset to use at each node.

    Args:
        data: see `_FORMS`.
        nodes: use these only; None for every node that has the data.

    Returns:
        node -> `{name, num_rows}`.

    Raises:
        NoDatasets: nothing matches; what there is is listed.
        SpecError: `data` is none of the forms, or matches two datasets at one node.
    """
    offered = session.datasets()
    chosen = list(_choose(data, list(offered)))
    if nodes is not None:
        known = {handle.node for handle in offered}
        missing = sorted(set(nodes) - {handle.node for handle in chosen})
        if missing:
            known_text = ", ".join(sorted(known)) or "no node"
            raise NoDatasets(
                f"nodes {', '.join(missing)} offer nothing that matches data={data!r}; "
                f"datasets are offered by {known_text}: look at session.datasets()"
            )
        chosen = [handle for handle in chosen if handle.node in nodes]
    by_node: dict[str, list[DatasetHandle]] = {}
    for handle in chosen:
        by_node.setdefault(handle.node, []).append(handle)
    for node, handles in by_node.items():
        if len(handles) > 1:
            names = ", ".join(str(handle) for handle in handles)
            raise SpecError(
                f"{node} has {len(handles)} datasets that match ({names}): say which, data=[{names!r}]"
            )
    if not by_node:
        listed = (
            ", ".join(f"{h} (tags: {', '.join(h.tags) or 'none'})" for h in offered[:10]) or "none at all"
        )
        raise NoDatasets(f"no dataset matches data={data!r}; the nodes that answered offer {listed}")
    return {
        node: {"name": handles[0].name, "num_rows": handles[0].num_rows}
        for node, handles in sorted(by_node.items())
    }


def _choose(data: Any, offered: list[DatasetHandle]) -> Iterable[DatasetHandle]:
    if isinstance(data, DatasetHandle):
        return [data]
    if isinstance(data, str):
        if "/" not in data:
            return [handle for handle in offered if handle.name == data]
        return [handle for handle in offered if str(handle) == data]
    if isinstance(data, Mapping):
        unknown = set(data) - {"tags", "name"}
        if unknown or not data:
            raise SpecError(f"data={data!r}: expected the keys 'tags' or 'name'; write {_FORMS}")
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


def resolve_local(data: Any, as_node: str) -> dict[str, dict[str, Any]]:
    """Describe local data for a job with `nodes="local"`.

    Args:
        data: a path; `{"path": ..., "reader": ..., "options": {...}}`; or a map from
            node names to either, for a federation simulated in this process.

    Returns:
        node -> `{name, path, reader, tags, options, num_rows}`.

    Raises:
        SpecError: it is none of these, or can't be read.
    """
    if isinstance(data, Mapping) and "path" not in data:
        if not data:
            raise NoDatasets('nodes="local" needs data: a path, or {"node": path, ...}')
        return {str(node): _local(item, str(node)) for node, item in sorted(data.items())}
    return {as_node: _local(data, as_node)}


def _local(item: Any, node: str) -> dict[str, Any]:
    from fedjob.common.readers import describe, guess_reader

    if isinstance(item, (str, Path)):
        item = {"path": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("path"), (str, Path)):
        raise SpecError(
            f'nodes="local" takes data="file.csv" or data={{"path": ..., "reader": ..., "options": {{...}}}}; '
            f"found {item!r} for {node}"
        )
    unknown = set(item) - {"path", "reader", "options", "name", "tags"}
    if unknown:
        raise SpecError(
            f"data for {node}: unknown keys {sorted(unknown)}; expected path, reader, options, name, tags"
        )
    path = Path(item["path"]).expanduser().resolve()
    options = {str(key): value for key, value in dict(item.get("options") or {}).items()}
    reader = item.get("reader") or guess_reader(path)
    about = describe(path, reader, options)
    return {
        "name": str(item.get("name") or path.stem),
        "path": str(path),
        "reader": reader,
        "tags": list(item.get("tags") or ()),
        "options": options,
        "num_rows": about.get("num_rows"),
    }
