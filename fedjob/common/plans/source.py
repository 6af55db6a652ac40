"""Plans are text: extract it from where a class was written, and build a class from nothing else.

The one place of fedjob that compiles and executes text.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import linecache
import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedjob.common.errors import PlanError
from fedjob.common.plans.base import TrainingPlan
from fedjob.common.plans.extraction import Extraction
from fedjob.common.plans.function import FunctionPlan, RemoteFunction, function
from fedjob.common.plans.hidden import check_plan_text, decode_plan
from fedjob.common.plans.pipeline import Pipeline
from fedjob.common.plans.places import PLAN_FILENAME, Place, place_in_file, place_of
from fedjob.common.plans.plan_checks import check_plan_class
from fedjob.common.plans.step import Plan, check_step_plan

_SOURCE = "__fedjob_source__"


@dataclass(frozen=True)
class PlanSource:
    """A plan as it travels.

    Args:
        text: Python that needs nothing but what it imports.
        entry: the name of the class in it.
        sha256: of the text in UTF-8: what an owner approves.
    """

    text: str
    entry: str
    sha256: str


def plan_hash(text: str) -> str:
    """Return what identifies a plan's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def extract(plan: object) -> PlanSource:
    """Return the text of a plan.

    Args:
        plan: a class, an instance of one, or "file.py:Class"; a function too; or what was extracted before.

    Raises:
        PlanError: there is no source, it is not valid, or it captures
            something that can't travel, which is named.
    """
    if isinstance(plan, PlanSource):
        return PlanSource(check_plan_text(plan.text), plan.entry, plan_hash(plan.text))
    if isinstance(plan, str):
        place = place_in_file(plan)
    else:
        plan = plan.function if isinstance(plan, RemoteFunction) else plan
        definition = plan if isinstance(plan, (type, types.FunctionType)) else type(plan)
        made = vars(definition).get(_SOURCE)
        if isinstance(made, PlanSource):
            return made
        _refuse_non_plan(plan, definition)
        if definition is not plan:
            _refuse_instance_state(plan, definition)
        place = place_of(definition)
    return _extract_at(place)


def extract_text(text: str, entry: str) -> PlanSource:
    """Return the plan that a text defines, without what it does not use.

    Raises:
        PlanError: as `extract`.
    """
    return _extract_at(place_in_file(f"plan.py:{entry}", decode_plan(text.encode())))


def _extract_at(place: Place) -> PlanSource:
    extraction = Extraction(place.module, live=place.live, locate=place.locate, path=place.path)
    text = check_plan_text(extraction.text(place.entry, place.name))
    _compile(text, place.path or None, place.name)
    return PlanSource(text, place.name, plan_hash(text))


def compile_plan(text: str, entry: str) -> type[TrainingPlan]:
    """Build a plan's class from its text and nothing else.

    Raises:
        PlanError: the text is refused, does not run, or defines no complete plan of that name.
    """
    found = compile_text(text, entry)
    cls = check_plan_class(found)
    setattr(cls, _SOURCE, PlanSource(text, entry, plan_hash(text)))
    return cls


def make_plan(text: str, entry: str) -> TrainingPlan | FunctionPlan | Pipeline:
    """Build a plan of any kind, or a function as one, from its text and nothing else.

    Raises:
        PlanError: as `compile_plan`.
    """
    found = compile_text(text, entry)
    if isinstance(found, (RemoteFunction, types.FunctionType)):
        return FunctionPlan(function(found))
    if isinstance(found, type) and issubclass(found, Plan):
        return Pipeline(check_step_plan(found))
    return check_plan_class(found)()


def compile_text(text: str, entry: str) -> object:
    """Run a text in a module of its own and return what it defines under a name.

    Neither the import path nor the table of loaded modules is different
    afterwards, beside what the text itself imports.

    Raises:
        PlanError: the text is refused, or running it raises; the cause is chained.
    """
    check_plan_text(text)
    digest = plan_hash(text)[:12]
    filename = f"{PLAN_FILENAME}{digest}>"
    code = _compile(text, None, entry, filename)
    # tracebacks show the plan's own lines; an entry without a time is never thrown away
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(f"plan_{digest}")
    module.__dict__["__builtins__"] = builtins
    # dataclasses look their module up while they are being made
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except ImportError as error:
        raise PlanError(
            f"plan {entry} can't import what it needs: {error}. Install it where the plan runs, or write the "
            "code into the plan's own file or notebook",
            name=entry,
        ) from error
    except (Exception, SystemExit) as error:
        raise PlanError(
            f"plan {entry} raises while it is loaded: {type(error).__name__}: {error}"
            f"{_line_of(error, filename)}",
            name=entry,
        ) from error
    finally:
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
    if entry not in module.__dict__:
        raise PlanError(f"the plan's text defines no {entry!r}", name=entry)
    found: object = module.__dict__[entry]
    return found


def imported_packages(text: str) -> tuple[str, ...]:
    """Return the packages that a plan imports, and those that its class lists in `requires`.

    Neither the standard library nor fedjob is among them, nor an import that
    the plan can do without (inside `try` with `except ImportError`).
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    found: set[str] = set()
    _collect_imports(tree, found)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.update(_required(node))
    return tuple(sorted(found - set(sys.stdlib_module_names) - {"fedjob"}))


def missing_packages(text: str) -> tuple[str, ...]:
    """Return those of `imported_packages` that are not installed here; nothing is imported."""
    return tuple(name for name in imported_packages(text) if not _is_installed(name))


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _collect_imports(node: ast.AST, found: set[str]) -> None:
    if isinstance(node, ast.Import):
        found.update(alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        found.add(node.module.split(".")[0])
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
        children = [child for child in children if child not in node.body]
    for child in children:
        _collect_imports(child, found)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _required(cls: ast.ClassDef) -> tuple[str, ...]:
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is None or not any(isinstance(t, ast.Name) and t.id == "requires" for t in targets):
            continue
        try:
            names = ast.literal_eval(value)
        except ValueError:
            return ()
        names = (names,) if isinstance(names, str) else names
        if isinstance(names, (tuple, list)):
            return tuple(str(name).split(".")[0] for name in names)
    return ()


def _compile(text: str, path: str | None, name: str, filename: str = "<plan>") -> types.CodeType:
    try:
        return compile(text, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PlanError(f"plan {name} is not valid Python: {error}", path=path, name=name) from error


def _line_of(error: BaseException, filename: str) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line} of the plan)" if line else ""


def _refuse_non_plan(plan: object, definition: type | types.FunctionType) -> None:
    if isinstance(definition, types.FunctionType):
        return
    if definition.__module__ == "builtins" or isinstance(plan, (Path, types.ModuleType)):
        raise PlanError(
            "a training plan is a class, an instance of one, or 'file.py:Class', "
            f"not {type(plan).__name__} {repr(plan)[:80]}"
        )


def _refuse_instance_state(plan: object, definition: type | types.FunctionType) -> None:
    """An instance travels as its class: refuse what it alone knows."""
    own = {
        name: item for name, item in getattr(plan, "__dict__", {}).items() if not name.startswith("_fedjob")
    }
    if not own:
        return
    try:
        fresh = vars(definition())
    except TypeError:
        fresh = {}
    for name, item in own.items():
        plain = isinstance(item, (bool, int, float, str, type(None), list, tuple, dict))
        if name not in fresh or (plain and repr(fresh[name]) != repr(item)):
            raise PlanError(
                f"this {type(plan).__name__} has the attribute {name!r}, which a plan built from its text "
                "does not have: pass it through model_args or training_args",
                name=type(plan).__name__,
            )
