"""Launchers that somebody else wrote: installed as entry points, chosen by the node's owner."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.node.config.config import NodeConfig
from tests.integration.nodes import ADD_ONE, Federation, plan_with
from tests.processes import wait_until

OPEN = NodeConfig(approval="off")
PLUGIN = """\
import json
from dataclasses import dataclass
from typing import ClassVar

from fedjob.node.execution.launcher import Launcher


@dataclass(frozen=True)
class Noting(Launcher):
    name: ClassVar[str] = "noting"

    def command(self, launch):
        hints = dict(launch.hints)
        with open(hints["file"], "a") as file:
            file.write(json.dumps(hints) + "\\n")
        return ["sh", "-c", f'echo "{hints["image"]}" >> {hints["file"]}; exec "$@"', "launched"]


@dataclass(frozen=True)
class Broken(Launcher):
    name: ClassVar[str] = "broken"

    def command(self, launch):
        raise RuntimeError("no such partition")
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[None]:
    """Install a package with two launchers, for as long as the test runs."""
    folder = tmp_path / "site"
    about = folder / "noting_launcher-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "noting_launcher.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: noting-launcher\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[fedjob.launcher]\nnoting = noting_launcher:Noting\nbroken = noting_launcher:Broken\n"
    )
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("noting_launcher", None)


@pytest.mark.feature("NV-28")
def test_a_launcher_gets_the_jobs_hints_and_the_owner_has_the_last_word(plugin: None, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    hints = tmp_path / "hints"
    options = f"file={hints}, time_limit=60"
    config = replace(OPEN, launcher="noting", launcher_options=options)
    try:
        node = federation.node(config=config).start()
        federation.node("forks", config=OPEN).start()
        ann = federation.ann
        asks = {"noting": {"image": "torch:2", "time_limit": 99_999}, "other": {"x": 1}}
        step = f"print(os.getuid(), os.path.exists({str(hints)!r}))"
        task = ann.task(plan_with(step), "Odd", resources={"launcher": asks})
        result = ann.result("node1", task)
        assert result.ok, (result.reason, result.detail)
        assert hints.read_text() == (
            f'{{"image": "torch:2", "time_limit": "60", "file": "{hints}"}}\ntorch:2\n'
        )
        assert node.printed() == ["65534 False"] * 2  # it closed its sandbox itself
        assert ann.result("forks", task).ok
    finally:
        federation.close()


def test_a_launcher_that_fails_costs_its_task_and_not_the_node(plugin: None, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        node = federation.node(config=replace(OPEN, launcher="broken")).start()
        ann = federation.ann
        result = ann.result("node1", ann.task(ADD_ONE, "AddOne"))
        assert (result.ok, result.reason, result.detail) == (False, "launcher", "RuntimeError")
        node.config = replace(OPEN, launcher="nothing")
        # a launcher that is not there is a fault of the settings: once that is noticed, the strictest hold
        daemon = node.daemon
        assert daemon is not None
        wait_until(
            lambda: daemon._context.config.approval == "on", timeout_s=30, what="the strictest settings"
        )
        unknown = ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2)
        assert (unknown.ok, unknown.reason) == (False, "plan_not_approved")
    finally:
        federation.close()


STAND_IN = """\
#!{python}
# what podman and docker do with these arguments, without a container: checks them, starts the worker away from itself
import json, os, signal, subprocess, sys

here = os.path.dirname(os.path.abspath(sys.argv[0]))
words = sys.argv[1:]
if words[0] == "rm":
    assert words[1] == "--force", words
    name = words[-1]
    with open(os.path.join(here, "removed"), "a") as file:
        file.write(name + "\\n")
    try:
        os.killpg(int(open(os.path.join(here, name)).read()), signal.SIGKILL)
    except (OSError, ValueError):
        pass
    sys.exit(0)
assert words[0] == "run", words
place = words.index("hospital/fedjob:1")
options, command = words[1:place], words[place + 1 :]
for wanted in ("--rm", "--read-only", "--network", "--cap-drop", "--pids-limit", "--memory", "--user"):
    assert wanted in options, wanted
for name, value in zip(options, options[1:]):
    if name == "--mount":
        parts = value.split(",")
        assert parts[0] == "type=bind" and parts[-1] == "readonly", value
        assert os.path.exists(parts[1].partition("=")[2]), value
name = options[options.index("--name") + 1]
inherits = "--preserve-fds" in options
running = subprocess.Popen(
    command, start_new_session=True, pass_fds=[3] if inherits else [], env={{"PATH": "/usr/bin:/bin"}}
)
with open(os.path.join(here, name), "w") as file:
    file.write(str(running.pid))
with open(os.path.join(here, "started"), "a") as file:
    file.write(json.dumps(options) + "\\n")
sys.exit(running.wait())
"""


@pytest.fixture(params=["podman", "docker"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Install a program that does as an engine of containers would."""
    path = tmp_path / "engines" / str(request.param)
    path.parent.mkdir()
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def alive(path: Path) -> bool:
    """Tell whether the process is there whose number is in a file."""
    stat = Path(f"/proc/{path.read_text()}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_workers_in_containers_answer_and_are_ended_by_name(engine: Path, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    options = f"image=hospital/fedjob:1, engine={engine}, python={sys.executable}"
    sleepy = tmp_path / "sleepy"
    try:
        federation.node(config=replace(OPEN, launcher="container", launcher_options=options)).start()
        ann = federation.ann
        plan = plan_with(f"time.sleep(60) if os.path.exists({str(sleepy)!r}) else None")
        hints = {"container": {"image": "of-the-job"}}
        task = ann.task(plan, "Odd", resources={"launcher": hints}, limit_s=2.0)
        result = ann.result("node1", task)
        assert (result.ok, result.sandbox) == (True, "container"), result
        sleepy.touch()
        late = ann.result("node1", task, round_=2)
        assert late.reason == "timeout", late
        (started,) = (engine.parent / "started").read_text().splitlines()
        (name,) = (path.name for path in engine.parent.iterdir() if path.name.startswith("fedjob-"))
        assert f'"--name", "{name}"' in started
        wait_until(lambda: not alive(engine.parent / name), timeout_s=20, what="the worker to end")
        removed = engine.parent / "removed"
        wait_until(
            lambda: removed.exists() and name in removed.read_text(),
            timeout_s=20,
            what="its container to be removed",
        )
    finally:
        federation.close()
