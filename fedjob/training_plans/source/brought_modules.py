"""The modules beside a plan that travel with it: found by what the plan and they import.

A module travels whole, as its file is. It is one that lies in the folder of the plan's
file (or of the package around it, or of the notebook) and belongs to no installed package.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import syntax_tree, without_program
from fedjob.training_plans.source.sections import MAX_MODULES, Section, check_module_name
from fedjob.training_plans.source.text_checks import decode_plan, with_plain_comments

_SETS = frozenset({"setdefault", "pop", "update"})


@dataclass(frozen=True)
class Surroundings:
    """The folder that a plan's own modules are imported from.

    Args:
        root: that folder; None where there is none.
        package: the dotted name of the package that holds the plan's file; empty for none.
        own: the name by which the plan's file is imported.
    """

    root: Path | None = None
    package: str = ""
    own: str = ""

    def absolute(self, node: ast.ImportFrom) -> str | None:
        """Return the module that a relative import names, None where it leaves the folder."""
        parts = self.package.split(".") if self.package else []
        if node.level - 1 > len(parts):
            return None
        kept = parts[: len(parts) - (node.level - 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def file_of(self, module: str) -> Path | None:
        """Return the file of a module in this folder, None if there is none."""
        if self.root is None or not module:
            return None
        base = self.root.joinpath(*module.split("."))
        for path in (base / "__init__.py", base.parent / f"{base.name}.py"):
            if path.is_file():
                return path
        return None

    def holds(self, module: str) -> bool:
        """Tell whether a module's top package lies here and is no installed one."""
        top = module.partition(".")[0]
        if self.root is None or not top or top == "fedjob" or _is_of_python(self.root):
            return False
        folder = self.root / top
        here = self.file_of(top) is not None or (folder.is_dir() and any(folder.glob("**/*.py")))
        return here and top not in _installed()


NOWHERE = Surroundings()
"""No folder: nothing travels with such a plan."""


def surroundings_of(path: str, package: str | None) -> Surroundings:
    """Return the folder around a plan's file.

    Args:
        package: as Python knows it where the file was imported as part of one; else it is
            looked for on the disk.
    """
    file = Path(path).resolve()
    folder = file.parent
    if package:
        parts = package.split(".")
        root = folder.parents[len(parts) - 1] if len(parts) <= len(folder.parents) else folder
        if root.joinpath(*parts) == folder:
            return Surroundings(root, package, f"{package}.{file.stem}")
    names: list[str] = []
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return Surroundings(folder, ".".join(names), ".".join([*names, file.stem]))


def brought_modules(plan: str, around: Surroundings) -> list[tuple[Section, Path]]:
    """Return the modules that a plan's text imports from its folder, and that they import, by name.

    Raises:
        PlanError: one can't be read, is the plan's own file, reads what only this machine has, or
            there are too many.
    """
    found: dict[str, tuple[Section, Path]] = {}
    waiting = sorted(_imports(syntax_tree(plan), around, "", ""))
    while waiting:
        name = waiting.pop()
        path = around.file_of(name) if around.holds(name) else None
        if path is None or name in found:
            continue
        if name == around.own:
            raise PlanError(
                f"a module beside the plan imports {name}, the plan's own file ({path}): move what both need into a "
                "module of its own",
                path=path,
                name=name,
            )
        check_module_name(name)
        if len(found) == MAX_MODULES:
            raise PlanError(
                f"more than {MAX_MODULES} modules beside the plan are imported: {path} would be next"
            )
        text = with_plain_comments(_read(path))
        text = text if text.endswith("\n") or not text else f"{text}\n"
        assert around.root is not None
        relative = path.relative_to(around.root).as_posix()
        tree = without_program(_parse(text, path))
        _refuse_what_is_here(tree, path)
        found[name] = Section(relative, text), path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imports(tree, around, package, str(path))
    return [found[name] for name in sorted(found)]


def _imports(tree: ast.AST, around: Surroundings, package: str, path: str) -> Iterator[str]:
    """Yield the modules that a text may import, with the packages around them."""
    inside = Surroundings(around.root, package)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = inside.absolute(node) if node.level else node.module
            if base is None or (node.level and not path):
                raise PlanError(
                    f"line {node.lineno} of the plan imports relative to a package inside a definition: write the "
                    "import at the top of the file, or by the module's full name"
                )
            names = [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                part = ".".join(parts[:count])
                # the packages around the plan's own file are empty ones, unless something is taken of them
                around_it = around.package == part or around.package.startswith(f"{part}.")
                if not around_it or (count == len(parts) and _takes_of(node, part, around)):
                    yield part


def _takes_of(node: ast.AST, package: str, around: Surroundings) -> bool:
    """Tell whether an import takes more of a package than its modules."""
    if not isinstance(node, ast.ImportFrom):
        return True
    return any(around.file_of(f"{package}.{alias.name}") is None for alias in node.names)


def _refuse_what_is_here(tree: ast.Module, path: Path) -> None:
    set_here = {
        id(part)
        for node in ast.walk(tree)
        for part in ast.walk(node)
        if (isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Attribute) and node.attr in _SETS)
    }
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if name == "__file__" or (
            name in ("os.environ", "os.getenv", "sys.argv") and id(node) not in set_here
        ):
            raise PlanError(
                f"{path}, line {getattr(node, 'lineno', 0)} uses {name}, and nodes have another one: pass what it "
                "gives through model_args or training_args",
                path=path,
                name=name,
            )


@functools.cache
def _installed() -> frozenset[str]:
    """Return the top packages of everything that is installed."""
    return frozenset(importlib.metadata.packages_distributions())


def _is_of_python(root: Path) -> bool:
    """Tell whether a folder is where Python or its installed packages lie."""
    places = {Path(place).resolve() for place in sysconfig.get_paths().values() if place}
    return root in places or "site-packages" in root.parts or "dist-packages" in root.parts


def _parse(text: str, path: Path) -> ast.Module:
    try:
        return syntax_tree(text)
    except (SyntaxError, ValueError) as error:
        raise PlanError(f"{path} is not valid Python: {error}", path=path) from error


def _read(path: Path) -> str:
    try:
        return decode_plan(path.read_bytes(), path=path)
    except OSError as error:
        raise PlanError(f"{path} can't be read: {error.strerror}", path=path) from error
