"""The folder of a job's result: written once, before the job is completed; read without a network.

<job>/result/
    manifest.mpk          what kind of result it is, what was measured, each file's size and sha256
    params.safetensors    named tensors, where there are any
    value.mpk             any other value
    table.csv             for people, where the value is a table
    files/                those that a `Plan` with a `primary` returned

A plan with a `primary` returns a map from names of files to what is in them: a table,
text, bytes, or plain data, which becomes JSON. Tables of several nodes become one with a
column `node`; of anything else there is a file for each node, `ward.notes.txt`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedjob.common.checks import check_path, checked_methods, some_of
from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, MissingPackage, NotReady, WrongResult, printable_lines
from fedjob.common.files import PRIVATE, fsync_dir, link_durably, link_or_copy, make_folder, write_atomic
from fedjob.common.lifecycle import State
from fedjob.common.values import decode, encode
from fedjob.parameters.files import FileParams, is_params, save_params
from fedjob.protocols.function import NodeValues
from fedjob.protocols.steps import Steps
from fedjob.researcher.monitoring.participation import NOT_ASKED, Participation
from fedjob.researcher.results.artifact import Artifact
from fedjob.researcher.results.named_items import NamedItems
from fedjob.researcher.results.row_losses import num_incomplete, row_losses
from fedjob.researcher.results.table import ResultTable, frame_of
from fedjob.researcher.storage.audit_heads import summaries
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.record import load_record, privacy_in_words
from fedjob.researcher.storage.spec import JobSpec, load_spec
from fedjob.training_plans.pipeline import Pipeline
from fedjob.training_plans.source.compilation import make_plan
from fedjob.training_plans.step_plan import is_file_name

if TYPE_CHECKING:
    import torch

MANIFEST, PARAMS, VALUE, TABLE = "manifest.mpk", "params.safetensors", "value.mpk", "table.csv"
FILES = "files"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultManifest:
    """The manifest of a result's folder.

    Args:
        kind: `params`; `nodes`, a value for each node; or `value`.
        rounds: number of committed rounds.
        files: name -> `[size, sha256]`.
        primary: the file that matters most; empty for the usual order.
        learned: steps of the preprocessing that found values in the data of all nodes, complete.
        participation: who took part, who did not and why.
        row_losses: lines on rows of these nodes that the numbers are not about.
        num_incomplete: those of them in which a value is missing, or that nodes withhold.
        remarks: what was asked for and not to be had, such as a GPU.
    """

    version: int = VERSION
    kind: str
    rounds: int
    rows: list[Measurement] = field(default_factory=list)
    learned: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, list[Any]] = field(default_factory=dict)
    primary: str = ""
    participation: Participation = field(default_factory=Participation)
    row_losses: list[str] = field(default_factory=list)
    num_incomplete: int = 0
    remarks: list[str] = field(default_factory=list)


def save_result(
    folder: JobFolder,
    value: Any,
    *,
    rounds: int = 0,
    rows: tuple[Measurement, ...] = (),
    num_nodes: int = 1,
    learned: Sequence[Mapping[str, Any]] = (),
    primary: str = "",
    participation: Participation | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, list[Any]]:
    """Write a protocol's result, durably; return its files, name -> `[size, sha256]`.

    Args:
        num_nodes: of the job; the result of a single node is its value, that of several a map.
        primary: the file that matters most of those that the value is a map of; empty for none.
        participation: who took part, who did not and why.
        remarks: what was asked for and not to be had.
    """
    target = folder.result
    make_folder(target)
    _remove_earlier(folder)
    kind, written = "value", []
    if isinstance(value, NodeValues):
        kind = "value" if value.aggregated else "nodes"
        value = value.total if value.aggregated else value.nodes
        plain = None if isinstance(value, FileParams) else value
    else:
        plain = None if is_params(value) else encode(value, "the result")
    if isinstance(value, FileParams):
        kind = "params"
        link_durably(value.path, target / PARAMS)
    elif is_params(value):
        kind = "params"
        save_params(value, target / PARAMS)
    else:
        write_atomic(target / VALUE, pack(plain))
        _write_table(target / TABLE, kind, plain, num_nodes)
        if primary:
            several = kind == "nodes" and not (num_nodes == 1 and len(value) == 1)
            written = write_files(target / FILES, opened(plain, kind, num_nodes), of_nodes=several)
    paths = {name: target / name for name in (PARAMS, VALUE, TABLE)}
    paths |= {name: target / FILES / name for name in sorted(written)}
    files = {name: [path.stat().st_size, hash_file(path)] for name, path in paths.items() if path.exists()}
    manifest = ResultManifest(
        kind=kind,
        rounds=rounds,
        rows=list(rows),
        learned=[dict(step) for step in learned],
        files=files,
        primary=primary,
        participation=participation or Participation(),
        row_losses=row_losses(value),
        num_incomplete=num_incomplete(value),
        remarks=list(remarks),
    )
    write_atomic(target / MANIFEST, pack(to_plain(manifest)))
    return files


def _remove_earlier(folder: JobFolder) -> None:
    """Remove the files of an earlier end of the job; what somebody else put beside them stays."""
    try:
        files = list(load_manifest(folder).files)
    except (NotReady, DecodeError):
        files = []
    for name in files:
        (folder.result / FILES / name).unlink(missing_ok=True)
    for name in (MANIFEST, PARAMS, VALUE, TABLE):
        (folder.result / name).unlink(missing_ok=True)


def past_result(folder: JobFolder, manifest: ResultManifest) -> Path:
    """Return where the files of a result are kept once the job goes on after it."""
    return folder.past_results / hashlib.sha256(pack(to_plain(manifest))).hexdigest()[:32]


def keep_result(folder: JobFolder) -> None:
    """Give the files of a job's result second names before it goes on, so that results in hand stay what they are.

    A result that is damaged already is not kept.
    """
    try:
        past = past_result(folder, load_manifest(folder))
    except (NotReady, DecodeError):
        return
    if past.exists():
        return
    draft = past.with_name(f"{past.name}.{secrets.token_hex(4)}")
    make_folder(draft)
    for path in sorted(folder.result.rglob("*")):
        target = draft / path.relative_to(folder.result)
        if path.is_dir():
            target.mkdir(mode=0o700)
        else:
            link_or_copy(path, target)
    os.rename(draft, past)
    fsync_dir(past.parent)


def load_manifest(folder: JobFolder) -> ResultManifest:
    """Return the manifest of a result's folder.

    Raises:
        NotReady: there is none.
        DecodeError: it is damaged.
    """
    try:
        return from_plain(ResultManifest, unpack((folder.result / MANIFEST).read_bytes()))
    except FileNotFoundError as error:
        raise NotReady(f"{folder.result} holds no result", id=folder.path.name) from error
    except OSError as error:
        raise DecodeError(f"the result in {folder.result} can't be read: {error}") from error


def load_value(path: Path) -> Any:
    """Read a value; a map of nodes stays encoded within."""
    return unpack(path.read_bytes())


def opened(plain: Any, kind: str, num_nodes: int) -> Any:
    """Return a stored value as the researcher sees it: one node's own, or a map from node to value."""
    if kind != "nodes":
        return decode(plain)
    values = {node: decode(item) for node, item in plain.items()}
    return next(iter(values.values())) if num_nodes == 1 and len(values) == 1 else values


def _write_table(path: Path, kind: str, plain: Any, num_nodes: int) -> None:
    """Write a table as csv too; without pandas only the encoded value is written."""
    with contextlib.suppress(ImportError):
        frame = frame_of(opened(plain, kind, num_nodes)) if _holds_frame(plain) else None
        if frame is not None:
            ResultTable(frame).to_csv(path).chmod(PRIVATE)


def _holds_frame(plain: Any) -> bool:
    """Return whether a stored value is a table, or a map of tables, without decoding it."""
    if not isinstance(plain, dict) or not plain:
        return False
    return plain.get("\0type") == "frame" or all(
        isinstance(item, dict) and item.get("\0type") == "frame" for item in plain.values()
    )


def primary_of(spec: JobSpec, plan_text: str) -> str:
    """Return the file that matters most, as a job's plan names it; empty for a job without."""
    if spec.protocol.name != Steps.name or spec.plans:
        return ""
    plan = make_plan(plan_text, spec.plan_entry)
    return plan.whole.primary if isinstance(plan, Pipeline) else ""


def write_files(folder: Path, value: Any, *, of_nodes: bool) -> list[str]:
    """Write the files that a value is a map of; return their names.

    An entry whose name can't be that of a file is left out: it stands in the value.

    Args:
        value: name -> content; with `of_nodes`, node -> such a map.
    """
    contents = _contents(value, of_nodes)
    make_folder(folder)
    for name, content in contents.items():
        frame = frame_of(content)
        if frame is not None:
            ResultTable(frame).to_csv(folder / name).chmod(PRIVATE)
        else:
            write_atomic(folder / name, _bytes_of(content))
    return list(contents)


def _contents(value: Any, of_nodes: bool) -> dict[str, Any]:
    if not of_nodes:
        return _named(value)
    each: dict[str, dict[str, Any]] = {}
    for node, files in value.items():
        for name, content in _named(files).items():
            each.setdefault(name, {})[str(node)] = content
    found: dict[str, Any] = {}
    for name, contents in each.items():
        joined = frame_of(contents)
        found |= {name: joined} if joined is not None else {f"{n}.{name}": c for n, c in contents.items()}
    return found


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {name: content for name, content in value.items() if is_file_name(name)}


def _bytes_of(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return json.dumps(content, indent=1, default=str).encode() + b"\n"


@checked_methods
class ResultFolder:
    """A completed job's result as it lies on disk, of any kind."""

    def __init__(self, folder: JobFolder, spec: JobSpec, manifest: ResultManifest) -> None:
        self._folder = folder
        self._spec = spec
        self._manifest = manifest

    @classmethod
    def load(cls, folder: str | Path | JobFolder) -> Self:
        """Return the result that a job's folder holds.

        Raises:
            NotReady: the job is not completed; carries its id and state.
        """
        found = folder if isinstance(folder, JobFolder) else JobFolder(check_path("folder", folder).resolve())
        record = load_record(found.record)
        if record.state != "completed":
            why = f" ({record.reason}: {record.detail})" if record.reason else ""
            hint = (
                "Start it with job.run()"
                if record.state == State.DRAFT
                else "Look at job.finished and job.success first, or at job.partial"
            )
            raise NotReady(
                f"{found.path.name} is {record.state}{why}: it has no result. {hint}",
                id=found.path.name,
                state=record.state,
            )
        return cls(found, load_spec(found.spec), load_manifest(found))

    @property
    def participation(self) -> Participation:
        """Who took part, who did not and why, and from how many rows the result comes."""
        return self._manifest.participation

    @property
    def participants(self) -> Any:
        """Who took part, as a pandas DataFrame with a row for each node, see `Participation.dataframe`."""
        return self.participation.dataframe

    @property
    def job(self) -> str:
        """Id of the job."""
        return self._spec.id

    @property
    def about(self) -> str:
        """What the result is about: `2 of 3 nodes, 294 of 797 rows; left out: ...`, and rows that do not count."""
        open_nodes = sorted(node for node, kind in self.sandboxes.items() if kind == "none")
        without = [f"computed without a sandbox: {some_of(open_nodes)}"] if open_nodes else []
        rewritten = [chain.node for chain in summaries(self._folder.audit_heads) if chain.contradictions]
        if spent := self.privacy:
            at = some_of(f"{node} {privacy_in_words(one)}" for node, one in sorted(spent.items()))
            without.append(f"differential privacy: {at}")
        without += [f"audit logs that contradict themselves: {some_of(rewritten)}"] if rewritten else []
        parts = [str(self.participation), *self._manifest.row_losses, *without, *self.remarks]
        return printable_lines("; ".join(parts))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was asked for and not to be had, each in a sentence: a GPU, resources of a simulation; empty for nothing."""
        return tuple(self._manifest.remarks)

    @property
    def sandboxes(self) -> dict[str, str]:
        """node -> the sandbox that its last answer was computed in: `namespaces`, `landlock`, `none`, ..."""
        return dict(load_record(self._folder.record).sandboxes) if self._folder.record.exists() else {}

    @property
    def privacy(self) -> dict[str, dict[str, float]]:
        """node -> the `epsilon` that the job has spent there and its `delta`, as the nodes reported them; empty without."""
        return dict(load_record(self._folder.record).privacy) if self._folder.record.exists() else {}

    @property
    def epsilon(self) -> dict[str, float]:
        """node -> the epsilon that the job has spent there, over all its rounds; `privacy` has the delta with it."""
        return {node: spent["epsilon"] for node, spent in self.privacy.items() if "epsilon" in spent}

    @property
    def complete(self) -> bool:
        """True if every node that was asked counts, with all its rows as far as these are known."""
        return not self.lacks_nodes_or_rows and not self._manifest.row_losses

    @property
    def lacks_nodes_or_rows(self) -> bool:
        """True if nodes that were asked do not count, or rows with missing values; filters are meant to leave rows out."""
        missing = [node for node, why in self.participation.left_out.items() if why != NOT_ASKED]
        return bool(missing or self._manifest.num_incomplete)

    @property
    def kind(self) -> str:
        """`params`, `table` or `value`."""
        if self._manifest.kind == "params":
            return "params"
        return "table" if TABLE in self._manifest.files else "value"

    def _kept(self, name: str) -> Path:
        """Return where a file of this result lies now: the job may have gone on since."""
        past = past_result(self._folder, self._manifest) / name
        return past if past.exists() else self._folder.result / name

    @cached_property
    def _value(self) -> Any:
        found = opened(load_value(self._kept(VALUE)), self._manifest.kind, len(self._spec.datasets))
        return NamedItems(found) if type(found) is dict and not self._spec.plan_hash else found

    @property
    def value(self) -> Any:
        """The value that the protocol returned: parameters, a function's value, or a map from node to value."""
        return self.params if self._manifest.kind == "params" else self._value

    @property
    def params(self) -> dict[str, torch.Tensor]:
        """The named tensors, in memory.

        Raises:
            WrongResult: there are none.
        """
        if self._manifest.kind == "params":
            return read_tensors(self._kept(PARAMS))
        if is_params(self._value):
            return dict(self._value)
        raise WrongResult("result is not parameters: this job trained nothing; look at .value")

    @property
    def table(self) -> ResultTable:
        """The table: a DataFrame that a function returned; of several nodes, with a column `node`.

        Raises:
            WrongResult: result is not a table.
        """
        frame = None
        if self._manifest.kind != "params":
            _need_pandas()
            frame = frame_of(self._value)
        if frame is None:
            raise WrongResult("result is not a table: no DataFrame was returned; look at .value or .params")
        return ResultTable(frame)

    @property
    def dataframe(self) -> Any:
        """The table as a pandas DataFrame."""
        return self.table.dataframe

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The files of the result, by name."""
        return {
            name: Artifact(
                name=name,
                path=self._folder.result / (name if name in (PARAMS, TABLE, VALUE) else f"{FILES}/{name}"),
                size_bytes=int(size),
                sha256=str(sha256),
                job=self._spec.id,
                past=past_result(self._folder, self._manifest)
                / (name if name in (PARAMS, TABLE, VALUE) else f"{FILES}/{name}"),
            )
            for name, (size, sha256) in self._manifest.files.items()
        }

    @property
    def artifact(self) -> Artifact:
        """The file that matters most: the plan's `primary`, else parameters, the table as csv, the value as msgpack."""
        files, primary = self.artifacts, self._manifest.primary
        if named := [name for name in files if primary and (name == primary or name.endswith(f".{primary}"))]:
            return files[named[0]]
        return next(files[name] for name in (PARAMS, TABLE, VALUE) if name in files)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a file, in memory."""
    from fedjob.parameters.files import FileParams

    stored = FileParams(path)
    return {name: stored[name].clone() for name in stored}


def _need_pandas() -> None:
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise MissingPackage("tables need pandas: pip install 'fedjob[researcher]'") from error
