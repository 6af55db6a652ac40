"""Launchers that somebody else wrote: installed as entry points, chosen by the node's owner."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.node.config.config import NodeConfig
from tests.integration.nodes import ADD_ONE, Federation, plan_with

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
        unknown = ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2)
        assert unknown.reason in ("launcher", "plan_not_approved")
    finally:
        federation.close()
