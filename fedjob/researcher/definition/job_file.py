"""A job as a file: `job.json` alone, a folder or a zip archive with it and the files of its plans.

Beside the arguments of `Job` under their own names it understands those of
NVFlare's job definition: `min_clients` or `min_sites`, `mandatory_clients` or
`required_sites`, `resource_spec`, `deploy_map`, `custom_props`, `study`, `meta`,
`job_id`. Where a file of code is named, its text may stand instead, `{"entry": name,
"text": ...}`, as `job.to_json()` writes it. In a deploy map an app is a file of the folder, "plan.py:Class", or a
subfolder with one plan in its `plan.py`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.guard import Guard
from fedjob.common.errors import SpecError
from fedjob.common.items import Items
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.types import check_job_id
from fedjob.parameters.compression import COMPRESSORS
from fedjob.privacy.protect import protect_of
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.definition.arguments import IN_FILE
from fedjob.researcher.definition.job_file_text import read_code, read_part
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.selection import SELECTORS
from fedjob.training_plans.source.plan_source import PlanSource, syntax_tree

FILE_NAME = "job.json"
MAX_FILES = 1000
MAX_BYTES = 64 << 20

ALIASES: Mapping[str, str] = {
    "id": "job_id",
    "plan": "training_plan",
    "deploy_map": "training_plan",
    "resource_spec": "resources",
    "custom_props": "props",
    "study": "project",
    "min_clients": "min_nodes",
    "min_sites": "min_nodes",
    "mandatory_clients": "required",
    "required_sites": "required",
}
_OF_A_FILE = ("min_nodes", "required", "meta", "job_id")
"""Keys that a job's file may have beside the arguments of `Job`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The definition of a job as a file holds it.

    Args:
        operation: a protocol, or "file.py:function".
        arguments: the other arguments of `Job`.
        job_id: that the file gives, checked; a job made of it has an id of its own.
        folder: absolute path of the folder or zip archive that holds it; empty where there is none.
    """

    operation: Any
    arguments: Mapping[str, Any]
    job_id: str = ""
    folder: str = ""


@contextmanager
def open_definition(source: str | Path | Mapping[str, Any]) -> Iterator[Definition]:
    """Give what defines a job, as long as the files of its plans are needed.

    Args:
        source: `job.json`, a folder or zip archive that holds one, or what one would hold.

    Raises:
        SpecError: it does not define a job; says what was expected.
    """
    if isinstance(source, Mapping):
        yield read_definition(source, None)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        yield _from_folder(path)
    elif zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory(prefix="fedjob-job-") as folder:
            _unpack(path, Path(folder))
            yield replace(_from_folder(_top(Path(folder))), folder=str(path.absolute()))
    elif path.is_file():
        yield _from_file(path)
    else:
        raise SpecError(f"there is no {path}: expected {FILE_NAME}, a folder or a zip archive that holds one")


def read_definition(plain: Mapping[str, Any], folder: Path | None) -> Definition:
    """Read what a job's file says.

    Args:
        folder: that holds the files of plans; None where there are none.

    Raises:
        SpecError: an unknown key (the nearest is named), a key that is there twice under two names, a wrong value.
    """
    given = _under_our_names(plain)
    readers: Mapping[str, Callable[[Any], Any]] = {
        "training_plan": lambda value: _plans(value, folder),
        "selector": lambda value: read_part(SELECTORS, value),
        "aggregator": lambda value: read_part(AGGREGATORS, value),
        "compress": lambda value: read_part(COMPRESSORS, value),
        "hooks": lambda value: [read_part(HOOKS, hook) for hook in value],
        "items": lambda value: _built(Items, "items", value),
        "guard": lambda value: _built(Guard, "guard", value),
        "protect": lambda value: protect_of(_map("protect", value)),
    }
    apart = {"operation", "quorum", "props"}
    arguments = {
        name: readers[name](given[name]) if name in readers else given[name]
        for name in IN_FILE
        if name in given and name not in apart
    }
    if quorum := _quorum(given):
        arguments["quorum"] = quorum
    props = {**_map("meta", given.get("meta")), **_map("props", given.get("props"))}
    if props:
        arguments["props"] = props
    job_id = given.get("job_id", "")
    if not isinstance(job_id, str):
        raise SpecError(f"{FILE_NAME}: job_id is text, not {job_id!r}")
    return Definition(
        operation=_operation(given.get("operation", "fedavg"), folder),
        arguments=arguments,
        job_id=check_job_id(job_id) if job_id else "",
    )


def _under_our_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says, each thing under the one name that fedjob has for it."""
    known = (*IN_FILE, *_OF_A_FILE)
    given: dict[str, Any] = {}
    for key, value in plain.items():
        name = ALIASES.get(key, key)
        if name not in known:
            near = get_close_matches(str(key), [*known, *ALIASES], 1)
            raise SpecError(
                f"{FILE_NAME}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if name in given:
            raise SpecError(f"{FILE_NAME}: {key!r} says again what {name!r} says: keep one")
        given[name] = value
    return given


def _built(kind: type[Items] | type[Guard], name: str, value: Any) -> Items | Guard:
    fields = dict(_map(name, value))
    unknown = sorted(set(fields) - set(kind.__slots__))
    if unknown:
        raise SpecError(f"{FILE_NAME}: {name} has no {', '.join(unknown)}")
    return kind(**fields)


def _quorum(given: Mapping[str, Any]) -> Quorum | None:
    rule = dict(_map("quorum", given.get("quorum")))
    for name in ("min_nodes", "required"):
        if name in given:
            if name in rule:
                raise SpecError(f"{FILE_NAME}: {name!r} stands beside the quorum that has it: keep one")
            rule[name] = given[name]
    unknown = sorted(set(rule) - {"min_nodes", "required", "deadline_s", "grants_deadline_s"})
    if unknown:
        raise SpecError(f"{FILE_NAME}: a quorum has no {', '.join(unknown)}")
    required = rule.pop("required", None) or ()
    if isinstance(required, str) and required != ALL:
        raise SpecError(f'{FILE_NAME}: required is a list of nodes, or "all"; found {required!r}')
    return Quorum(required=required, **rule) if rule or required else None


def _operation(value: Any, folder: Path | None) -> Any:
    if isinstance(value, Mapping):
        return read_part(PROTOCOLS, value)
    if not isinstance(value, str):
        raise SpecError(
            f"{FILE_NAME}: operation is the name of a protocol, or file.py:function; found {value!r}"
        )
    return _code(value, folder) if ".py:" in value else value


def _plans(value: Any, folder: Path | None) -> Any:
    """Return a plan, or a map of them, with whole paths."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "text" in value):
        return _code(value, folder)
    if not isinstance(value, Mapping):
        raise SpecError(f'{FILE_NAME}: training_plan is "file.py:Class" or a map; found {value!r}')
    plans: dict[str, Any] = {}
    for app, sites in value.items():
        if isinstance(sites, str) or (isinstance(sites, Mapping) and "text" in sites):  # node: plan
            plans[app] = _code(sites, folder)
        elif isinstance(sites, Mapping):
            if set(sites) != {"plan", "nodes"}:
                raise SpecError(
                    f"{FILE_NAME}: {app!r} is {{plan, nodes}}; found {', '.join(map(str, sites))}"
                )
            plans[app] = (_code(sites["plan"], folder), sites["nodes"])
        else:  # app: [nodes]
            plans[app] = (_code(app, folder), sites)
    return plans


def _code(name: Any, folder: Path | None) -> str | PlanSource:
    """Return "path:Class" of a plan in the job's folder, or the plan whose text stands in the file.

    Raises:
        SpecError: it is not there, or lies outside.
    """
    if (code := read_code(name)) is not None:
        return code
    if not isinstance(name, str):
        raise SpecError(f'{FILE_NAME}: a plan is "file.py:Class"; found {name!r}')
    if folder is None:
        return name
    file, _, entry = name.rpartition(":") if ".py:" in name else (f"{name}/plan.py", "", "")
    base = folder.resolve()
    path = (base / file).resolve()
    if not path.is_relative_to(base):
        raise SpecError(f"{FILE_NAME}: {name!r} lies outside the job's folder")
    if not path.is_file():
        raise SpecError(f"{FILE_NAME}: there is no {file} in the job's folder for {name!r}")
    return f"{path}:{entry or _only_class(path)}"


def _only_class(path: Path) -> str:
    import ast

    try:
        tree = syntax_tree(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise SpecError(f"{path.name} can't be read as Python: {error}") from error
    named = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if len(named) != 1:
        listed = ", ".join(named) or "none"
        raise SpecError(f'{path.parent.name}/plan.py has the classes {listed}: say which, "plan.py:Class"')
    return named[0]


def _map(what: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{FILE_NAME}: {what} is a map, not {value!r}")
    return value


def _from_folder(folder: Path) -> Definition:
    if not (folder / FILE_NAME).is_file():
        raise SpecError(f"{folder} holds no {FILE_NAME}")
    return _from_file(folder / FILE_NAME)


def _from_file(path: Path) -> Definition:
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise SpecError(f"{path} holds a {type(plain).__name__}, expected a map")
    return replace(read_definition(plain, path.parent), folder=str(path.absolute().parent))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of plain files.

    Raises:
        SpecError: it is too large, damaged, or names something outside.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
                raise SpecError(f"{archive} holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB")
            for member in members:
                target = (folder / member.filename).resolve()
                odd = member.external_attr >> 16 & 0o170000 == 0o120000
                if odd or "\\" in member.filename or not target.is_relative_to(folder.resolve()):
                    raise SpecError(f"{archive} holds {member.filename!r}, which is no plain file inside it")
                if member.is_dir():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("wb") as file:
                    _copy(source, file, member.file_size, archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise SpecError(f"{archive} can't be unpacked: {error}") from error


def _copy(source: Any, file: Any, size: int, archive: Path) -> None:
    left = size
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise SpecError(f"{archive} holds more than it says")
        file.write(block)


def _top(folder: Path) -> Path:
    """Return the folder that holds the definition: an archive may have one folder around everything."""
    inside = list(folder.iterdir())
    if not (folder / FILE_NAME).exists() and len(inside) == 1 and inside[0].is_dir():
        return inside[0]
    return folder
