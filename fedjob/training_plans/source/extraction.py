"""The extraction of a plan: from a class, a function, an instance or a file to its source."""

from __future__ import annotations

import types
from pathlib import Path

from fedjob.common.checks import shown
from fedjob.common.errors import PlanError
from fedjob.training_plans.function import RemoteFunction
from fedjob.training_plans.source.brought_modules import brought_modules
from fedjob.training_plans.source.comparison import Comparison
from fedjob.training_plans.source.compilation import checked_code, compile_text, plan_module_name
from fedjob.training_plans.source.dependencies import Extraction
from fedjob.training_plans.source.locations import SourceLocation, place_in_file, place_of
from fedjob.training_plans.source.plan_source import SOURCE_ATTRIBUTE, PlanSource, plan_hash
from fedjob.training_plans.source.sections import joined
from fedjob.training_plans.source.text_checks import check_plan_text, with_plain_comments


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
        source, extraction = _extract_at(place)
        if not place.exact:
            _refuse_differences(definition, source, extraction)
        return source
    return _extract_at(place)[0]


def _extract_at(place: SourceLocation) -> tuple[PlanSource, Extraction]:
    extraction = Extraction(
        place.module,
        live=place.live,
        locate=place.locate,
        path=place.path,
        strict=place.strict,
        around=place.around,
    )
    text, origins = extraction.text(place.entry, place.name)
    brought = brought_modules(text, place.around)
    text = joined(text, [section for section, _ in brought])
    for section, path in brought:
        length = section.text.count("\n")
        origins += (("", 0), ("", 0), (str(path), 1), *((str(path), n + 1) for n in range(length)))
    text = check_plan_text(with_plain_comments(text), origins)
    checked_code(text, place.path or None, place.name)
    return PlanSource(text, place.name, plan_hash(text), origins), extraction


def _refuse_differences(
    definition: type | types.FunctionType, source: PlanSource, extraction: Extraction
) -> None:
    """Build a plan from its text, and refuse the text if it gives anything else than the program has."""
    built = compile_text(source.text, source.entry, source.origins)
    found = Comparison(plan_module_name(source.sha256)).first(source.entry, definition, built)
    if found is None:
        return
    root = found.name.removeprefix("the defaults of ").partition(".")[0].partition("[")[0]
    places = [place for place in map(extraction.place_of, (root, source.entry)) if place]
    raise PlanError(
        f"{found.name!r} is {found.live} in this program, but {found.written} as it is written"
        f"{f' ({places[0]})' if places else ''}: nodes build a plan from what is written. Put the change into the "
        "definition, or pass it through model_args or training_args; if the file or the cell was edited since, "
        "import or run it again",
        name=found.name,
    )


def _refuse_non_plan(plan: object, definition: type | types.FunctionType) -> None:
    if isinstance(definition, types.FunctionType):
        return
    # an object of another library would be extracted with all that its class needs, which may be much
    stranger = definition is not plan and not any(
        base.__module__.partition(".")[0] == "fedjob" for base in definition.__mro__
    )
    if stranger or definition.__module__ == "builtins" or isinstance(plan, (Path, types.ModuleType)):
        raise PlanError(
            "a training plan is a class derived from TorchPlan or SklearnPlan, an instance of one, or "
            f"'file.py:Class', not an object of {type(plan).__name__}: {shown(plan)}"
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
