"""Plans are text: the same text from every form, all that it uses, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob.common.errors import PlanError, SpecError
from fedjob.training_plans.plan_checks import check_plan_class
from fedjob.training_plans.source.compilation import compile_plan, compile_text
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.source.packages import imported_packages, missing_packages
from fedjob.training_plans.source.plan_source import plan_hash
from fedjob.training_plans.torch import TorchPlan

METHODS = """
    def init_model(self, model_args):
        return torch.nn.Linear(WIDTH, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        return helper(dataset)

    def training_step(self, model, batch):
        return F.mse_loss(model(batch[0]), batch[1])
"""
FILE = f'''"""A module's docstring does not travel."""
import threading
import torch, numpy as np
import torch.nn.functional as F
from fedjob.training_plans.torch import TorchPlan

WIDTH = 3
UNUSED = threading.Lock()

def unrelated():
    return UNUSED

def helper(dataset):
    # comments inside a definition stay
    return np.asarray(dataset)

class Plan(TorchPlan):{METHODS}
if __name__ == "__main__":
    WIDTH = 5
'''


def write(folder: Path, text: str = FILE, name: str = "my_plans.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def load(path: Path, monkey_name: str) -> ModuleType:
    """Import a file as a user's program does, under a name of its own."""
    spec = importlib.util.spec_from_file_location(monkey_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[monkey_name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    """Return a function that imports a text as a module, and forget it afterwards."""
    names: list[str] = []

    def make(text: str = FILE) -> ModuleType:
        names.append(f"plans_under_test_{len(names)}")
        return load(write(tmp_path, text, f"{names[-1]}.py"), names[-1])

    yield make
    for name in names:
        del sys.modules[name]


@pytest.mark.feature("FB-03", "FB-19")
def test_class_instance_and_file_give_the_same_text(tmp_path: Path, imported: Any) -> None:
    module = imported()
    forms = [extract(module.Plan), extract(module.Plan()), extract(f"{module.__file__}:Plan")]
    assert forms[0] == forms[1] == forms[2]
    assert forms[0].entry == "Plan"
    assert forms[0].sha256 == hashlib.sha256(forms[0].text.encode()).hexdigest() == plan_hash(forms[0].text)


def test_the_text_is_what_the_plan_uses_in_definition_order(tmp_path: Path) -> None:
    text = extract(f"{write(tmp_path)}:Plan").text
    assert text.startswith(
        "import torch\nimport numpy as np\nimport torch.nn.functional as F\n"
        "from fedjob.training_plans.torch import TorchPlan\n\nWIDTH = 3\n\n\ndef helper(dataset):\n"
    )
    assert "# comments inside a definition stay" in text
    for absent in ("unrelated", "UNUSED", "import threading", "docstring", "__main__"):
        assert absent not in text


def test_editing_something_unrelated_keeps_the_hash(tmp_path: Path) -> None:
    before = extract(f"{write(tmp_path)}:Plan")
    edited = FILE.replace("return UNUSED", "return 1").replace(
        "import threading\n", "import threading, json\n# a remark\n"
    )
    assert extract(f"{write(tmp_path, edited)}:Plan") == before
    for old, new in (("WIDTH = 3", "WIDTH = 4"), ("np.asarray(dataset)", "np.array(dataset)")):
        assert extract(f"{write(tmp_path, FILE.replace(old, new))}:Plan").sha256 != before.sha256


def test_the_plan_is_built_from_its_text_alone(tmp_path: Path) -> None:
    source = extract(f"{write(tmp_path)}:Plan")
    plan = compile_plan(source.text, source.entry)
    assert issubclass(plan, TorchPlan)
    assert extract(plan) == extract(plan()) == source


def test_a_base_class_of_ones_own_comes_along(tmp_path: Path) -> None:
    text = (
        FILE.replace("class Plan(TorchPlan):", "class Ground(TorchPlan):")
        + "\nclass Plan(Ground):\n    pass\n"
    )
    source = extract(f"{write(tmp_path, text)}:Plan")
    assert source.text.index("class Ground") < source.text.index("class Plan")
    assert compile_plan(source.text, "Plan").__mro__[1].__name__ == "Ground"


def test_things_are_followed_through_each_other(tmp_path: Path) -> None:
    text = (
        "A = 2\nB = [A, A * 2]\nC = {'b': B, 'n': -1.5, 's': f'{A}'}\nscale = lambda x: x * C['n']\n"
        "def deep(x):\n    return scale(x)\n"
        "def wrap(f):\n    return f\n"
        "class Entry:\n    size = A\n    @wrap\n    def run(self, x=B):\n        return deep(x)\n"
    )
    source = extract(f"{write(tmp_path, text)}:Entry")
    assert source.text.count("\n") > 12
    assert compile_text(source.text, "Entry").size == 2  # type: ignore[attr-defined]
    for part in ("A = 2", "B = [", "C = {", "scale = lambda", "def deep", "def wrap"):
        assert part in source.text


def test_an_import_that_may_fail_travels_as_it_is_written(tmp_path: Path) -> None:
    text = (
        "try:\n    import a_package_nobody_has as json\nexcept ImportError:\n    import json\n"
        "class Entry:\n    def run(self):\n        return json.dumps({})\n"
    )
    source = extract(f"{write(tmp_path, text)}:Entry")
    assert source.text.startswith("try:\n    import a_package_nobody_has as json\nexcept ImportError:\n")
    assert missing_packages(source.text) == ()
    assert compile_text(source.text, "Entry")().run() == "{}"  # type: ignore[operator]


def test_only_the_parts_of_a_package_that_are_used_are_imported(tmp_path: Path) -> None:
    text = (
        "import os\nimport os.path\nimport xml.dom\nimport xml.sax\n"
        "class Entry:\n    def run(self):\n        return xml.dom.Node, os.path.sep\n"
    )
    assert extract(f"{write(tmp_path, text)}:Entry").text.startswith(
        "import os\nimport os.path\nimport xml.dom\n\n\nclass"
    )


def test_unevaluated_annotations_need_nothing(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom typing import Any, TypeVar\nT = TypeVar('T')\n"
        "class Entry:\n    def run(self, x: T, y: Any) -> list[T]:\n        value: T = x\n        return [value]\n"
    )
    source = extract(f"{write(tmp_path, text)}:Entry")
    assert source.text.startswith(
        "from __future__ import annotations\nfrom typing import Any\n\n\nclass Entry"
    )
    assert compile_text(source.text, "Entry")


def test_a_dataclass_and_an_enum_come_along(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport enum\nfrom dataclasses import dataclass, field\n"
        "class Kind(enum.Enum):\n    A = 1\n"
        "@dataclass\nclass Part:\n    kind: Kind = Kind.A\n    items: list[int] = field(default_factory=list)\n"
        "class Entry:\n    def run(self):\n        return Part()\n"
    )
    source = extract(f"{write(tmp_path, text)}:Entry")
    part = compile_text(source.text, "Entry")().run()  # type: ignore[operator]
    assert dataclasses.is_dataclass(part)
    assert part.kind.name == "A"


CAPTURES = {
    "open file": ("log = open('/dev/null')", "log", "log"),
    "tensor": ("import torch\nweights = torch.ones(3)", "weights", "weights"),
    "live object": ("import threading\nlock = threading.Lock()", "lock", "lock"),
    "logger": ("import logging\nlogger = logging.getLogger(__name__)", "logger", "logger"),
    "environment": ("import os\nHOME = os.environ['HOME']", "HOME", "HOME"),
    "comprehension": ("SQUARES = [i * i for i in range(3)]", "SQUARES", "SQUARES"),
    "loop variable": ("for i in range(3):\n    pass", "i", "i"),
    "with": ("with open('/dev/null') as handle:\n    pass", "handle", "handle"),
    "grown number": ("N = 1\nN += 1", "N", "N"),
    "unpacked call": ("import os\na, b = os.path.split('x/y')", "a", "a"),
    "changed list": ("SIZES = [1]\nSIZES.append(2)", "SIZES", "SIZES"),
    "changed dict": ("OPTIONS = {}\nOPTIONS['a'] = 1", "OPTIONS", "OPTIONS"),
    "patched function": ("def f():\n    return 1\nf.limit = 3", "f", "f"),
    "patched class": ("class A:\n    pass\nsetattr(A, 'x', 1)", "A", "A"),
    "star import": ("from os.path import *", "join('a', 'b')", "join"),
    "relative import": ("from . import sibling", "sibling", "sibling"),
    "undefined": ("", "nowhere", "nowhere"),
    "file's own name": ("", "__file__", "__file__"),
    "shell": ("", "get_ipython()", "get_ipython"),
    "through a helper": ("import queue\nq = queue.Queue()\ndef put():\n    q.put(1)", "put()", "q"),
    "through a base": ("import queue\nq = queue.Queue()\nclass B:\n    items = q", "B()", "q"),
}


@pytest.mark.parametrize(("before", "use", "name"), CAPTURES.values(), ids=CAPTURES)
def test_anything_else_that_is_captured_is_named(tmp_path: Path, before: str, use: str, name: str) -> None:
    path = write(tmp_path, f"{before}\nclass Entry:\n    def run(self):\n        return {use}\n")
    with pytest.raises(PlanError, match=re.escape(repr(name))) as caught:
        extract(f"{path}:Entry")
    assert caught.value.name == name
    assert caught.value.path == str(path)


def test_a_constant_that_the_program_changed_is_named(imported: Any) -> None:
    module = imported(FILE.replace("UNUSED = threading.Lock()", ""))
    module.WIDTH = 7
    with pytest.raises(PlanError, match="'WIDTH' was written as 'WIDTH = 3' but is now 7"):
        extract(module.Plan)


def test_an_instance_with_values_of_its_own_is_refused(imported: Any) -> None:
    plan = imported().Plan()
    plan.rate = 0.1
    with pytest.raises(PlanError, match="attribute 'rate'"):
        extract(plan)


def test_a_local_name_that_shadows_a_captured_one_is_no_capture(tmp_path: Path) -> None:
    text = "f = open('/dev/null')\nclass Entry:\n    def run(self):\n        f = 1\n        return [f for f in [f]]\n"
    assert "open" not in extract(f"{write(tmp_path, text)}:Entry").text


@pytest.mark.feature("FB-05")
@pytest.mark.parametrize(
    ("text", "words", "cause"),
    [
        (None, "can't be read: No such file", FileNotFoundError),
        ("class Plan(:\n", r"not valid Python: .*\(my_plans\.py, line 1\)", SyntaxError),
        ("class Other:\n    pass\n", "defines no class 'Plan'", type(None)),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_cause(
    tmp_path: Path, text: str | None, words: str, cause: type
) -> None:
    path = tmp_path / "my_plans.py" if text is None else write(tmp_path, text)
    with pytest.raises(PlanError, match=words) as caught:
        extract(f"{path}:Plan")
    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("plan", ["plan.py", "plan.py:", ":Plan", "plan.py:a b"])
def test_another_form_of_name_is_refused(plan: str) -> None:
    with pytest.raises(PlanError, match=r"file\.py:Class"):
        extract(plan)


@pytest.mark.feature("FB-04")
def test_files_of_one_name_load_independently_and_leave_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write(tmp_path / "a", FILE)
    second = write(tmp_path / "b", FILE.replace("WIDTH = 3", "WIDTH = 9"))
    path, modules = list(sys.path), set(sys.modules)
    sources = [extract(f"{file}:Plan") for file in (first, second)]
    plans = [compile_plan(source.text, source.entry) for source in sources]
    assert sys.path == path
    assert set(sys.modules) == modules
    assert [plan().init_model({}).in_features for plan in plans] == [3, 9]


@pytest.mark.feature("FB-11")
@pytest.mark.parametrize(
    "plan", [42, None, int, [1], Path("plan.py"), sys, lambda: 1], ids=lambda plan: type(plan).__name__
)
def test_what_is_no_plan_is_refused(plan: Any) -> None:
    with pytest.raises(SpecError):
        check_plan_class(compile_text(*dataclasses.astuple(extract(plan))[:2]))


def test_a_lambda_is_answered_by_what_to_write() -> None:
    with pytest.raises(PlanError, match=r"a lambda can't be sent .* write a function with def, or a class"):
        extract(lambda: 1)  # type: ignore[arg-type]


@pytest.mark.feature("FB-11")
def test_a_class_without_source_is_refused() -> None:
    made = type("Made", (TorchPlan,), {"__module__": "__main__"})
    with pytest.raises(PlanError, match="source of Made can't be obtained"):
        extract(made)


def test_a_class_inside_a_function_is_moved_to_the_margin() -> None:
    rate = 0.25

    def double(x: float) -> float:
        return x * 2

    class Local(TorchPlan):
        """Keeps
        its docstring."""

        def init_model(self, model_args: Any) -> torch.nn.Module:
            return torch.nn.Linear(1, 1)

        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=double(rate))

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            return dataset

        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return model(batch[0]).sum()

    source = extract(Local)
    plan = compile_plan(source.text, "Local")()
    assert plan.init_optimizer(torch.nn.Linear(1, 1), {}).param_groups[0]["lr"] == 0.5  # type: ignore[attr-defined]
    assert plan.__doc__ == Local.__doc__


def test_a_captured_argument_of_the_enclosing_function_is_named() -> None:
    def make(rate: float) -> type:
        class Local(TorchPlan):
            def training_step(self, model: Any, batch: Any) -> Any:
                return rate

        return Local

    with pytest.raises(PlanError, match="captures 'rate'"):
        extract(make(0.1))


def test_a_file_that_changed_since_its_import_is_noticed(imported: Any) -> None:
    module = imported()
    Path(module.__file__).write_text("# something else\n" * 40)
    with pytest.raises(PlanError, match="changed since"):
        extract(module.Plan)


def test_packages_are_named_without_importing_anything() -> None:
    text = (
        "import os, numpy.linalg\nfrom sklearn.svm import SVC\nimport surely_not_there.part\n"
        "from fedjob import TorchPlan\n"
        "class Plan(TorchPlan):\n    requires = ('also_not_there', 'torch')\n"
        "    def f(self):\n        import not_there_either\n"
    )
    expected = ("also_not_there", "not_there_either", "numpy", "sklearn", "surely_not_there", "torch")
    assert imported_packages(text) == expected
    assert missing_packages(text) == ("also_not_there", "not_there_either", "surely_not_there")


def test_an_import_that_fails_is_named_when_the_plan_is_built() -> None:
    with pytest.raises(PlanError, match="surely_not_there") as caught:
        compile_plan("import surely_not_there\nclass Plan:\n    pass\n", "Plan")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Plan(\n", "not valid Python"),
        ("class Plan:\n    x = 1 / 0\n", r"ZeroDivisionError.*line 2 of the plan"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("class Other:\n    pass\n", "defines no 'Plan'"),
        ("class Plan:\n    pass\n", "not a training plan"),
        ("Plan = 3\n", "a training plan is a class"),
    ],
)
def test_text_that_makes_no_plan_says_why(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        compile_plan(text, "Plan")


def test_a_traceback_shows_the_plans_own_line() -> None:
    text = "def fail():\n    raise RuntimeError('inside')\n"
    found = compile_text(text, "fail")
    with pytest.raises(RuntimeError) as caught:
        found()  # type: ignore[operator]
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "<plan {plan_hash(text)[:12]}>", line 2' in shown
    assert "raise RuntimeError('inside')" in shown


def test_extracting_an_extracted_text_changes_nothing(tmp_path: Path) -> None:
    source = extract(f"{write(tmp_path)}:Plan")
    again = tmp_path / "again.py"
    again.write_text(source.text)
    assert extract(f"{again}:Plan") == source


@pytest.mark.parametrize(
    "given", [pd.DataFrame({"a": [1]}), np.zeros(3), datetime.now(UTC)], ids=["frame", "array", "time"]
)
def test_an_object_of_another_library_is_no_plan_and_is_not_read(given: object) -> None:
    with pytest.raises(
        PlanError, match=f"a class derived from .*, not an object of {type(given).__name__}: "
    ):
        extract(given)


def test_an_unknown_name_may_come_from_each_of_several_star_imports(tmp_path: Path) -> None:
    text = "from os.path import *\nfrom math import *\nclass Entry:\n    def run(self):\n        return join('a', 'b')\n"
    with pytest.raises(
        PlanError, match=r"from `from os\.path import \*` or `from math import \*`: import it"
    ):
        extract(f"{write(tmp_path, text)}:Entry")
