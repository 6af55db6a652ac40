"""Plans written in a notebook, in a real kernel: cells that run twice, change, fail and depend on each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedjob.training_plans.source.compilation import compile_plan
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.source.plan_source import plan_hash
from tests.parts import package

DEADLINE_S = 60

IMPORTS = """import torch
import torch.nn.functional as F
from fedjob.training_plans.torch import TorchPlan
from fedjob.training_plans.source.extraction import extract"""
CONSTANT = "WIDTH = 3"
HELPER = """def helper(dataset):
    # as it comes
    return dataset"""
PLAN = """class Plan(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(WIDTH, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):
        return helper(dataset)

    def training_step(self, model, batch):
        return F.mse_loss(model(batch[0]), batch[1])"""
SHOW = "print(extract(Plan).text, end='')"

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Run]:
    """Return a function that runs a cell and returns what it printed, or the last line of its error."""
    package("ipykernel")
    jupyter_client = package("jupyter_client.manager")
    manager, client = jupyter_client.start_new_kernel(kernel_name="python3", startup_timeout=DEADLINE_S)

    def run(code: str) -> str:
        printed: list[str] = []

        def collect(message: dict) -> None:  # type: ignore[type-arg]
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                printed.append(f"{content['ename']}: {content['evalue']}")

        client.execute_interactive(code, timeout=DEADLINE_S, output_hook=collect)
        return "".join(printed)

    try:
        run("get_ipython().first_path = list(__import__('sys').path)")
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


EMPTY = """%reset -f in out
get_ipython().history_manager.reset()
get_ipython().execution_count = 1
__import__("sys").path[:] = get_ipython().first_path
if "autoreload" in get_ipython().extension_manager.loaded: get_ipython().run_line_magic("autoreload", "0")
"""


@pytest.fixture
def run(kernel: Run) -> Run:
    """Return a kernel whose notebook is empty: no names, no history, no folders of other tests, nothing reloaded."""
    kernel(EMPTY)
    return kernel


def cells(run: Run, *codes: str) -> str:
    """Run cells; return what the last one printed."""
    return [run(code) for code in codes][-1]


@pytest.mark.feature("FB-03", "FB-11")
def test_a_notebook_and_a_file_give_the_same_text(run: Run, tmp_path: Path) -> None:
    text = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, SHOW)
    path = tmp_path / "plans.py"
    path.write_text("\n\n".join([IMPORTS, CONSTANT, HELPER, PLAN]))
    assert text == extract(f"{path}:Plan").text
    assert run("print(extract(Plan()).sha256, end='')") == plan_hash(text)
    assert compile_plan(text, "Plan")().init_model({}).in_features == 3  # type: ignore[attr-defined]


def test_the_latest_of_two_definitions_counts(run: Run) -> None:
    first = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, SHOW)
    second = cells(run, PLAN.replace("lr=0.1", "lr=0.2"), SHOW)
    assert second == first.replace("lr=0.1", "lr=0.2")


def test_an_instance_of_an_older_definition_is_what_it_is(run: Run) -> None:
    first = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, "old = Plan()", SHOW)
    cells(run, PLAN.replace("lr=0.1", "lr=0.2"))
    assert run("print(extract(old).text, end='')") == first


def test_running_a_cell_again_changes_nothing(run: Run) -> None:
    first = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, SHOW)
    assert cells(run, PLAN, HELPER, CONSTANT, IMPORTS, SHOW) == first


def test_a_helper_that_is_changed_later_is_the_changed_one(run: Run) -> None:
    text = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, HELPER.replace("as it comes", "changed"), SHOW)
    assert "changed" in text
    assert "as it comes" not in text
    assert compile_plan(text, "Plan")


def test_a_base_class_that_is_changed_later_still_comes_first(run: Run) -> None:
    base = PLAN.replace("class Plan(", "class Ground(")
    text = cells(
        run, IMPORTS, CONSTANT, HELPER, base, "class Plan(Ground):\n    pass", base.replace("0.1", "0.3"),
        "class Plan(Ground):\n    pass", SHOW,
    )  # fmt: skip
    assert "lr=0.3" in text
    assert compile_plan(text, "Plan")


def test_editing_an_unrelated_cell_keeps_the_text(run: Run) -> None:
    first = cells(run, IMPORTS, "x = 1", CONSTANT, HELPER, PLAN, SHOW)
    second = cells(
        run, "x = open('/dev/null')\nimport os", "def other():\n    return x", "%time x.close()", SHOW
    )
    assert second == first


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("helper = open('/dev/null')", "TextIOWrapper"),
        ("helper = torch.ones(3)", "Tensor"),
        ("import threading\nhelper = threading.Lock()", "lock"),
    ],
)
def test_a_captured_live_object_is_refused_by_name(run: Run, cell: str, kind: str) -> None:
    error = cells(run, IMPORTS, CONSTANT, cell, PLAN, SHOW)
    assert error.startswith("PlanError: the plan captures 'helper', which is a ")
    assert kind in error


def test_a_constant_counts_as_it_is_now(run: Run) -> None:
    text = cells(run, IMPORTS, CONSTANT, HELPER, PLAN, "raise ValueError\nWIDTH = 9", SHOW)
    assert "WIDTH = 3" in text
    assert "WIDTH = 4" in cells(run, "WIDTH = 4", SHOW)
    error = cells(run, "for WIDTH in (5, 6): pass", SHOW)
    assert error.startswith("PlanError: the plan captures 'WIDTH'")


def test_cells_that_fail_or_are_not_python_are_passed_over(run: Run) -> None:
    text = cells(
        run, IMPORTS, "this is not python", CONSTANT, "1 / 0", "!true", HELPER, f"%%time\n{PLAN}", SHOW
    )  # fmt: skip
    assert text == cells(run, PLAN, SHOW)
    assert compile_plan(text, "Plan")


def test_what_only_a_notebook_has_is_refused(run: Run) -> None:
    error = cells(run, IMPORTS, CONSTANT, "def helper(x):\n    display(x)", PLAN, SHOW)
    assert error.startswith("PlanError: helper uses 'display', which is not defined")


def test_a_name_set_behind_the_notebooks_back_is_refused(run: Run) -> None:
    error = cells(run, IMPORTS, CONSTANT, "globals()['helper'] = max", PLAN, SHOW)
    assert "Plan uses 'helper', which is not defined" in error


def test_a_class_from_a_script_that_was_run_is_found(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("\n\n".join([IMPORTS, CONSTANT, HELPER, PLAN]))
    text = cells(run, f"%run {path}", SHOW)
    assert text == extract(f"{path}:Plan").text


EDITS = {
    "method": ("lr=0.1", "lr=0.7"),
    "constant": ("WIDTH = 3", "WIDTH = 7"),
    "function": ("    # as it comes\n    return dataset", "    return list(dataset)"),
    "new_attribute": ("class Plan(TorchPlan):", "class Plan(TorchPlan):\n    rate = 0.7"),
    "new_method": ("    def init_model(", "    def width(self):\n        return WIDTH\n\n    def init_model("),
    "docstring": ("(self, model, batch):", '(self, model, batch):\n        """One.\n\n        Two.\n        """'),
    "super": ("    def init_model(", "    def init_state(self):\n        return super().init_state()\n\n    def init_model("),
    "lines": ("WIDTH = 3", "\n\n\nWIDTH = 3"),
    "module_beside": ("from fedjob.training_plans.torch", "from {0}_beside import more\nfrom fedjob.training_plans.torch"),
}  # fmt: skip
"""Edits of a plan's file, each what is replaced and by what."""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_a_file_that_autoreload_has_read_again_travels_as_it_was_edited(
    run: Run, tmp_path: Path, future: str
) -> None:
    run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n%load_ext autoreload\n%autoreload 2\n{IMPORTS}")
    prefix = "later" if future else "plain"
    written = future + "\n\n".join([IMPORTS, CONSTANT, HELPER, PLAN]) + "\n"
    for number, (name, (before, after)) in enumerate(EDITS.items()):
        module = f"{prefix}_{name}"
        path = tmp_path / f"{module}.py"
        path.write_text(written)
        (tmp_path / f"{module}_beside.py").write_text("def more(x):\n    return x\n")
        run(f"from {module} import Plan")
        first = run(SHOW)
        edited = written.replace(before, after.format(module))
        assert edited != written
        path.write_text(edited)
        os.utime(path, (time.time() + 10 + number,) * 2)  # the clock of a file system may be coarse
        text = run(SHOW)
        assert text == extract(f"{path}:Plan").text, name
        assert (text == first) is (name in ("lines", "module_beside"))


def test_a_file_that_changed_without_autoreload_is_refused_by_what_differs(run: Run, tmp_path: Path) -> None:
    run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n%load_ext autoreload\n%autoreload 0\n{IMPORTS}")
    path = tmp_path / "stale.py"
    path.write_text("\n\n".join([IMPORTS, CONSTANT, HELPER, PLAN]))
    run("from stale import Plan")
    first = run(SHOW)
    path.write_text("\n\n".join([IMPORTS, CONSTANT, HELPER, "\n\n" + PLAN.replace("lr=0.1", "lr=0.2")]))
    error = run(SHOW)
    assert error.startswith("PlanError: 'Plan.init_optimizer' is the function Plan.init_optimizer (line ")
    assert "if the file or the cell was edited since, import or run it again" in error
    path.write_text("\n\n".join([IMPORTS, CONSTANT, HELPER, "\n\n" + PLAN]))
    assert run(SHOW) == first
