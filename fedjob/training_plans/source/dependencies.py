"""The text of a plan, collected from a definition and everything in its module that it uses, transitively."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.bindings import BUILTINS, Binding, Module, Unit

Locate = Callable[[object], tuple[Unit, int] | None]
"""Returns the unit and line where a live function or class was written, None if unknown."""


class Extraction:
    """Collects what an entry needs out of a module.

    Args:
        module: all bindings around the entry.
        live: the namespace as it is now, where there is one: it decides between
            several definitions of a name, and shows constants that changed.
        locate: where a live function or class was written.
        path: for messages.
    """

    def __init__(
        self,
        module: Module,
        *,
        live: Mapping[str, Any] | None = None,
        locate: Locate = lambda found: None,
        path: str = "",
    ) -> None:
        self._module, self._live, self._locate, self._path = module, live or {}, locate, path
        self._needs: dict[Binding, list[Binding]] = {}
        self._chosen: dict[str, list[Binding]] = {}

    def text(self, entry: Binding, name: str) -> str:
        """Return the plan's text.

        Raises:
            PlanError: the entry captures something that is not text; it is named.
        """
        self._chosen[name] = [entry]
        self._collect(entry, name)
        ordered = self._ordered()
        # the same definition run again later keeps its place
        pieces = [_piece(binding) for binding in ordered]
        future = "from __future__ import annotations\n" if any(b.future for b in ordered) else ""
        text, before = future, "import" if future else ""
        for kind, piece in pieces:
            if text:
                text += "" if kind == before == "import" or kind == before == "constant" else "\n"
                text += "\n" if "definition" in (kind, before) else ""
            text += piece + "\n"
            before = kind
        return text

    def _collect(self, entry: Binding, name: str) -> None:
        waiting: list[tuple[Binding, str]] = [(entry, name)]
        assigned: set[str] = set()
        while waiting:
            binding, who = waiting.pop()
            if binding in self._needs:
                continue
            needs = self._needs[binding] = []
            self._refuse(binding, who)
            assigned |= binding.assigns
            for used in sorted(binding.uses - set(binding.names)):
                found = self._find(used, binding)
                if not found and used not in BUILTINS and used not in assigned:
                    self._fail_unknown(used, binding)
                needs += found
                waiting += [(item, used) for item in found]
            for mentioned in sorted(binding.mentions - set(binding.names)):
                found = [b for b in self._find(mentioned, binding) if b.kind in ("import", "class", "block")]
                needs += found
                waiting += [(item, mentioned) for item in found]

    def _find(self, name: str, user: Binding) -> list[Binding]:
        """Return what defines a name: one binding, or all imports of parts of one package."""
        if name not in self._chosen:
            self._chosen[name] = self._choose(name)
        chosen = self._chosen[name]
        if not any(binding.module for binding in chosen):
            return chosen
        wanted = [
            b for b in chosen if not b.module or any(f"{d}.".startswith(f"{b.module}.") for d in user.dotted)
        ]
        return wanted or chosen

    def _choose(self, name: str) -> list[Binding]:
        candidates = self._module.of(name)
        if not candidates:
            return []
        latest = candidates[-1]
        if latest.kind == "import":
            imports = [b for b in candidates if b.kind == "import"]
            together = [b for b in imports if b.module or b.text == f"import {name}"]
            chosen = together if latest in together else [latest]
            return list({b.text: b for b in reversed(chosen)}.values())[::-1]
        if name not in self._live:
            return [latest]
        live = self._live[name]
        place = self._locate(live)
        if place is not None:
            unit, line = place
            inside = [
                b for b in candidates if b.unit is unit and (line < 1 or b.place[1] <= line <= b.last_line)
            ]
            return inside[-1:] or [latest]
        same = [b for b in candidates if not _contradicts(b, name, live)]
        if not same and latest.kind == "constant":
            raise PlanError(
                f"{name!r} was written as {_short(latest.text)!r} but is now {_short(repr(live))}: "
                "a plan carries constants as they are written; set it where it is defined",
                path=self._path,
                name=name,
            )
        return same[-1:] or [latest]

    def _refuse(self, binding: Binding, name: str) -> None:
        where = f"{binding.unit.label}, line {binding.place[1]}"
        if binding.kind == "relative":
            raise PlanError(
                f"the plan uses {name!r} from `{binding.text}` ({where}): nodes have no package around "
                "a plan; write it into the same file or notebook, or import it from an installed package",
                path=self._path,
                name=name,
            )
        if binding.kind == "other":
            what = (
                f"a {type(self._live[name]).__name__}" if name in self._live else "made when the program ran"
            )
            raise PlanError(
                f"the plan captures {name!r}, which is {what} (`{_short(binding.text)}`, {where}): only "
                "imports, functions, classes and literal constants travel to the nodes; make it inside a "
                "method, or pass it through model_args or training_args",
                path=self._path,
                name=name,
            )
        changed = self._module.changed.get(name)
        if changed and binding.kind in ("constant", "function", "class"):
            raise PlanError(
                f"the plan uses {name!r}, which {changed[0]}, line {changed[1]} changes after its "
                "definition: a plan carries definitions as they are written; put the change "
                "into it",
                path=self._path,
                name=name,
            )

    def _fail_unknown(self, name: str, user: Binding) -> None:
        stars = [b.text for b in self._module.bindings if b.kind == "star"]
        if stars:
            advice = f"it may come from `{stars[-1]}`: import it by its name"
        elif name in self._live:
            advice = (
                f"it is a {type(self._live[name]).__name__} that no statement here defines: only what is "
                "written in the same file or notebook travels to the nodes"
            )
        else:
            advice = "define or import it in the same file or notebook"
        raise PlanError(
            f"{' and '.join(user.names)} uses {name!r}, which is not defined ({user.unit.label}): {advice}",
            path=self._path,
            name=name,
        )

    def _ordered(self) -> list[Binding]:
        """Return what was collected in definition order, moved up where it is needed at once."""
        first: dict[tuple[tuple[str, ...], str], tuple[int, int]] = {}
        for binding in self._module.bindings:
            first.setdefault((binding.names, binding.text), binding.place)
        rank = {b: first.get((b.names, b.text), b.place) for b in self._needs}
        placed: dict[Binding, None] = {}
        deep: set[Binding] = set()

        def place(binding: Binding) -> None:
            if binding in placed or binding in visiting:
                return
            visiting.add(binding)
            for need in self._needs[binding]:
                if set(need.names) & binding.eager:
                    place_deep(need)
            placed.setdefault(binding)

        def place_deep(binding: Binding) -> None:
            # what runs at once may call anything that it uses
            if binding in deep:
                return
            deep.add(binding)
            for need in sorted(self._needs[binding], key=lambda b: rank[b]):
                if need not in visiting:
                    place_deep(need)
            place(binding)

        visiting: set[Binding] = set()
        for binding in sorted(self._needs, key=lambda b: rank[b]):
            place(binding)
        unique = {binding.text: binding for binding in reversed(placed)}
        return [binding for binding in placed if unique[binding.text] is binding]


def _piece(binding: Binding) -> tuple[str, str]:
    kinds = {"import": "import", "constant": "constant"}
    return kinds.get(binding.kind, "definition"), binding.text


def _contradicts(binding: Binding, name: str, live: object) -> bool:
    """Tell whether a live value is not the one that a literal assignment gives."""
    if not isinstance(binding.node, (ast.Assign, ast.AnnAssign)) or binding.node.value is None:
        return False
    targets = binding.node.targets if isinstance(binding.node, ast.Assign) else [binding.node.target]
    if not all(isinstance(target, ast.Name) for target in targets):
        return False
    try:
        written = ast.literal_eval(binding.node.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return type(live) is not type(written) or repr(live) != repr(written)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
