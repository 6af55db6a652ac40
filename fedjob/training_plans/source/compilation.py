"""The compilation of a plan: from its text to a class, or to a plan that is built.

The one place of fedjob that compiles and executes text.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import FedjobError, PlanError
from fedjob.common.seeds import seed_for
from fedjob.parameters.model_files import ModelFile
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.context import Context
from fedjob.training_plans.function import FunctionPlan, RemoteFunction, function
from fedjob.training_plans.pipeline import Pipeline
from fedjob.training_plans.plan_checks import check_plan_class
from fedjob.training_plans.randomness import seed_everything, undisturbed
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.source.embedded_imports import EmbeddedImports
from fedjob.training_plans.source.locations import where
from fedjob.training_plans.source.plan_source import (
    PLAN_FILENAME,
    SOURCE_ATTRIBUTE,
    TREES,
    Origins,
    PlanSource,
    line_words,
    plan_hash,
    syntax_tree,
)
from fedjob.training_plans.source.sections import Section, split
from fedjob.training_plans.source.text_checks import check_plan_text
from fedjob.training_plans.step_plan import Plan, check_step_plan


def compile_plan(text: str, entry: str) -> type[TrainingPlan]:
    """Build a plan's class from its text and nothing else.

    Raises:
        PlanError: the text is refused, does not run, or defines no complete plan of that name.
    """
    found = compile_text(text, entry)
    cls = check_plan_class(found)
    setattr(cls, SOURCE_ATTRIBUTE, PlanSource(text, entry, plan_hash(text)))
    return cls


def make_plan(text: str, entry: str, origins: Origins = ()) -> TrainingPlan | FunctionPlan | Pipeline:
    """Build a plan of any kind, or a function as one, from its text and nothing else.

    Args:
        origins: where its lines were written, for messages.

    Raises:
        PlanError: as `compile_plan`.
    """
    found = compile_text(text, entry, origins)
    if isinstance(found, (RemoteFunction, types.FunctionType)):
        return FunctionPlan(function(found))
    if isinstance(found, type) and issubclass(found, Plan):
        return Pipeline(check_step_plan(found))
    return check_plan_class(found)()


def plan_module_name(sha256: str) -> str:
    """Return the name of the module that a plan's text is run in."""
    return f"plan_{sha256[:12]}"


def compile_text(text: str, entry: str, origins: Origins = ()) -> object:
    """Run a text in a module of its own and return what it defines under a name.

    Neither the import path nor the table of loaded modules is different
    afterwards, beside what the text itself imports.

    Args:
        origins: where its lines were written, for messages.

    Raises:
        PlanError: the text is refused, or running it raises; the cause is chained.
    """
    check_plan_text(text, origins)
    digest = plan_hash(text)[:12]
    filename = f"{PLAN_FILENAME}{digest}>"
    codes, sections = checked_code(text, None, entry, filename)
    # tracebacks show the plan's own lines; an entry without a time is never thrown away
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(plan_module_name(digest))
    embedded = EmbeddedImports(module.__name__, sections, codes, _execute)
    module.__dict__["__builtins__"] = embedded.namespace if sections else builtins
    # dataclasses look their module up while they are being made
    sys.modules[module.__name__] = module
    try:
        _execute(codes[""], module.__dict__)
    except ImportError as error:
        raise PlanError(
            f"plan {entry} can't import what it needs: {error}{_line_of(error, filename, origins)}. Install it where "
            "the plan runs, or put the module beside the plan's file, so that it travels with the plan",
            name=entry,
        ) from error
    except (Exception, SystemExit) as error:
        raise PlanError(
            f"plan {entry} raises while it is loaded: {type(error).__name__}: {error}"
            f"{_line_of(error, filename, origins)}",
            name=entry,
        ) from error
    finally:
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
    if entry not in module.__dict__:
        raise PlanError(f"the plan's text defines no {entry!r}", name=entry)
    found: object = module.__dict__[entry]
    return found


def _execute(code: types.CodeType, namespace: dict[str, Any]) -> None:
    exec(code, namespace)


def checked_code(
    text: str, path: str | None, name: str, filename: str = "<plan>"
) -> tuple[dict[str, types.CodeType], tuple[Section, ...]]:
    """Compile a text without running it.

    Returns:
        the code of each module that travels with the plan by its path, that of the plan itself
        under ""; and those modules. Their lines are those of the whole text.

    Raises:
        PlanError: it is not valid Python.
    """
    plan, sections = split(text)
    try:
        codes = {"": compile(plan, filename, "exec", dont_inherit=True)}
        for part in sections:
            tree = ast.increment_lineno(syntax_tree(part.text, filename), part.first_line - 1)
            with TREES.taken():
                codes[part.path] = compile(tree, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PlanError(f"plan {name} is not valid Python: {error}", path=path, name=name) from error
    return codes, sections


def _line_of(error: BaseException, filename: str, origins: Origins) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({line_words(line, origins)})" if line else ""


def built_plan(
    plan_text: str,
    entry: str,
    model_args: dict[str, Any],
    training_args: dict[str, Any],
    seed: int,
    origins: Origins = (),
    *,
    models: Mapping[str, ModelFile] | None = None,
    frozen: Path | None = None,
) -> Any:
    """Build a plan on the researcher's side: the first parameters depend on the job's seed alone.

    Args:
        origins: where the lines of the text were written, for messages.
        models: this side's files of the job's models, by name.
        frozen: file of the frozen part of its model; None to have it from the plan.

    Returns:
        None for a job without a plan.

    Raises:
        PlanError: what the plan's own methods raise is chained.
    """
    if not plan_text:
        return None
    plan = make_plan(plan_text, entry, origins)
    plan.ctx = Context(node="", round=0, job_seed=seed, seed=seed, models=models or {}, frozen=frozen)
    try:
        with undisturbed():
            seed_everything(seed_for(seed, 0, "", "init"))
            plan.build(model_args, at_round(training_args, 1))
    except FedjobError:
        raise
    except (Exception, SystemExit) as error:
        raise PlanError(
            f"plan {entry} can't be built with model_args={model_args!r}: {type(error).__name__}: {error} "
            f"({where(error, origins)})",
            name=entry,
        ) from error
    return plan
