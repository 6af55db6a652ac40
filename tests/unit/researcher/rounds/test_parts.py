"""Selectors, the journal, the history, hooks that decide: small parts of a round."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.errors import SpecError
from fedjob.common.files import fsync_together
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.hooks.best_round import KeepBest
from fedjob.researcher.hooks.early_stopping import EarlyStopping
from fedjob.researcher.storage.measurements import Measurement, newest_rows, series, to_frame
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Journal, read_journal
from tests.on_disk import in_memory_alone, need_a_disk_that_waits


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=12))
def test_the_newest_rows_of_a_job_are_found_from_the_end(steps: list[tuple[int, int]]) -> None:
    # a row is of the round that is under way, or of the one before it
    rounds, under_way = [], 1
    for further, before in steps:
        under_way += further
        rounds.append(under_way - before)
    rows = tuple(
        Measurement(round=round_, phase="after", metric="loss", node="all", value=0.0, num_examples=1)
        for round_ in rounds
    )
    newest = newest_rows(rows, under_way)
    assert [row for row in rows if row.round == under_way] == [
        row for row in rows[newest:] if row.round == under_way
    ]
    assert all(row.round >= under_way - 1 for row in rows[newest:])


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers(-5, 5), max_size=3), max_size=6), st.data())
def test_any_prefix_of_a_journal_reads_as_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, int]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal"
    journal = Journal(path)
    for record in records:
        journal.append([record])
    journal.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    found = read_journal(path)
    assert found == records[: len(found)]
    again = Journal(path)  # the torn tail is cut off, so that what is appended now can be read
    again.append([{"new": 1}])
    again.close()
    assert read_journal(path) == [*found, {"new": 1}]


def test_what_a_journal_has_is_on_the_disk_after_a_sync_that_takes_other_files_along(tmp_path: Path) -> None:
    need_a_disk_that_waits(tmp_path)
    journal, other = Journal(tmp_path / "j"), tmp_path / "other"
    other.write_bytes(b"1")
    journal.append([{"a": 1}])
    assert in_memory_alone(tmp_path / "j")
    assert read_journal(tmp_path / "j") == [{"a": 1}]
    journal.sync(lambda descriptor: fsync_together([other], descriptor))
    assert not in_memory_alone(tmp_path / "j")
    assert not in_memory_alone(other)
    journal.append([{"b": 2}])
    journal.sync()
    journal.close()
    assert read_journal(tmp_path / "j") == [{"a": 1}, {"b": 2}]


def test_a_flipped_byte_ends_a_journal_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append([{"a": 1}, {"b": 2}, {"c": 3}])
    journal.close()
    raw = bytearray((tmp_path / "j").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "j").write_bytes(raw)
    assert read_journal(tmp_path / "j") == [{"a": 1}]


def _rows(values: list[float], phase: str = "after", metric: str = "loss") -> tuple[Measurement, ...]:
    return tuple(
        Measurement(round=i + 1, phase=phase, metric=metric, node="all", value=v, num_examples=1)
        for i, v in enumerate(values)
    )


def _report(rows: tuple[Measurement, ...]) -> RoundReport:
    return RoundReport(
        round=len(rows),
        rounds=99,
        position=Position(state={}, rows=rows),
        rows=rows[-1:],
        left_out={},
        seconds=1,
    )


def test_early_stopping_waits_for_its_patience() -> None:
    hook = EarlyStopping("loss", patience=2)
    assert hook.round_done(_report(_rows([3.0, 2.0, 2.5]))) is None
    assert "2 rounds" in str(hook.round_done(_report(_rows([3.0, 2.0, 2.5, 2.1]))))
    assert hook.round_done(_report(_rows([3.0, 2.0, 2.5, 1.9]))) is None


def test_early_stopping_knows_which_way_is_better() -> None:
    rising = _rows([0.1, 0.2, 0.3], metric="accuracy")
    assert EarlyStopping("accuracy", patience=1).round_done(_report(rising)) is None
    assert EarlyStopping("accuracy", patience=1, mode="min").round_done(_report(rising)) is not None


def test_early_stopping_on_an_unknown_metric_says_what_is_measured() -> None:
    with pytest.raises(SpecError, match="loss"):
        EarlyStopping("f1").round_done(_report(_rows([1.0])))


def test_keeping_the_best_of_what_nobody_measures_says_what_is_measured() -> None:
    with pytest.raises(SpecError, match=r"the rounds measure loss \(train\)"):
        KeepBest("loss").round_done(_report(_rows([1.0], phase="train")))
    with pytest.raises(SpecError, match="mode"):
        KeepBest("loss", mode="least")


def test_the_history_is_a_table_and_a_series() -> None:
    rows = _rows([3.0, 2.0]) + _rows([0.5, 0.6], "before", "accuracy")
    frame = to_frame(rows)
    assert list(frame.columns) == ["round", "phase", "metric", "node", "value", "num_examples", "error"]
    assert len(frame) == 4
    assert series(rows, "accuracy") == {1: 0.5, 2: 0.6}
