"""The scripts that `fedjob new` writes: each passes its check and trains as it is."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.errors import SpecError
from fedjob.researcher.jobs.script import job_of_script
from fedjob.starting_points.cli import KINDS, write_starting_point


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_passes_its_check_and_runs_as_it_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "risk.py"
    done = CliRunner().invoke(cli, ["new", "risk.py", "--kind", kind])
    assert done.exit_code == 0, done.output
    assert "fedjob job check risk.py" in done.output
    job = job_of_script(script, tmp_path / "home")
    assert job.check().ok
    tried = {check.node: check.plan for check in job.check(plan_only=True)}
    assert tried == dict.fromkeys(("north", "south"), "not tried" if kind == "function" else "passes")
    job.delete()
    for words in (["check"], ["check", "--plan-only", "--json"], ["estimate"], ["estimate", "--json"]):
        done = CliRunner().invoke(cli, ["job", *words, "risk.py", "--home", str(tmp_path / "home")])
        assert done.exit_code == 0, (words, done.output)
        assert "north" in done.output
    done = CliRunner().invoke(cli, ["job", "check", "--json", "risk.py", "--home", str(tmp_path / "home")])
    found = json.loads(done.stdout)
    assert [row["node"] for row in found["nodes"]] == ["north", "south"]
    assert found["cost"].keys() >= {"bytes_per_node", "bytes_total", "memory_bytes", "time_s", "epsilon"}
    made = runpy.run_path(str(script), run_name="__main__")
    assert made["job"].success
    if kind == "function":
        assert sorted(path.name for path in tmp_path.glob("risk_of_*")) == [
            "risk_of_north.csv",
            "risk_of_south.csv",
        ]
        return
    assert (tmp_path / "risk_model.safetensors").exists()
    last = made["result"].history
    shared = last[(last.node == "all") & (last.metric == "roc_auc") & (last.phase == "before")]
    assert shared.value.iloc[-1] > 0.8, shared


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("years of work")
    with pytest.raises(SpecError, match="stays as it is"):
        write_starting_point(tmp_path / "mine.py", "torch")
    (tmp_path / "link.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(SpecError, match="stays as it is"):
        write_starting_point(tmp_path / "link.py", "torch")
    assert (tmp_path / "mine.py").read_text() == "years of work"
    assert not (tmp_path / "elsewhere.py").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plan", "a Python file such as heart.py"),
        ("my-plan.py", "a Python file such as heart.py"),
        ("torch.py", "would hide the package 'torch'"),
        ("json.py", "would hide the package 'json'"),
        ("there/is/none.py", "there is no folder"),
    ],
)
def test_a_name_that_would_not_work_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        write_starting_point(tmp_path / name, "torch")
    assert list(tmp_path.iterdir()) == []
