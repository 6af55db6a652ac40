"""A reading aid for owners: where a plan imports, writes, connects or starts something.

It points; it proves nothing. What it does not point at may still do harm, and what
it points at may be right.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from importlib.util import find_spec

from fedjob.common.errors import PlanError

CHECK_WITHIN_S = 60.0

_TALKS = {"ftplib", "http", "httpx", "paho", "requests", "smtplib", "socket", "ssl", "urllib", "urllib3"}
_FILE_CALLS = {
    "open",
    "write_text",
    "write_bytes",
    "read_text",
    "read_bytes",
    "unlink",
    "rename",
    "save",
    "savez",
}
_HIDES = {"getattr", "setattr", "globals", "vars", "__import__", "import_module"}


@dataclass(frozen=True, slots=True)
class Remark:
    """A line worth a look.

    Args:
        kind: `import` or `risk`.
    """

    line: int
    kind: str
    text: str


def remarks(text: str) -> list[Remark]:
    """Return what to look at in a plan, by line."""
    found = [*_imports(text), *_calls(text), *_risks(text)]
    return sorted(set(found), key=lambda remark: (remark.line, remark.kind, remark.text))


def numbered(text: str, found: Iterable[Remark]) -> list[str]:
    """Return the text with line numbers, each remark under its line."""
    lines = text.split("\n")[: -1 if text.endswith("\n") else None]
    under: dict[int, list[Remark]] = {}
    for remark in found:
        under.setdefault(remark.line, []).append(remark)
    width = len(str(len(lines)))
    shown = []
    for number, line in enumerate(lines, start=1):
        shown.append(f"{number:>{width}}  {line}")
        shown += [f"{'':>{width}}  ^ {remark.kind}: {remark.text}" for remark in under.get(number, ())]
    return shown


def differs_only_in_form(one: str, other: str) -> bool:
    """Tell whether two texts mean the same: only comments, blank space or line ends differ.

    A docstring is part of the meaning: a plan can read its own. So is the module that a line stands in.
    """
    from fedjob.training_plans.source.sections import meaning

    try:
        return one != other and meaning(one) == meaning(other)
    except (SyntaxError, ValueError, RecursionError, PlanError):
        return False


def difference(old: str, new: str) -> list[str]:
    """Return the lines that differ, as a unified diff without its head."""
    return list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))[2:]


def can_look_for_risks() -> bool:
    """True if bandit is installed."""
    return find_spec("bandit") is not None


def _imports(text: str) -> Iterator[Remark]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = ", ".join(alias.name for alias in node.names)
            yield Remark(node.lineno, "import", names)
            for name in {alias.name.partition(".")[0] for alias in node.names} & _TALKS:
                yield Remark(node.lineno, "risk", f"{name}: can talk to other machines")
        elif isinstance(node, ast.ImportFrom):
            names = ", ".join(alias.name for alias in node.names)
            yield Remark(node.lineno, "import", f"{node.module}: {names}")
            if (node.module or "").partition(".")[0] in _TALKS:
                yield Remark(node.lineno, "risk", f"{node.module}: can talk to other machines")


def _calls(text: str) -> Iterator[Remark]:
    """Point at what bandit lets pass: files, the environment, names that are made at run time."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in _FILE_CALLS:
                yield Remark(node.lineno, "risk", f"{name}(...): reads or writes a file?")
            elif name in _HIDES and not all(isinstance(arg, ast.Constant) for arg in node.args[1:]):
                yield Remark(node.lineno, "risk", f"{name}(...): chooses at run time what is used")
        elif isinstance(node, ast.Attribute):
            if node.attr == "environ":
                yield Remark(node.lineno, "risk", "reads or changes the environment")
            elif node.attr.startswith("__") and node.attr.endswith("__") and node.attr != "__init__":
                yield Remark(node.lineno, "risk", f"{node.attr}: reaches into the interpreter")


def _risks(text: str) -> Iterator[Remark]:
    """Ask bandit, in a process of its own: it reads the text from its input, and runs nothing of it."""
    if not can_look_for_risks():
        return
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", "--exit-zero", "--ignore-nosec", "-"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=CHECK_WITHIN_S)
        results = json.loads(done.stdout)["results"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError):
        yield Remark(1, "risk", "bandit could not read this plan: read it with more care")
        return
    for result in results:
        if result["issue_severity"] == "LOW" and result["test_id"] == "B101":
            continue  # an assert
        where = f"{result['test_id']} {result['test_name']}, {result['issue_severity'].lower()}"
        yield Remark(
            int(result["line_number"]), "risk", f"{result['issue_text'].split(chr(10))[0]} ({where})"
        )
