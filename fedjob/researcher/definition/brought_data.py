"""Data that the researcher brings: a file, a folder or an open file becomes part of the job's folder.

It is packed when the job is defined, so that the job is whole: the source may change
or go. With the job it travels to the nodes as a temporary object, and ends with it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.files import link_or_copy
from fedjob.data.archive import pack_data, pack_stream, remove_data, unpack_data
from fedjob.researcher.results.artifact import Artifact
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import BROUGHT

LIMIT_BYTES = 1 << 40
"""Of one's own data unpacked for a local job."""


@dataclass(frozen=True, slots=True)
class BroughtData:
    """The source of brought data: a path, an open file, or the archive of another job."""

    name: str
    path: Path | None = None
    file: Any = None
    archive: Path | None = None


def take_brought(data: Any, *, local: bool) -> tuple[Any, BroughtData | None]:
    """Tell data that travel from data that stay at nodes.

    Args:
        data: as given to `Job`.
        local: for a job with `nodes="local"` paths are read where they are.

    Returns:
        The data with `{"brought": name}` in the place of what is brought, and that.

    Raises:
        SpecError: there are two such sources, or one is not there.
    """
    sources: list[BroughtData] = []
    plain = _take(data, sources, local=local)
    if len(sources) > 1:
        names = " and ".join(source.name for source in sources)
        raise SpecError(f"a job brings one file or folder, found {names}: put them into one folder")
    return plain, sources[0] if sources else None


def bring(source: BroughtData | None, folder: JobFolder) -> str:
    """Pack what is brought into the job's folder and return its sha256; empty for nothing.

    Raises:
        SpecError: it can't be read.
    """
    if source is None:
        return ""
    if source.archive is not None:
        link_or_copy(source.archive, folder.brought)
    elif source.path is not None:
        pack_data(source.path, folder.brought)
    else:
        pack_stream(source.file, source.name, folder.brought)
    return hash_file(folder.brought)


def unpacked(folder: JobFolder) -> Path:
    """Return the path of what a local job brought, unpacked as a node would."""
    remove_data(folder.unpacked)
    return unpack_data(folder.brought, folder.unpacked, limit_bytes=LIMIT_BYTES)


def _take(data: Any, sources: list[BroughtData], *, local: bool) -> Any:
    if isinstance(data, JobResult):
        data = data.artifact
    if isinstance(data, Artifact):
        data = data.check()
    if isinstance(data, (list, tuple)) and not hasattr(data, "_fields"):
        return [_take(item, sources, local=local) for item in data]
    if type(data).__module__.partition(".")[0] == "pandas":
        sources.append(_table(data, local=local))
        return {BROUGHT: sources[-1].name}
    if isinstance(data, io.TextIOBase):
        raise SpecError(f"open {getattr(data, 'name', 'the file')} for bytes: open(path, 'rb')")
    if hasattr(data, "read"):
        name = getattr(data, "name", "")
        sources.append(BroughtData(Path(name).name if isinstance(name, str) and name else "data", file=data))
        return {BROUGHT: sources[-1].name}
    if isinstance(data, Mapping):
        if data.keys() == {BROUGHT, "archive"}:  # of a clone
            sources.append(BroughtData(str(data[BROUGHT]), archive=Path(data["archive"])))
            return {BROUGHT: data[BROUGHT]}
        return data if not local else {key: _take(item, sources, local=local) for key, item in data.items()}
    if local or not (isinstance(data, Path) or (isinstance(data, str) and _is_path(data))):
        return data
    path = Path(data).expanduser()
    if not path.exists():
        raise SpecError(
            f"data={str(data)!r}: there is no such file or folder here; a dataset at a node is named 'node/name'"
        )
    sources.append(BroughtData(path.absolute().name, path=path))
    return {BROUGHT: sources[-1].name}


def _table(data: Any, *, local: bool) -> BroughtData:
    """Return a DataFrame as brought data of a local job.

    Raises:
        SpecError: the job runs at nodes, or it is no table with names for its columns.
    """
    if not local:
        raise SpecError(
            'data is a pandas table: a job at nodes brings a file, table.to_parquet("table.parquet") and '
            'data="./table.parquet"; a local job, nodes="local", takes the table itself'
        )
    if not hasattr(data, "to_parquet"):
        raise SpecError(
            f"data is a pandas {type(data).__name__}; expected a DataFrame, such as data.to_frame()"
        )
    packed = io.BytesIO()
    try:
        data.to_parquet(packed, index=False)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SpecError(f"data is a table that can't be brought: {error}") from error
    packed.seek(0)
    return BroughtData("table.parquet", file=packed)


def _is_path(text: str) -> bool:
    """True if a text means something here rather than a dataset at a node.

    Anything that begins with `.`, `~` or `/`; else a file or folder that is there and
    has a suffix in its name, such as `local.csv`.
    """
    if text.startswith((".", "~", os.sep)):
        return True
    return bool(Path(text).suffix) and Path(text).exists()
