"""The rules of the house that a reader of one file can't see: checked over the syntax trees of all of them.

Who may import whom is import-linter's part of `make check`.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("fedjob/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))


def _pure_modules() -> tuple[str, ...]:
    """Return the modules and packages that `.importlinter` holds to do no I/O."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    return tuple(contracts["importlinter:contract:pure"]["source_modules"].split())


PURE = _pure_modules()

UNSAFE_IMPORTS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.jit.load", "yaml.load", "numpy.load", "np.load"}

ALLOWED_ERRORS = {
    "AttributeError",  # what a module's or an object's __getattr__ must raise
    "KeyError",  # what a mapping must raise
    "IndexError",  # what a sequence must raise
    "EOFError",  # what a stream that has ended must raise
    "StopIteration",  # what an iterator must raise
    "TypeError",  # what a wrong call must raise
    "ValueError",  # a broken promise between functions of one module; users get a SpecError
}
ALLOWED_IN_COMMAND_LINES = {"ClickException", "UsageError", "BadParameter", "Exit", "Abort", "SystemExit"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def is_command_line(path: Path) -> bool:
    """Whether this module talks to a person: only these print and set an exit status."""
    parts = path.relative_to(ROOT / "fedjob").parts
    return (
        parts[-1] in ("cli.py", "__main__.py", "console.py", "runner_process.py")
        or "cli" in parts
        or "demo" in parts
    )


def is_pure(path: Path) -> bool:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return any(module == pure or module.startswith(f"{pure}.") for pure in PURE)


def test_the_pure_modules_are_there() -> None:
    named = [
        module
        for module in PURE
        if not any(is_pure(path) and module in dotted_name(path) for path in SOURCES)
    ]
    assert named == []


def dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of attributes, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Yield every absolute module name that a file imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module


FORKING = {
    ROOT / "fedjob/researcher/simulation/worker_process.py",
    *(
        ROOT / "fedjob/node" / name
        for name in (
            "execution/fork_server.py",
            "execution/process.py",
            "sandbox/namespaces.py",
            "sandbox/trial.py",
        )
    ),
}


def test_only_command_lines_print_and_exit() -> None:
    banned = {"print", "exit", "quit", "sys.exit", "os._exit", "os.abort"}
    found = [
        f"{at(path, call)} calls {name}"
        for path in SOURCES
        if not is_command_line(path)
        and path not in FORKING  # a forked child must end without its parent's clean-up
        for call, name in calls(path)
        if name in banned
    ]
    assert found == []


def test_nothing_unpickles_or_evaluates() -> None:
    found = []
    for path in SOURCES:
        found += [
            f"{at(path, node)} imports {name}"
            for node, name in imports(path)
            if name.split(".")[0] in UNSAFE_IMPORTS
        ]
        for call, name in calls(path):
            if name in ("eval", "__import__", "input") or name in UNSAFE_CALLS - {"numpy.load", "np.load"}:
                found.append(f"{at(path, call)} calls {name}")
            if name in ("numpy.load", "np.load") and not _says(call, "allow_pickle", False):
                found.append(f"{at(path, call)} calls {name} without allow_pickle=False")
            if _says(call, "allow_pickle", True) or _says(call, "shell", True):
                found.append(f"{at(path, call)} allows pickle or a shell")
    assert found == []


def _says(call: ast.Call, keyword: str, value: bool) -> bool:
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value
        for k in call.keywords
    )


@pytest.mark.feature("FB-85")
def test_code_is_compiled_and_executed_in_one_module() -> None:
    found = [
        f"{at(path, call)} calls {name}"
        for path in SOURCES
        if path != ROOT / "fedjob/training_plans/source/compilation.py"
        for call, name in calls(path)
        if name in ("exec", "compile", "builtins.exec", "builtins.compile")
    ]
    assert found == []


def test_pure_rooms_open_no_files() -> None:
    methods = {"read_bytes", "read_text", "write_bytes", "write_text", "mkdir", "unlink", "touch", "stat"}
    found = [
        f"{at(path, call)} calls {ast.unparse(call.func)}"
        for path in SOURCES
        if is_pure(path)
        for call, name in calls(path)
        if name == "open" or (isinstance(call.func, ast.Attribute) and call.func.attr in methods)
    ]
    assert found == []


@cache
def _errors_of_fedjob() -> frozenset[str]:
    """Return the names of all classes under FedjobError, wherever they are written."""
    bases = {
        node.name: {dotted(base).split(".")[-1] for base in node.bases}
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    }
    known = {"FedjobError"}
    while more := {name for name, above in bases.items() if above & known} - known:
        known |= more
    return frozenset(known)


@cache
def _functions_that_return_errors() -> frozenset[str]:
    return frozenset(
        node.name
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and dotted(node.returns).split(".")[-1] in _errors_of_fedjob()
    )


def _is_an_error_of_ours(raised: ast.expr, path: Path) -> bool:
    if isinstance(raised, ast.Name) and raised.id.islower():
        return True  # an error that was caught or handed over: raised anew as it is
    name = dotted(raised.func if isinstance(raised, ast.Call) else raised).split(".")[-1]
    if is_command_line(path) and name in ALLOWED_IN_COMMAND_LINES:
        return True
    return name in _errors_of_fedjob() | ALLOWED_ERRORS | _functions_that_return_errors()


@cache
def _declared_hooks(path: Path) -> frozenset[ast.stmt]:
    """Return the `raise NotImplementedError` of methods that only declare what a user writes."""
    return frozenset(
        node.body[1]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef)
        and len(node.body) == 2
        and ast.get_docstring(node) is not None
        and ast.unparse(node.body[1]) == "raise NotImplementedError"
    )


@pytest.mark.feature("FB-89")
def test_every_error_raised_is_of_the_one_tree() -> None:
    found = [
        f"{at(path, node)} raises {ast.unparse(node.exc)}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and node not in _declared_hooks(path)
        and not _is_an_error_of_ours(node.exc, path)
    ]
    assert found == []


def test_a_lack_of_an_extra_is_one_kind_of_error_everywhere() -> None:
    found = [
        (at(path, node), dotted(node.func))
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and dotted(node.func).endswith(("Error", "Package", "Permitted"))
        and any("pip install 'fedjob[" in text for text in _texts(node))
    ]
    assert len(found) > 10
    assert [place for place, error in found if error != "MissingPackage"] == []


def _texts(call: ast.Call) -> list[str]:
    """Return the pieces of text that stand in a call."""
    return [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_no_error_is_swallowed_unseen() -> None:
    """`except:` and `except BaseException` catch the interrupt too; they must raise again."""
    found = [
        at(path, node)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or dotted(node.type) == "BaseException")
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        and path
        != ROOT
        / "fedjob/node/execution/process.py"  # a plan that exits is over, not its node: the error is the answer
    ]
    assert found == []


def test_no_argument_defaults_to_something_that_changes() -> None:
    found = [
        at(path, node)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        and any(
            isinstance(default, (ast.List, ast.Dict, ast.Set))
            for default in (*node.args.defaults, *node.args.kw_defaults)
        )
    ]
    assert found == []


def test_nothing_rewrites_global_names() -> None:
    found = [
        f"{at(path, node)} global {', '.join(node.names)}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_no_name_says_nothing() -> None:
    """A class named so has no one idea."""
    vague = re.compile(r"(Manager|Helper|Util|Utils)$|^(Base|I)[A-Z][a-z]")
    found = [
        f"{at(path, node)} {node.name}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and vague.search(node.name)
    ]
    assert found == []


def test_every_file_says_what_it_is() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if tree(path).body and ast.get_docstring(tree(path)) is None
    ]
    assert found == []


def test_tests_patch_nothing() -> None:
    found = []
    for path in TESTS:
        found += [f"{at(path, node)} imports {name}" for node, name in imports(path) if "mock" in name]
        found += [
            f"{at(path, call)} calls {name}"
            for call, name in calls(path)
            if name.endswith(("monkeypatch.setattr", "monkeypatch.setitem", "mock.patch"))
        ]
    assert found == []


def test_scripts_draw_without_choosing_how_the_whole_process_draws() -> None:
    """A script that a test calls leaves the process's settings of matplotlib as they are: `matplotlib.figure.Figure`."""
    scripts = sorted(path for folder in ("benchmarks", "examples") for path in ROOT.glob(f"{folder}/**/*.py"))
    found = [
        f"{at(path, call)} calls {name}"
        for path in scripts
        for call, name in calls(path)
        if name == "matplotlib.use" or name.startswith(("plt.", "pyplot.", "matplotlib.pyplot."))
    ]
    assert found == []


def test_no_test_is_skipped_but_for_want_of_a_part() -> None:
    """`tests.parts` skips, and fails in CI."""
    away = {"skip", "skipif", "skipIf", "skipUnless", "importorskip", "SkipTest", "xfail"}
    found = [
        f"{at(path, node)} {name}"
        for path in TESTS
        if path != ROOT / "tests/parts.py"
        for node in ast.walk(tree(path))
        if (name := dotted(node)).startswith(("pytest.", "unittest.")) and name.split(".")[-1] in away
    ]
    assert found == []


def test_unit_tests_use_no_network_no_process_and_no_sleep() -> None:
    away = {"socket", "subprocess", "requests", "multiprocessing", "paho", "http", "urllib", "psutil"}
    found = []
    for path in TESTS:
        if "unit" not in path.relative_to(ROOT / "tests").parts:
            continue
        found += [
            f"{at(path, node)} imports {name}"
            for node, name in imports(path)
            if name.split(".")[0] in away and name != "urllib.parse"
        ]
        found += [f"{at(path, call)} calls {name}" for call, name in calls(path) if name.endswith("sleep")]
    assert found == []


def test_the_allowed_errors_are_real_ones() -> None:
    assert all(issubclass(getattr(builtins, name), Exception) for name in ALLOWED_ERRORS)
