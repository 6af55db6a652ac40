from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.codec import pack
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.logs import MAX_EVENT_BYTES, Tail, bodies, close_log, has_log, read_log, tidy_logs


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path)
    made.create()
    return made


def test_a_tail_gives_whole_lines_once_and_the_last_piece_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text("one\ntw")
    assert tail.read() == ["one"]
    assert tail.read() == []
    path.write_text("one\ntwo\nthr")
    assert tail.read() == ["two"]
    assert tail.read(final=True) == ["thr"]
    path.write_text("new\n")
    assert tail.read() == ["new"], "it was cut"


def test_bodies_fit_into_messages() -> None:
    lines = ["\N{GREEK SMALL LETTER ALPHA}" * 4000] * 20 + ["x"] * 20_000
    made = list(bodies("stdout", lines))
    assert [line for body in made for line in body["lines"]] == lines
    assert max(len(pack(body)) for body in made) <= 2 * MAX_EVENT_BYTES


def test_logs_are_read_dropped_and_bounded(home: NodeHome) -> None:
    for number, size in enumerate((0, 3000, 3000, 3000)):
        home.log_of(f"k{number}", "stdout").write_text("x\n" * (size // 2))
    assert has_log(home, "k0")  # of a task that wrote nothing in the end
    assert not has_log(home, "nothing")
    close_log(home, "k0")
    close_log(home, "k1")
    assert not has_log(home, "k0")
    assert has_log(home, "k1")
    assert not home.log_of("k0", "stdout").exists()
    assert len(read_log(home, "k1", "stdout")) == 1500
    assert read_log(home, "nothing", "stderr") == []
    tidy_logs(home, 7000)
    assert len(list(home.task_logs.iterdir())) == 2
