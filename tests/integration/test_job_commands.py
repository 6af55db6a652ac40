"""`fedjob job ...` on a home without a federation: every verb as a shell sees it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job
from tests import preloaded
from tests.data import make_points
from tests.processes import wait_until
from tests.slow import slow_plan

pytestmark = pytest.mark.timeout(300)

FEDJOB = str(Path(sys.executable).with_name("fedjob"))
PATIENCE_S = 90.0

SCRIPT = """\
from fedjob import FedAvg, Job

print("defining")
job = Job(
    FedAvg(),
    training_plan={plan!r},
    data={data!r},
    nodes="local",
    training_args={{"num_updates": {updates}, "batch_size": 16}},
    name={name!r},
    project={project!r},
    rounds={rounds},
    props={{"ticket": "X-1"}},
)
"""


class Shell:
    """Commands on one home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.data = str(make_points(folder / "points.npz", 60, 1))
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "FEDJOB_HOME": str(self.home)}

    def script(
        self,
        file: str,
        *,
        nap_s: float = 0.0,
        updates: int = 2,
        rounds: int = 1,
        name: str = "",
        project: str = "",
    ) -> str:
        path = self.folder / file
        path.write_text(
            SCRIPT.format(
                plan=slow_plan(self.folder, nap_s),
                updates=updates,
                data=self.data,
                name=name,
                project=project,
                rounds=rounds,
            )
        )
        return str(path)

    def job(self, *, nap_s: float = 0.0, updates: int = 2, rounds: int = 1, **about: Any) -> Job:
        """Make a job like `script`'s in this process, where what a command does with it is the question."""
        return Job(
            FedAvg(),
            training_plan=slow_plan(self.folder, nap_s),
            data=self.data,
            nodes="local",
            training_args={"num_updates": updates, "batch_size": 16},
            rounds=rounds,
            home=self.home,
            **about,
        )

    def __call__(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = preloaded.run([FEDJOB, "job", *words], timeout_s=PATIENCE_S, env=self.environment)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def submit(self, file: str, *options: str, **about: Any) -> str:
        return self("submit", self.script(file, **about), *options).stdout.strip()

    def ran(self, **about: Any) -> str:
        """Run a job to its end in this process."""
        job = self.job(**about)
        job.run(progress=False)
        return job.id

    def detached(self, **about: Any) -> str:
        """Start a job in a process of its own."""
        return self.job(**about).submit().id

    def rows(self, *words: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self("list", *words, "--json").stdout)
        return rows

    def state(self, id_: str) -> str:
        return str(json.loads(self("show", id_, "--json").stdout)["record"]["state"])

    def until(self, id_: str, state: str) -> None:
        record = self.home / "jobs" / id_ / "record.json"
        wait_until(
            lambda: json.loads(record.read_text())["state"] == state,
            timeout_s=PATIENCE_S,
            what=f"{id_} {state}",
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.feature("NV-46", "NV-47", "NV-62", "TB-25")
def test_wait_tells_by_its_exit_code_how_a_job_ended(shell: Shell) -> None:
    good = shell.submit("good.py", name="good")
    assert re.fullmatch(r"job_[0-9a-f-]{36}", good)
    assert shell("wait", good).stdout.strip() == f"{good} completed"
    slow = shell.detached(nap_s=600)
    done = shell("wait", slow, "--timeout", "1", expect=3)
    assert "it goes on" in done.stderr
    shell.until(slow, "running")
    assert "nothing to cancel" in shell("cancel", slow, expect=1).stderr
    assert "kill it, then delete it" in shell("delete", slow, expect=1).stderr
    assert "nothing to fetch before its end" in shell("result", slow, "-o", "out", expect=1).stderr
    assert "has no result" in shell("result", slow, expect=1).stderr
    shell("kill", slow)
    assert "killed" in shell("wait", slow, expect=1).stderr
    assert "nothing to stop" in shell("stop", slow, expect=1).stderr
    assert "nothing to kill" in shell("kill", slow, expect=1).stderr
    assert shell("wait", "job_00000000", expect=1).stderr.startswith("fedjob: no job of")
    unknown = "job_00000000-0000-4000-8000-000000000000"
    assert "belongs to no federation" in shell("wait", unknown, expect=1).stderr
    lines = shell("watch", good, "--json").stdout.splitlines()
    assert json.loads(lines[-1]) == {"terminal": True, "job": good, "state": "completed", "reason": ""}
    assert json.loads(lines[0])["type"] == "state"
    assert json.loads(shell("watch", slow, "--json", expect=1).stdout.splitlines()[-1])["state"] == "killed"
    shown = json.loads(shell("show", good, "--json").stdout)
    assert shown["spec"]["props"] == {"ticket": "X-1"}
    assert shown["record"]["schema"] == "1.0"
    assert "completed" in shell("show", good).stdout


@pytest.mark.feature("NV-14", "NV-63", "NV-13")
def test_a_result_is_fetched_whole_and_never_over_something_else(shell: Shell, tmp_path: Path) -> None:
    id_ = shell.ran(rounds=2)
    shell("wait", id_, "--silent")
    out = tmp_path / "out"
    files = json.loads(shell("result", id_, "-o", str(out), "--json").stdout)["files"]
    assert {"record.json", "spec.json", "plan.py", "metrics.csv", "logs.txt", "events.jsonl"} <= files.keys()
    assert {"rounds/round_0001/params.safetensors", "rounds/round_0002/params.safetensors"} <= files.keys()
    assert "result/params.safetensors" in files
    assert json.loads((out / "record.json").read_text())["state"] == "completed"
    assert (out / "metrics.csv").read_text().startswith("round,phase,metric,node,value,num_examples")
    assert "--force" in shell("result", id_, "-o", str(out), expect=1).stderr
    shell("result", id_, "-o", str(out), "--force")
    assert id_ in shell("result", id_).stdout


@pytest.mark.feature("NV-26", "NV-56")
def test_where_a_job_was_submitted_from_is_in_its_record_and_in_its_submission(shell: Shell) -> None:
    script = shell.submit("a.py", "--token", "S.1", name="by script")
    run = shell.ran(name="in Python")
    folder = shell.folder / "as-folder"
    folder.mkdir()
    (folder / "job.json").write_text(Job.open(shell.home / "jobs" / run).clone().to_json())
    made = shell("submit", str(folder), "--token", "S.2").stdout.strip()
    expected = {script: str(shell.folder), run: os.getcwd(), made: str(folder)}
    for id_, where in expected.items():
        assert json.loads(shell("show", id_, "--json").stdout)["record"]["submitted_from"] == where
        assert re.search(rf"submitted from +{re.escape(where)}\n", shell("show", id_).stdout)
    for token, id_ in (("S.1", script), ("S.2", made)):
        (submission,) = shell.rows("--token", token)
        assert submission["submitted_from"] == expected[id_]
    shell("wait", made, "-q")
    shell("delete", made)
    (submission,) = shell.rows("--token", "S.2")
    assert (submission["state"], submission["submitted_from"]) == ("job_deleted", str(folder))
    (shell.home / "jobs.sqlite").unlink()
    assert [shell.rows("--token", token)[0]["submitted_from"] for token in ("S.1", "S.2")] == [
        str(shell.folder),
        str(folder),
    ]


@pytest.mark.feature("NV-61", "NV-27", "TB-37", "TB-21")
def test_jobs_are_listed_by_every_option(shell: Shell) -> None:
    ids = [
        shell.ran(name="train-a"),
        shell.ran(name="train-b", project="p1"),
        shell.submit("c.py", "--token", "T.1", name="other", project="p1"),
    ]
    slow = shell.detached(name="slow", nap_s=600)
    shell("wait", ids[2], "-q")
    shell.until(slow, "running")

    def names(*options: str) -> list[str]:
        return [row["name"] for row in shell.rows(*options)]

    assert names() == ["train-a", "train-b", "other", "slow"]
    assert names("-r") == ["slow", "other", "train-b", "train-a"]
    assert names("-m", "2") == ["other", "slow"]
    assert names("-n", "train-*") == ["train-a", "train-b"]
    assert names("-n", "train-a") == ["train-a"]
    assert names("-p", "p1") == ["train-b", "other"]
    assert names("--state", "history") == ["train-a", "train-b", "other"]
    assert names("--state", "active") == ["slow"]
    assert names(ids[0]) == names(ids[0][4:14]) == ["train-a"]
    assert names("--state", "draft") == []
    assert "there is no state" in shell("list", "--state", "asleep", expect=1).stderr
    (submission,) = shell.rows("--token", "T.1")
    expected = {
        "token": "T.1",
        "state": "created",
        "job_id": ids[2],
        "name": "other",
        "project": "p1",
        "schema": 1,
    }
    assert expected.items() <= submission.items()
    assert {"spec_hash", "owner", "time"} <= submission.keys()
    assert shell.submit("c.py", "--token", "T.1", name="other", project="p1") == ids[2]
    assert (
        "other arguments"
        in shell("submit", shell.script("c.py", project="p1"), "--token", "T.1", expect=1).stderr
    )
    assert len(shell.rows()) == 4
    both = shell("show", "job_", expect=1).stderr
    assert all(id_ in both for id_ in ids)
    shell("delete", ids[2])
    assert "was deleted" in shell("show", ids[2], expect=1).stderr
    assert (
        "deleted at"
        in shell(
            "submit", shell.script("c.py", name="other", project="p1"), "--token", "T.1", expect=1
        ).stderr
    )


def test_a_job_is_cloned_and_restarted_by_command(shell: Shell) -> None:
    busy = shell.detached(nap_s=600.0)
    assert "kill it, or wait" in shell("restart", busy, expect=1).stderr
    id_ = shell.ran(rounds=1, name="first")
    assert shell("restart", id_, "--from", "1", "--rounds", "2").stdout.strip() == f"{id_} attempt 2"
    shell("wait", id_, "-q")
    twin = shell("clone", id_, "--set", "name=second", "--set", "rounds=1").stdout.strip()
    shown = json.loads(shell("show", twin, "--json").stdout)
    assert (shown["spec"]["name"], shown["spec"]["rounds"], shown["record"]["state"]) == (
        "second",
        1,
        "draft",
    )
    assert shown["cloned_from"] == [id_]
    shell("submit", twin)
    shell("wait", twin, "-q")
    shell("delete", id_)
    assert "was deleted" in shell("clone", id_, expect=1).stderr


@pytest.mark.feature("TB-42", "TB-70")
@pytest.mark.parametrize("answer", ["leave", "stop"])
def test_ctrl_c_asks_in_a_terminal(shell: Shell, answer: str) -> None:
    id_ = shell.detached(nap_s=0.25, rounds=2000)
    shell.until(id_, "running")
    child, terminal = pty.fork()
    if not child:
        os.chdir(shell.folder)
        os.execve(FEDJOB, [FEDJOB, "job", "wait", id_], shell.environment)
    said = _read_until(terminal, "running")  # it tells of the job, so it waits
    os.write(terminal, b"\x03")
    said += _read_until(terminal, "[leave/stop]")
    os.write(terminal, f"{answer}\n".encode())
    said += _read_until(terminal, "left running" if answer == "leave" else "killed")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    assert status == (130 if answer == "leave" else 1), said
    if answer == "leave":
        assert shell.state(id_) == "running"
        shell("stop", id_)
    shell("wait", id_, "-q", expect=0 if answer == "leave" else 1)
    assert shell.state(id_) == ("completed" if answer == "leave" else "killed")


def _read_until(terminal: int, text: str) -> str:
    said = ""
    deadline = time.monotonic() + PATIENCE_S
    while text not in said:
        assert time.monotonic() < deadline, said
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                said += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                break
    assert text in said
    return said


@pytest.mark.feature("TB-42")
def test_ctrl_c_without_a_terminal_leaves_the_job_running(shell: Shell) -> None:
    id_ = shell.detached(nap_s=0.25, rounds=2000)
    shell.until(id_, "running")
    waiting = subprocess.Popen(
        [FEDJOB, "job", "wait", id_],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    )
    assert waiting.stderr is not None
    assert waiting.stderr.readline()  # it tells of the job, so it waits
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130
    assert b"left running" in errors
    assert shell.state(id_) == "running"
    shell("stop", id_)
    shell("wait", id_, "-q")


def test_a_script_that_is_no_job_is_refused(shell: Shell, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    assert "defines no job" in shell("submit", str(empty), expect=1).stderr
    assert "no job of" in shell("submit", "nothing-there", expect=1).stderr
    assert shell("list").stderr.strip() == (
        f"no jobs of {shell.home} match: another home is named by --home or FEDJOB_HOME"
    )
