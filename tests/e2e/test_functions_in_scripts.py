"""Functions as users write them, in scripts, with an owner who approves by command line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest

from tests.e2e.federation import PATIENCE_S, Federation, preferred_kind
from tests.integration.test_functions import write_table
from tests.processes import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)


@pytest.mark.feature("PS-53", "PS-30")
def test_the_example_runs_on_the_mock_and_after_a_second_approval_on_the_private_data(tmp_path: Path) -> None:
    with Federation(tmp_path / "federation", preferred_kind(), forked=True) as federation:
        (node,) = federation.add_nodes("hospital", approval="on")
        private = write_table(tmp_path / "numbers.csv", A=[1, 2, 3], B=[10, 20, 30])
        mock = write_table(tmp_path / "mock.csv", A=[1, 2, 1], B=[20, 10, 20])
        node.cli("data", "add", "numbers", str(private), "--mock", str(mock))
        node.start()
        script = ROOT / "examples" / "mock_then_private.py"
        running = federation.processes.start(
            "python",
            str(script),
            "--hub",
            federation.url,
            "--home",
            str(federation.folder / "lab"),
            name="example",
            fork=True,
        )
        for use in ("mock", "private"):
            wait_until(
                lambda: node.json("grants", "list", "--pending") or not running.alive,
                timeout_s=PATIENCE_S,
                what=f"a request for the {use} data",
            )
            (grant,) = node.json("grants", "list", "--pending")
            assert grant["use"] == use
            shown = node.cli("grants", "show", grant["id"], "--code").stdout
            assert "def sum_of_columns(dataset):" in shown
            node.cli("grants", "approve", grant["id"], "--note", f"fine on the {use} data")
        wait_until(lambda: not running.alive, timeout_s=PATIENCE_S, what="the example to end")
        said = running.log()
        assert "here, on the mock: {'A': 4, 'B': 50}" in said
        assert "at the node, on the mock: {'A': 4, 'B': 50}" in said
        assert "at the node, on the private data: {'A': 6, 'B': 60}" in said
        assert "Traceback" not in said


@pytest.mark.feature("TB-05")
def test_the_short_script_of_the_readme_leaves_a_csv_file(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (script,) = [block for block in blocks if "output.csv" in block]
    assert len([line for line in script.split("describe()")[1].splitlines() if line.strip()]) <= 6
    with Federation(tmp_path / "federation", preferred_kind(), forked=True) as federation:
        (node,) = federation.add_nodes("hospital")
        table = write_table(tmp_path / "heart.csv", age=[40, 50, 60], chol=[200.0, 210.0, 220.0])
        node.add("patients", table, "cancer").start()
        lab = federation.folder / "lab"
        federation.cli("init", "--id", "lab", "--hub", federation.url)
        (tmp_path / "script.py").write_text(f"import os\nos.environ['FEDJOB_HOME'] = {str(lab)!r}\n{script}")
        federation.processes.run("python", "script.py", cwd=tmp_path, timeout_s=PATIENCE_S)
    saved = pandas.read_csv(tmp_path / "output.csv", index_col="index")
    assert saved.loc["mean"].to_dict() == {"age": 50.0, "chol": 210.0}
