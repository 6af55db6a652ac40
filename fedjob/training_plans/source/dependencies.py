"""The text of a plan, collected from a definition and everything in its module that it uses, transitively."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.checks import some_of
from fedjob.common.errors import PlanError
from fedjob.training_plans.source.bindings import BUILTINS, Binding, Module, Unit
from fedjob.training_plans.source.brought_modules import NOWHERE, Surroundings
from fedjob.training_plans.source.plan_source import Origins

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
        strict: nothing will compare what the text gives with the live values, so that a name with
            several definitions is taken only where one of them counts for sure.
        around: the folder that modules beside the plan are taken from.
    """

    def __init__(
        self,
        module: Module,
        *,
        live: Mapping[str, Any] | None = None,
        locate: Locate = lambda found: None,
        path: str = "",
        strict: bool = False,
        around: Surroundings = NOWHERE,
    ) -> None:
        self._module, self._live, self._locate, self._path = module, live or {}, locate, path
        self._strict, self._around = strict, around
        self._needs: dict[Binding, list[Binding]] = {}
        self._chosen: dict[str, list[Binding]] = {}

    def text(self, entry: Binding, name: str) -> tuple[str, Origins]:
        """Return the plan's text, and where each of its lines was written.

        Raises:
            PlanError: the entry captures something that is not text; it is named.
        """
        self._chosen[name] = [entry]
        self._collect(entry, name)
        if self._strict:
            self._refuse_between()
        ordered = self._ordered()
        lines: list[str] = []
        origins: list[tuple[str, int]] = []
        if any(binding.future for binding in ordered):
            lines, origins = ["from __future__ import annotations"], [("", 0)]
        before = "import" if lines else ""
        # the same definition run again later keeps its place
        for binding in ordered:
            kind = _kind_of_piece(binding)
            blank = int(bool(lines) and not (kind == before and kind in ("import", "constant")))
            blank += int(bool(lines) and "definition" in (kind, before))
            piece = (self._absolute(binding) or binding.text).split("\n")
            whole = len(piece) == binding.last_line - binding.place[1] + 1
            lines += [*[""] * blank, *piece]
            origins += [("", 0)] * blank
            origins += [
                (binding.unit.label, binding.place[1] + (n if whole else 0)) for n in range(len(piece))
            ]
            before = kind
        return "\n".join(lines) + "\n", tuple(origins)

    def place_of(self, name: str) -> str:
        """Return where something that the text holds was written; empty if it holds no such thing."""
        found = [binding for binding in self._needs if name in binding.names]
        return _place(found[-1]) if found else ""

    def _collect(self, entry: Binding, name: str) -> None:
        waiting: list[tuple[Binding, str]] = [(entry, name)]
        assigned: set[str] = set()
        while waiting:
            binding, who = waiting.pop()
            if binding in self._needs:
                continue
            needs = self._needs[binding] = []
            self._refuse(binding, who)
            if binding.kind != "import" and binding.of_one_process:
                self._fail_process(binding.of_one_process, who, binding)
            assigned |= binding.assigns
            for used in sorted(binding.uses - set(binding.names)):
                found = self._find(used, binding)
                if not found and used not in BUILTINS and used not in assigned:
                    self._fail_unknown(used, binding)
                if used in binding.eager and any(item.imports_of_one_process for item in found):
                    self._fail_process(used, who, binding)
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
        return self._with_those_before(name, candidates, self._choose_among(name, candidates))

    @staticmethod
    def _with_those_before(name: str, candidates: list[Binding], chosen: list[Binding]) -> list[Binding]:
        """Add what a name stands for where an `if` that may bind it does not."""
        if len(chosen) != 1 or name in chosen[0].certain:
            return chosen
        for earlier in reversed(candidates[: candidates.index(chosen[0])]):
            chosen = [earlier, *chosen]
            if name in earlier.certain:
                break
        return chosen

    def _choose_among(self, name: str, candidates: list[Binding]) -> list[Binding]:
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
                f"{name!r} was written as {_short(latest.text)!r} but is now {_short(repr(live))} "
                f"({_place(latest)}): a plan carries constants as they are written; set it where it is defined",
                path=self._path,
                name=name,
            )
        return same[-1:] or [latest]

    def _refuse(self, binding: Binding, name: str) -> None:
        where = _place(binding)
        if binding.kind == "relative" and not self._absolute(binding):
            raise PlanError(
                f"the plan uses {name!r} from `{binding.text}` ({where}), which is not beside it: nodes have no "
                "package around a plan; write it into the same file or notebook, put the module into the plan's "
                "folder, or import it from an installed package",
                path=self._path,
                name=name,
            )
        if binding.kind == "other":
            what = (
                f"a {type(self._live[name]).__name__}" if name in self._live else "made when the program runs"
            )
            raise PlanError(
                f"the plan captures {name!r}, which is {what} (`{_short(binding.text)}`, {where}): only "
                "imports, functions, classes and literal constants travel to the nodes; make it inside a "
                "method, or pass it through model_args or training_args",
                path=self._path,
                name=name,
            )
        changed = self._module.changed.get(name) if binding.kind != "import" else None
        changed = changed or self._module.patched.get(name)
        if changed:
            raise PlanError(
                f"the plan uses {name!r}, which {changed[0]}, line {changed[1]} changes after its "
                "definition: a plan carries definitions as they are written; put the change "
                "into it",
                path=self._path,
                name=name,
            )

    def _absolute(self, binding: Binding) -> str:
        """Return a relative import by the module's full name; empty if it is none, or leads nowhere."""
        node = binding.node
        if binding.kind != "relative" or not isinstance(node, ast.ImportFrom):
            return ""
        base = self._around.absolute(node)
        [alias] = [item for item in node.names if (item.asname or item.name) in binding.names]
        if base is None:
            return ""
        whole = f"{base}.{alias.name}" if base else alias.name
        known = self._around.file_of(base) or self._around.file_of(whole)
        if known is None:
            return ""
        taken: ast.stmt = ast.ImportFrom(base, [alias], 0) if base else ast.Import([alias])
        return ast.unparse(taken)

    def _fail_unknown(self, name: str, user: Binding) -> None:
        stars = dict.fromkeys(f"`{b.text}`" for b in self._module.bindings if b.kind == "star")
        if stars:
            advice = f"it may come from {some_of(stars, between=' or ')}: import it by its name"
        elif name in self._live:
            advice = (
                f"it is a {type(self._live[name]).__name__} that no statement here defines: only what is "
                "written in the same file or notebook travels to the nodes"
            )
        elif name in self._module.guarded:
            label, line = self._module.guarded[name]
            advice = (
                f'it is defined under `if __name__ == "__main__"` ({label}, line {line}), which does not run '
                "where the plan is read: move it to the top level"
            )
        else:
            advice = "define or import it in the same file or notebook"
        raise PlanError(
            f"{' and '.join(user.names)} uses {name!r}, which is not defined ({_place(user)}): {advice}",
            path=self._path,
            name=name,
        )

    def _fail_process(self, what: str, name: str, binding: Binding) -> None:
        raise PlanError(
            f"{name!r} reads {what} while the plan is loaded ({_place(binding)}), and nodes have another one: "
            "pass the value through model_args or training_args",
            path=self._path,
            name=name,
        )

    def _refuse_between(self) -> None:
        """Refuse a name that is defined again after something has used it at once."""
        for binding in self._needs:
            for name in sorted(self._at_once(binding)):
                places = [b for b in self._module.of(name) if b is not binding]
                before = [b for b in places if b.place < binding.place]
                after = (
                    [b for b in places if b.place > binding.place and b.text != before[-1].text]
                    if before
                    else []
                )
                if before and after:
                    raise PlanError(
                        f"{name!r} is defined twice ({_place(before[-1])}, and line {after[-1].place[1]}), and "
                        f"{' and '.join(binding.names)} (line {binding.place[1]}) uses it in between: a plan "
                        "carries one definition of a name; give the second one another name",
                        path=self._path,
                        name=name,
                    )

    def _at_once(self, binding: Binding) -> set[str]:
        """Return the names that are looked up when a statement runs, in the functions too that it may call."""
        found: set[str] = set()
        waiting = [(binding, binding.eager)]
        while waiting:
            user, names = waiting.pop()
            for name in set(names) - found:
                found.add(name)
                waiting += [(need, need.uses) for need in self._needs.get(user, []) if name in need.names]
        return found

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


def _kind_of_piece(binding: Binding) -> str:
    kinds = {"import": "import", "relative": "import", "constant": "constant"}
    return kinds.get(binding.kind, "definition")


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


def _place(binding: Binding) -> str:
    return f"{binding.unit.label}, line {binding.place[1]}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
