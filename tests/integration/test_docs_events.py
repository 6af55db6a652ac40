"""The example of docs/events.md, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.feature("TB-65")
def test_the_loop_of_the_page_on_events_runs_as_it_stands_there(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    script = tmp_path / "loop.py"
    script.write_text(block[1], encoding="utf-8")
    said = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[-1] == "['waiting', 'queued', 'starting', 'running', 'completed']"
    assert [line for line in lines if line.startswith("round ")] == ["round 1 done", "round 2 done"]
    assert len([line for line in lines if line.startswith("local 1 ")]) >= 1
