"""The description of selectors, aggregators and hooks as data: by their name, or by the text of a function."""

from __future__ import annotations

from typing import Any, TypeVar

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.by_function import FunctionAggregator as FunctionAggregator
from fedjob.common.registry import Registry
from fedjob.researcher.selection import SELECTORS
from fedjob.researcher.selection.base import Selector
from fedjob.researcher.selection.by_function import FunctionSelector
from fedjob.researcher.storage.spec import Component

T = TypeVar("T")


def to_part(registry: Registry[T], component: Any) -> Component:
    """Describe a component so that another process can build it.

    Args:
        component: one of the registry's, its name, or a function whose source can be, or was, extracted.

    Raises:
        SpecError: it is none of these.
    """
    if isinstance(component, str):
        return Component(name=component, config=registry.config_of(registry.build(component, {}))[1])
    from fedjob.training_plans.source.extraction import extract
    from fedjob.training_plans.source.plan_source import PlanSource

    if isinstance(component, PlanSource) or (callable(component) and not hasattr(component, "name")):
        source = extract(component)
        return Component(text=source.text, entry=source.entry)
    name, config = registry.config_of(component)
    return Component(name=name, config=config)


def from_part(registry: Registry[T], part: Component) -> Any:
    """Build what `to_part` described; a function comes back as the function."""
    if part.text:
        from fedjob.training_plans.source.compilation import compile_text

        return compile_text(part.text, part.entry)
    return registry.build(part.name, part.config)


def selector_of(part: Component) -> Selector:
    """Return a selector, or a researcher's function as one."""
    chosen = from_part(SELECTORS, part)
    return chosen if isinstance(chosen, Selector) else FunctionSelector(chosen, part.entry)


def aggregator_of(part: Component | None) -> Aggregator | None:
    """Return a job's own aggregator, or a researcher's function as one; None for a job that leaves it to its protocol."""
    if part is None:
        return None
    chosen = from_part(AGGREGATORS, part)
    return chosen if isinstance(chosen, Aggregator) else FunctionAggregator(chosen, part.entry)
