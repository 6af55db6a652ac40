"""Modules beside a plan travel with it, as part of the one text that owners approve."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedjob.common.errors import PlanError
from fedjob.node.grants.plan_review import differs_only_in_form
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.source.packages import imported_packages, missing_packages
from fedjob.training_plans.source.sections import split

PLAN = """from aids import scale, shapes
import aids.parts.deep as deep


class Entry:
    def run(self):
        from aids.late import LATE
        return scale(3), shapes.SIZES, deep.Part(2).n, LATE
"""
AIDS = {
    "__init__.py": "from .parts import FACTOR\n\n\ndef scale(x):\n    return x * FACTOR\n",
    "shapes.py": "from __future__ import annotations\nSIZES = []\nfor w in (8, 4):\n    SIZES.append(w)\n",
    "parts/__init__.py": "from .deep import FACTOR\n",
    "parts/deep.py": "from dataclasses import dataclass\nFACTOR = 5\n\n\n@dataclass\nclass Part:\n    n: int\n",
    "late.py": "from . import scale\nLATE = scale(1)\n",
    "unused.py": "import surely_not_there\n",
}
RESULT = (15, [8, 4], 2, 5)


def lay_out(folder: Path, plan: str = PLAN, package: str = "aids") -> Path:
    for name, text in AIDS.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "brought_plan.py").write_text(plan)
    return folder / "brought_plan.py"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports a module of the folder as a program that was started there does."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def test_what_the_plan_imports_from_beside_it_travels_and_runs_alone(
    tmp_path: Path, program: Callable[[str], ModuleType]
) -> None:
    path = lay_out(tmp_path)
    source = extract(f"{path}:Entry")
    assert extract(program("brought_plan").Entry) == source
    loaded = set(sys.modules)
    assert compile_text(source.text, "Entry")().run() == RESULT  # type: ignore[operator]
    assert set(sys.modules) == loaded


def test_the_text_holds_the_files_and_no_others(tmp_path: Path) -> None:
    text = extract(f"{lay_out(tmp_path)}:Entry").text
    plan, sections = split(text)
    assert "import aids.parts.deep as deep\n\n\nclass Entry:\n" in plan
    assert {part.path.removeprefix("aids/"): part.text for part in sections} == {
        name: body for name, body in AIDS.items() if name != "unused.py"
    }
    assert [text.splitlines()[part.first_line - 2] for part in sections] == [
        f"# --- fedjob module: {part.path} ---" for part in sections
    ]


def test_the_hash_is_that_of_every_file(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    before = extract(f"{path}:Entry").sha256
    (tmp_path / "aids" / "unused.py").write_text("# another remark\n")
    assert extract(f"{path}:Entry").sha256 == before
    for name in AIDS:
        file = tmp_path / "aids" / name
        file.write_text(file.read_text() + "# a remark\n")
        assert (extract(f"{path}:Entry").sha256 == before) == (name == "unused.py")
        file.write_text(AIDS[name])


def test_packages_that_only_a_module_imports_are_checked_at_the_node(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    (tmp_path / "aids" / "late.py").write_text("import surely_not_there, numpy\nLATE = 5\n")
    text = extract(f"{path}:Entry").text
    assert imported_packages(text) == ("numpy", "surely_not_there")
    assert missing_packages(text) == ("surely_not_there",)


def test_a_plan_in_a_package_may_import_relative_to_it(
    tmp_path: Path, program: Callable[[str], ModuleType]
) -> None:
    lay_out(tmp_path, package="around/aids")
    (tmp_path / "around" / "__init__.py").write_text(
        "raise RuntimeError('packages around a plan are empty ones')\n"
    )
    (tmp_path / "around" / "plans").mkdir()
    plan = tmp_path / "around" / "plans" / "mine.py"
    plan.write_text(
        "from ..aids import scale\nfrom ..aids import shapes as s\nfrom .other import N\n"
        "class Entry:\n    def run(self):\n        return scale(2), s.SIZES, N\n"
    )
    (plan.parent / "__init__.py").write_text("")
    (plan.parent / "other.py").write_text("from ..aids.late import LATE as N\n")
    source = extract(f"{plan}:Entry")
    assert compile_text(source.text, "Entry")().run() == (10, [8, 4], 5)  # type: ignore[operator]
    (tmp_path / "around" / "__init__.py").write_text("")
    assert extract(program("around.plans.mine").Entry) == source


def test_a_single_file_beside_the_plan_travels_too(tmp_path: Path) -> None:
    path = tmp_path / "plans.py"
    path.write_text("import lone\nclass Entry:\n    def run(self):\n        return lone.N\n")
    (tmp_path / "lone.py").write_text("N = 4")
    source = extract(f"{path}:Entry")
    assert compile_text(source.text, "Entry")().run() == 4  # type: ignore[operator]
    assert [part.path for part in split(source.text)[1]] == ["lone.py"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("aids.shapes.SIZES.append(1)", "shapes.SIZES"),
        ("aids.parts.deep.Part.n = 4", "deep.Part.n"),
        ("aids.FACTOR = 6", "FACTOR"),
        ("aids.scale.__defaults__ = (3,)", "the defaults of scale"),
    ],
)
def test_a_module_that_the_program_changed_is_refused_by_name(
    tmp_path: Path, program: Callable[[str], ModuleType], change: str, name: str
) -> None:
    lay_out(tmp_path)
    module = program("brought_plan")
    extract(module.Entry)
    exec(change, {"aids": sys.modules["aids"]})
    with pytest.raises(PlanError, match=f"'{name}' is .* in this program"):
        extract(module.Entry)


REFUSED = {
    "reads its own path": ("x = open(__file__)\n", "uses __file__"),
    "reads the environment": ("import os\nx = os.environ.get('N')\n", "uses os.environ"),
    "imports the plan": ("import brought_plan\n", "the plan's own file"),
    "is not Python": ("def (\n", "is not valid Python"),
    "hides a sign": ("x = '\u202e'\n", "late.py, line 1 has an invisible"),
    "is too large": ("x = 1\n" * 50_000, "bytes; at most"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_a_module_that_can_not_travel_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = lay_out(tmp_path)
    (tmp_path / "aids" / "late.py").write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=words):
        extract(f"{path}:Entry")


def test_what_a_module_does_as_a_program_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    late = tmp_path / "aids" / "late.py"
    program = "\n\nif __name__ == '__main__':\n    import sys\n    import brought_plan\n    print(sys.argv, __file__)\n"
    late.write_text(late.read_text() + program)
    extracted = extract(f"{path}:Entry")
    assert "print(sys.argv, __file__)" in extracted.text
    assert imported_packages(extracted.text) == (), "the node needs nothing for it"
    assert compile_text(extracted.text, "Entry")().run() == RESULT
    late.write_text(late.read_text() + "else:\n    print(__file__)\n")
    with pytest.raises(PlanError, match="uses __file__"):
        extract(f"{path}:Entry")


def test_a_module_that_takes_the_place_of_pythons_is_refused(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("N = 1\n")
    path = tmp_path / "plans.py"
    path.write_text("import statistics\nclass Entry:\n    x = statistics\n")
    with pytest.raises(PlanError, match="statistics beside the plan has the name of one of Python"):
        extract(f"{path}:Entry")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n# --- fedjob module: os.py ---\n", "has the name of one of Python"),
        ("x = 1\n# --- fedjob module: ../a.py ---\n", "begins no module"),
        ("x = 1\n# --- fedjob module: a.py ---\n# --- fedjob module: a.py ---\n", "a second time"),
        ("# --- fedjob module: a.py ---\n" * 1 + "def (\n", "not valid Python"),
    ],
)
def test_text_with_a_bad_boundary_is_refused(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        compile_text(text, "x")


def test_a_boundary_inside_a_string_is_none() -> None:
    text = 'x = """\n# --- fedjob module: a.py ---\n"""\n'
    assert split(text) == (text, ())
    assert compile_text(text, "x") == "\n# --- fedjob module: a.py ---\n"


def test_a_line_that_moves_to_another_module_is_no_change_of_form() -> None:
    one = "x = 1\n\n\n# --- fedjob module: a.py ---\ny = 2\nz = 3\n"
    assert differs_only_in_form(one, one.replace("z = 3", "z = 3  # remark"))
    assert not differs_only_in_form(one, "x = 1\ny = 2\n\n\n# --- fedjob module: a.py ---\nz = 3\n")
    assert not differs_only_in_form(one, one.replace("a.py", "b.py"))


def test_two_plans_may_bring_different_modules_of_one_name(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "lone.py").write_text(f"def f():\n    import lone\n    return lone.N\nN = {number}\n")
        (folder / "plans.py").write_text(
            "import lone\nclass Entry:\n    def run(self):\n        return lone.f()\n"
        )
        source = extract(f"{folder}/plans.py:Entry")
        found.append(compile_text(source.text, "Entry"))
    assert [entry().run() for entry in found] == [1, 2]  # type: ignore[operator]


def test_an_error_in_a_module_names_its_own_file_and_line(
    tmp_path: Path, program: Callable[[str], ModuleType]
) -> None:
    lay_out(tmp_path)
    module = program("brought_plan")
    (tmp_path / "aids" / "shapes.py").write_text("\n\nSIZES = 1 / 0\n")
    with pytest.raises(PlanError, match=r"ZeroDivisionError.*aids/shapes\.py, line 3"):
        extract(module.Entry)
