"""A plan's text gives what its user's program has, or is refused by name and line."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.extraction import extract

USE = "class Entry:\n    def run(self):\n        return {use}\n"

# what the file does, what the class uses, what Entry().run() gives when the file is imported
CHANGED = {
    "loop": ("SIZES = []\nfor w in (8, 8):\n    SIZES.append(w)\n", "SIZES", 3),
    "loop by alias": ("SIZES = []\nfor w in (8, 8):\n    S = SIZES\n    S.append(w)\n", "SIZES", 4),
    "while": ("SIZES = [1]\nwhile len(SIZES) < 3:\n    SIZES += [2]\n", "SIZES", 2),
    "if": ("CFG = {'out': 2}\nif True:\n    CFG['out'] = 3\n", "CFG['out']", 3),
    "else": ("CFG = {'out': 2}\nif not CFG:\n    pass\nelse:\n    CFG.update(out=3)\n", "CFG", 5),
    "with": ("import contextlib\nCFG = {}\nwith contextlib.nullcontext():\n    CFG['a'] = 1\n", "CFG", 4),
    "try": ("CFG = {}\ntry:\n    CFG['a'] = 1\nfinally:\n    pass\n", "CFG", 3),
    "function": ("CFG = {}\ndef setup():\n    CFG['a'] = 1\nsetup()\n", "CFG", 3),
    "function of a function": ("C = {}\ndef a():\n    C['a'] = 1\ndef b():\n    a()\nb()\n", "C", 3),
    "global": ("N = 1\ndef setup():\n    global N\n    N = 2\nsetup()\n", "N", 4),
    "method": ("C = {}\nclass S:\n    def go(self):\n        C['a'] = 1\nS().go()\n", "C", 4),
    "decorator": ("C = {}\ndef deco(f):\n    C['a'] = 1\n    return f\n@deco\ndef g(): pass\n", "C", 3),
    "given to a function": ("C = {}\ndef fill(c):\n    c['a'] = 1\nfill(C)\n", "C", 4),
    "given on": ("C = []\ndef a(c):\n    c.append(1)\ndef b(c):\n    a(c)\nb(C)\n", "C", 6),
    "comprehension": ("C = []\n[C.append(i) for i in (1, 2)]\n", "C", 2),
    "mapped": ("C = []\nlist(map(C.append, (1, 2)))\n", "C", 2),
    "shuffled": ("import random\nC = [3, 2, 1, 5]\nrandom.Random(1).shuffle(C)\n", "C", 3),
    "augmented": ("N = 1\nN *= 2\n", "N", 2),
    "del item": ("C = {'a': 1}\ndel C['a']\n", "C", 2),
    "slice": ("C = [1]\nC[:] = [2]\n", "C", 2),
    "nested": ("C = {'a': [1]}\nC['a'].append(2)\n", "C", 2),
    "nested by get": ("C = {'a': [1]}\nC.get('a').append(2)\n", "C", 2),
    "items of it": ("C = [[1], [2]]\nfor row in C:\n    row.append(3)\n", "C", 3),
    "values of it": ("C = {'a': [1]}\nfor v in C.values():\n    v.append(3)\n", "C", 3),
    "walrus": ("C = [1]\n(D := C).append(2)\nD.append(4)\n", "C", 3),
    "globals": ("N = 1\nglobals()['N'] = 2\n", "N", 2),
    "exec": ("N = 1\nexec('N = 2')\n", "Entry", 2),
    "attribute of a class": ("class Net:\n    width = 1\nNet.width = 2\n", "Net.width", 3),
    "setattr in a loop": ("class Net:\n    a = 1\nfor n in 'a':\n    setattr(Net, n, 2)\n", "Net.a", 4),
    "another function": (
        "def f():\n    return 1\ndef g():\n    return 2\nf.__code__ = g.__code__\n",
        "f()",
        5,
    ),
    "chosen by a call": ("import os\nif os.environ.get('A'):\n    N = 1\nelse:\n    N = 2\n", "N", 2),
    "environment by name": ("from os import environ\nN = len(environ)\n", "N", 2),
    "arguments of the program": ("import sys\nN = len(sys.argv)\n", "N", 2),
}


def message_of(plan: object) -> str:
    with pytest.raises(PlanError) as caught:
        extract(plan)
    return str(caught.value)


@pytest.mark.parametrize(("before", "use", "line"), CHANGED.values(), ids=CHANGED)
def test_what_a_file_changes_after_its_definition_is_refused_by_name_and_line(
    tmp_path: Path, before: str, use: str, line: int
) -> None:
    path = tmp_path / "plans.py"
    path.write_text(before + USE.format(use=use))
    message = message_of(f"{path}:Entry")
    name = re.split(r"\W", use)[0]
    assert repr(name) in message
    assert f"{path}, line {line}" in message


FINE = {
    "read in a loop": ("SIZES = [1, 2]\nfor s in SIZES:\n    print(s)\n", "SIZES"),
    "copied and changed": ("SIZES = [1, 2]\nother = list(SIZES)\nother.append(3)\n", "SIZES"),
    "changed by nobody": ("C = {}\ndef later():\n    C['a'] = 1\n", "C"),
    "under the main guard": ("C = {}\nif __name__ == '__main__':\n    C['a'] = 1\n", "C"),
    "a local of the same name": ("C = {}\ndef f():\n    C = []\n    C.append(1)\nf()\n", "C"),
    "defined again before use": ("N = 1\nN = 2\n", "N"),
    "either way of an if": ("import sys\nN = 1\nif sys.version_info < (3,):\n    N = 2\n", "N"),
    "setting of a library": (
        "import torch\ntorch.backends.cudnn.benchmark = False\n",
        "torch.nn.Linear(1, 1).bias.ndim",
    ),
    "computed": ("A = [1, 2]\nN = len(A) + max(A)\n", "N"),
}


@pytest.mark.parametrize(("before", "use"), FINE.values(), ids=FINE)
def test_a_file_that_changes_nothing_is_taken_with_its_values(
    tmp_path: Path, imported: Callable[[str], ModuleType], before: str, use: str
) -> None:
    module = imported(before + USE.format(use=use))
    source = extract(f"{module.__file__}:Entry")
    assert compile_text(source.text, "Entry")().run() == module.Entry().run()  # type: ignore[operator]
    assert extract(module.Entry) == source


def test_a_name_that_is_defined_again_between_two_uses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.py"
    path.write_text("A = 1\nB = A + 1\nA = 5\n" + USE.format(use="(A, B)"))
    assert "'A' is defined twice" in message_of(f"{path}:Entry")
    path.write_text(
        "def f():\n    return 1\nclass Entry:\n    rate = f()\n    def run(self): pass\ndef f():\n    return 2\n"
    )
    assert "'f' is defined twice" in message_of(f"{path}:Entry")


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports a text as a program does, and forget it afterwards."""
    names: list[str] = []

    def make(text: str) -> ModuleType:
        name = f"same_values_under_test_{len(names)}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield make
    for name in names:
        del sys.modules[name]


ALIVE = {
    "list that grew": ("A = [1]\n", "A", "m.A.append(2)", "A"),
    "list in a list": ("A = [1]\nB = [A, 3]\n", "B", "m.A.append(2)", "A"),
    "tuple of names": ("A = 1\nB = (A, 3)\n", "B", "m.B = (1, 4)", "B[1]"),
    "computed before": ("A = 1\nB = A + 1\nA = 5\n", "B", "", "B"),
    "number": ("A = 1\n", "A", "m.A = 2", "A"),
    "true for one": ("A = 1\n", "A", "m.A = True", "A"),
    "order of a dictionary": ("A = {'a': 1, 'b': 2}\n", "A", "m.A['a'] = m.A.pop('a')", "A"),
    "deleted": ("A = 1\n", "A", "del m.A", "A"),
    "attribute": ("class Net:\n    width = 1\n", "Net.width", "m.Net.width = 2", "Net.width"),
    "new attribute": ("class Net:\n    pass\n", "Net", "m.Net.width = 2", "Net.width"),
    "of the entry itself": ("", "1", "m.Entry.rate = 2", "Entry.rate"),
    "method": ("def other(self):\n    return 2\n", "1", "m.Entry.run = m.other", "Entry.run"),
    "function": ("def f():\n    return 1\n", "f()", "m.f = lambda: 2", "f"),
    "its defaults": ("def f(x=1):\n    return x\n", "f()", "m.f.__defaults__ = (2,)", "the defaults of f[0]"),
    "its default list": ("def f(x=[]):\n    return x\n", "f()", "m.f().append(1)", "the defaults of f[0]"),
    "through functions": (
        "A = [1]\ndef f():\n    return A\ndef g():\n    return f()\n",
        "g()",
        "m.A.append(1)",
        "A",
    ),
    "in a base": ("class B:\n    n = 1\nclass C(B):\n    pass\n", "C", "m.B.n = 2", "B.n"),
    "in a nested class": ("class B:\n    class C:\n        n = 1\n", "B", "m.B.C.n = 2", "B.C.n"),
    "in an instance": (
        "from dataclasses import dataclass\n@dataclass\nclass Cfg:\n    n: int = 1\nclass B:\n    cfg = Cfg()\n",
        "B",
        "m.B.cfg.n = 2",
        "B.cfg['n']",
    ),
    "in an enum": (
        "import enum\nclass K(enum.Enum):\n    A = 1\n",
        "K",
        "m.K.A._value_ = 2",
        "K._member_map_['A'].value",
    ),
    "a property": (
        "class B:\n    @property\n    def n(self):\n        return 1\n",
        "B",
        "m.B.n = property(lambda self: 2)",
        "B.n",
    ),
    "random": ("import random\nclass B:\n    n = random.random()\n", "B", "", "B.n"),
    "an array": ("import numpy\nclass B:\n    n = numpy.zeros(3)\n", "B", "m.B.n[1] = 1", "B.n"),
    "a tensor": ("import torch\nclass B:\n    n = torch.zeros(3)\n", "B", "m.B.n[1] = 1", "B.n"),
    "what a decorator keeps": (
        "def times(n):\n    def wrap(f):\n        def inner():\n            return f() * n\n        return inner\n"
        "    return wrap\n@times(2)\ndef f():\n    return 1\n",
        "f()",
        "m.f.__closure__[1].cell_contents = 3",
        "n",
    ),
}


@pytest.mark.parametrize(("before", "use", "change", "name"), ALIVE.values(), ids=ALIVE)
def test_a_value_that_the_program_has_and_the_text_has_not_is_refused_by_its_name(
    imported: Callable[[str], ModuleType], before: str, use: str, change: str, name: str
) -> None:
    module = imported(before + USE.format(use=use))
    if change:
        extract(module.Entry)
    exec(change, {"m": module})
    message = message_of(module.Entry)
    assert repr(name) in message
    assert f"{module.__file__}, line " in message


def test_a_file_that_was_edited_in_place_since_its_import_is_noticed(
    imported: Callable[[str], ModuleType],
) -> None:
    module = imported("def f():\n    return 1\n" + USE.format(use="f()"))
    path = Path(str(module.__file__))
    path.write_text(path.read_text().replace("return 1", "return 2"))
    assert "'f' is the function f" in message_of(module.Entry)


def test_a_patched_library_is_refused_where_the_plan_uses_it(tmp_path: Path) -> None:
    path = tmp_path / "plans.py"
    path.write_text(
        "from torch import nn\nclass L(nn.Linear):\n    pass\nnn.Linear = L\n" + USE.format(use="nn.Linear")
    )
    message = message_of(f"{path}:Entry")
    assert "'nn'" in message
    assert f"{path}, line 4" in message


@pytest.mark.parametrize(
    "guard",
    ['if __name__ == "__main__":', 'if "__main__" == __name__:', "if __name__ == '__main__' and True:"],
)
def test_a_class_under_the_main_guard_is_taken_with_what_stands_there(tmp_path: Path, guard: str) -> None:
    path = tmp_path / "plans.py"
    path.write_text(
        f"WIDTH = 1\n{guard}\n    WIDTH = 3\n    class Entry:\n        def run(self):\n            return WIDTH\n"
    )
    source = extract(f"{path}:Entry")
    assert source.text == "WIDTH = 3\n\n\nclass Entry:\n    def run(self):\n        return WIDTH\n"


def test_what_stands_under_the_main_guard_alone_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.py"
    path.write_text(USE.format(use="WIDTH") + "if __name__ == '__main__':\n    WIDTH = 3\n")
    message = message_of(f"{path}:Entry")
    assert f"'WIDTH', which is not defined ({path}, line 1)" in message
    assert f"({path}, line 5), which does not run" in message


def test_a_class_in_a_function_is_compared_with_the_functions_variables() -> None:
    def make(rate: float | None) -> type:
        sizes = [1, 2]

        class Entry:
            def run(self) -> object:
                return sizes

        if rate is not None:
            sizes[0] = 7
        return Entry

    assert "sizes = [1, 2]" in extract(make(None)).text
    assert "'sizes[0]' is 7 in this program, but 1 as it is written" in message_of(make(0.1))


def test_a_class_defined_in_a_place_of_its_own_says_where_one_may_stand() -> None:
    class Outer:
        class Entry:
            def run(self) -> int:
                return 1

    assert "inside another class" in message_of(Outer.Entry)


def test_signs_and_spaces_in_comments_become_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "plans.py"
    path.write_text(
        "N = 1  # \u26a0\ufe0f learning\u00a0rate \u200d\u202e\n" + USE.format(use="N"), encoding="utf-8"
    )
    assert extract(f"{path}:Entry").text.startswith("N = 1  # \u26a0 learning rate\n")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("N = '\u26a0\ufe0f'", "an invisible character, U+FE0F"),
        ("N = '\u202e'", "an invisible or direction-changing character, U+202E"),
        ("N = 'a" + " " * 120 + "b'", "blanks in one piece"),
        ("N = '" + "x" * 1100 + "'", "characters; at most 1000"),
        ("p\u0430y = 1; N = p\u0430y", "whose letters may look like others"),
    ],
)
def test_text_that_is_refused_is_named_by_the_users_own_line(
    tmp_path: Path, statement: str, words: str
) -> None:
    path = tmp_path / "plans.py"
    path.write_text(f"import os\n\n\n\n{statement}\n" + USE.format(use="N"), encoding="utf-8")
    message = message_of(f"{path}:Entry")
    assert message.startswith(f"{path}, line 5 ")
    assert words in message


def test_an_error_while_the_text_is_loaded_names_the_users_own_line(
    imported: Callable[[str], ModuleType],
) -> None:
    module = imported(
        "import sys\n\n\nclass Entry:\n    def run(self):\n        return 1\n    x = 1 / len(sys.modules)\n"
    )
    path = Path(str(module.__file__))
    path.write_text(path.read_text().replace("len(sys.modules)", "0"))
    message = message_of(module.Entry)
    assert f"ZeroDivisionError: division by zero ({path}, line 7)" in message
