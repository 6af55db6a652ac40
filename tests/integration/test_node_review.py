"""The reading aid; bandit is asked in a process of its own."""

from __future__ import annotations

import pytest

from fedjob.node.grants.plan_review import Remark, difference, differs_only_in_form, numbered, remarks

PLAN = """\
import os
from urllib import request

import torch


class Net:
    def training_data(self, dataset, training_args):
        os.system("curl example.com")  # nosec
        with open("/etc/passwd") as file:
            text = file.read()
        getattr(os, text)()
        self.__class__.__subclasses__()
        return torch.load(os.environ["X"])
"""


def test_imports_and_risky_calls_are_pointed_out_under_their_lines() -> None:
    found = remarks(PLAN)
    assert Remark(1, "import", "os") in found
    assert Remark(2, "import", "urllib: request") in found
    said = {
        line: " ".join(r.text for r in found if r.line == line and r.kind == "risk") for line in range(1, 15)
    }
    assert "can talk to other machines" in said[2]
    assert "B605" in said[9]
    assert "file" in said[10]
    assert "chooses at run time" in said[12]
    assert "reaches into the interpreter" in said[13]
    assert "environment" in said[14]
    assert said[7] == said[8] == ""
    shown = numbered(PLAN, found)
    assert shown[0] == " 1  import os"
    assert shown[1] == "    ^ import: os"
    assert [line[4:] for line in shown if line[:2].strip()] == PLAN.splitlines()


def test_an_honest_plan_has_few_remarks() -> None:
    plan = "import torch\n\n\nclass Net:\n    def step(self, batch):\n        return torch.nn.functional.relu(batch)\n"
    assert remarks(plan) == [Remark(1, "import", "torch")]


@pytest.mark.feature("FB-36")
@pytest.mark.parametrize(
    ("change", "only_form"),
    [
        (("import os\n", "import os  # for paths\n"), True),
        (("import torch\n", "import torch\n\n\n# more\n"), True),
        (('open("/etc/passwd")', "open('/etc/passwd')"), True),
        (('open("/etc/passwd")', 'open( "/etc/passwd" )'), True),
        (("passwd", "shadow"), False),
        (("class Net:\n", 'class Net:\n    """Says something."""\n'), False),
        (("text", "words"), False),
        (("import os", "import ("), False),
        (("", ""), False),
    ],
)
def test_texts_that_differ_in_comments_and_formatting_alone_mean_the_same(
    change: tuple[str, str], only_form: bool
) -> None:
    assert differs_only_in_form(PLAN, PLAN.replace(*change) if change[0] else PLAN) is only_form


def test_the_difference_is_shown_by_line() -> None:
    assert difference("a = 1\nb = 2\n", "a = 1\nb = 3\n")[1:] == [" a = 1", "-b = 2", "+b = 3"]
