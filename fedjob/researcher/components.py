"""Selectors, folds and hooks as data and back: by their name, or by the text of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fedjob.common.errors import SpecError
from fedjob.common.registry import Registry
from fedjob.researcher.selection import SELECTORS, Selector
from fedjob.researcher.spec import Part

T = TypeVar("T")


def to_part(registry: Registry[T], component: Any) -> Part:
    """Describe a component so that another process can build it.

    Args:
        component: one of the registry's, its name, or a function whose source can be, or was, extracted.

    Raises:
        SpecError: it is none of these.
    """
    if isinstance(component, str):
        return Part(name=component, config=registry.config_of(registry.build(component, {}))[1])
    from fedjob.common.plans.source import PlanSource, extract

    if isinstance(component, PlanSource) or (callable(component) and not hasattr(component, "name")):
        source = extract(component)
        return Part(text=source.text, entry=source.entry)
    name, config = registry.config_of(component)
    return Part(name=name, config=config)


def from_part(registry: Registry[T], part: Part) -> Any:
    """Build what `to_part` described; a function comes back as the function."""
    if part.text:
        from fedjob.common.plans.source import compile_text

        return compile_text(part.text, part.entry)
    return registry.build(part.name, part.config)


def selection(part: Part, seed: int) -> Callable[[int, tuple[str, ...]], tuple[str, ...]]:
    """Return `(round, nodes) -> nodes` of a selector or a researcher's function."""
    chosen: Selector | Callable[[int, list[str]], Sequence[str]] = from_part(SELECTORS, part)
    if isinstance(chosen, Selector):
        selector = chosen
        return lambda round_, nodes: tuple(selector.select(round_, nodes, seed))
    function = chosen

    def select(round_: int, nodes: tuple[str, ...]) -> tuple[str, ...]:
        selected = function(round_, list(nodes))
        if isinstance(selected, str) or not all(isinstance(node, str) for node in selected):
            raise SpecError(f"selector {part.entry} returned {selected!r}; expected a list of node ids")
        return tuple(selected)

    return select
