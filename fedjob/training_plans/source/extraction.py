"""The extraction of a plan: from a class, a function, an instance or a file to its source."""

from __future__ import annotations

import types
from pathlib import Path

from fedjob.common.errors import PlanError
from fedjob.training_plans.function import RemoteFunction
from fedjob.training_plans.source.compilation import checked_code
from fedjob.training_plans.source.dependencies import Extraction
from fedjob.training_plans.source.locations import SourceLocation, place_in_file, place_of
from fedjob.training_plans.source.plan_source import SOURCE_ATTRIBUTE, PlanSource, plan_hash
from fedjob.training_plans.source.text_checks import check_plan_text


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
        made = vars(definition).get(SOURCE_ATTRIBUTE)
        if isinstance(made, PlanSource):
            return made
        _refuse_non_plan(plan, definition)
        if definition is not plan:
            _refuse_instance_state(plan, definition)
        place = place_of(definition)
    return _extract_at(place)


def _extract_at(place: SourceLocation) -> PlanSource:
    extraction = Extraction(place.module, live=place.live, locate=place.locate, path=place.path)
    text = check_plan_text(extraction.text(place.entry, place.name))
    checked_code(text, place.path or None, place.name)
    return PlanSource(text, place.name, plan_hash(text))


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
