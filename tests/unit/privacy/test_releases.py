"""No question, and no difference between questions, is answered about fewer rows than the owner's minimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.privacy.release_book import ReleaseBook, row_ids
from fedjob.privacy.releases import NEVER, ROWS, Release, Releases

sets_of_rows = st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=8)


def rows(*places: int) -> np.ndarray:
    return np.array(sorted(places), dtype=np.int64)


def test_a_set_that_is_too_small_is_withheld() -> None:
    releases = Releases.fresh(3, 10)
    assert releases.admit([Release(rows(0, 1), ("age",)), Release(rows(*range(5)), ("age",))]) == [
        False,
        True,
    ]


@pytest.mark.parametrize("first", ["all", "all but one"])
def test_all_rows_and_all_but_one_are_not_both_told(first: str) -> None:
    questions = {
        "all": Release(rows(*range(10)), ("age",)),
        "all but one": Release(rows(*range(9)), ("age",)),
    }
    releases = Releases.fresh(3, 10)
    told = {
        name: releases.admit([questions[name]])[0]
        for name in sorted(questions, key=lambda name: name != first)
    }
    assert told == {"all": True, "all but one": False}  # how many rows there are is known from the start


def test_what_was_told_is_told_again_and_what_was_withheld_is_withheld_again() -> None:
    releases = Releases.fresh(3, 10)
    questions = [Release(rows(*range(5)), ("age",)), Release(rows(*range(4)), ("age",))]
    assert releases.admit(questions) == [True, False]
    releases.changed = False
    assert releases.admit(questions) == [True, False]
    assert not releases.changed


def test_values_of_rows_that_lack_another_column_are_not_told_by_a_difference() -> None:
    everybody, complete = rows(*range(10)), rows(*range(8))
    releases = Releases.fresh(3, 10)
    assert releases.admit([Release(everybody, ("age",))]) == [True]
    assert releases.admit([Release(everybody, ("age", "chol"), complete)]) == [False]
    assert releases.admit([Release(everybody, ("chol",), complete)]) == [True]


def test_a_few_missing_values_do_not_keep_the_bins_of_a_column_from_being_counted() -> None:
    releases = Releases.fresh(3, 11)
    missing = rows(10)
    bins = [Release(rows(*range(5)), excused=missing), Release(rows(*range(5, 10)), excused=missing)]
    assert releases.admit(bins) == [True, True]
    hidden = [Release(rows(*range(9)), excused=missing), Release(rows(9), excused=missing)]
    assert Releases.fresh(3, 11).admit(hidden) == [False, False]


@given(sets_of_rows, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_piece_that_was_cut_out_is_large_enough(asked: list[set[int]], min_rows: int) -> None:
    releases = Releases.fresh(min_rows, 12)
    releases.admit([Release(rows(*places), ("age",)) for places in asked])
    for name, labels in releases.labels.items():
        sizes = np.bincount(labels)
        sizes = sizes[1:] if name != ROWS else np.delete(sizes, NEVER)
        assert all(size >= min_rows for size in sizes if size)


@given(sets_of_rows)
@settings(max_examples=60, deadline=None)
def test_no_sum_of_multiples_of_what_was_told_is_about_one_row(asked: list[set[int]]) -> None:
    releases = Releases.fresh(2, 12)
    allowed = releases.admit([Release(rows(*places), ("age",)) for places in asked])
    told = [np.isin(np.arange(12), sorted(places)) for places, may in zip(asked, allowed, strict=True) if may]
    if told:
        matrix = np.array(told, dtype=float)
        single = np.eye(12)
        nearest = (
            single @ np.linalg.pinv(matrix) @ matrix
        )  # of each single row, within the span of what was told
        assert (np.abs(nearest - single).max(axis=1) > 1e-6).all()


# --- the file ------------------------------------------------------------------------------------


def ask(book: ReleaseBook, frame: pd.DataFrame, kept: list[int]) -> bool:
    with book.opened(frame, np.array(kept, dtype=np.int64)) as admit:
        (allowed,) = admit([Release(np.arange(len(kept)), ("age",))])
    return allowed


def test_the_record_outlives_the_task_and_knows_rows_by_what_they_hold(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": range(50, 60), "sex": ["f", "m"] * 5})
    book = ReleaseBook(tmp_path / "made" / "hearts.safetensors", 3)
    assert ask(book, frame, list(range(10)))
    later = ReleaseBook(book.path, 3)
    assert not ask(later, frame, list(range(9)))
    assert ask(later, frame.sample(frac=1, random_state=1), list(range(10)))


@pytest.mark.parametrize(("added", "told"), [(1, False), (2, False), (3, True)])
def test_a_table_that_grows_is_told_of_when_enough_rows_are_new(
    tmp_path: Path, added: int, told: bool
) -> None:
    frame = pd.DataFrame({"age": [60, 60, 60, 61, 61]})
    book = ReleaseBook(tmp_path / "hearts.safetensors", 3)
    assert ask(book, frame, list(range(5)))
    grown = pd.concat([frame, pd.DataFrame({"age": [60] * added})], ignore_index=True)
    assert ask(book, grown, list(range(5 + added))) is told


def test_a_row_that_was_taken_out_is_not_told_by_its_absence(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": range(50, 60)})
    book = ReleaseBook(tmp_path / "hearts.safetensors", 3)
    assert ask(book, frame, list(range(10)))
    assert not ask(book, frame.drop(index=4), list(range(9)))
    assert ask(book, frame.drop(index=[4, 5, 6]), list(range(7)))


@pytest.mark.parametrize("odd", [None, 1.5, "unknown"], ids=str)
def test_a_new_row_that_changes_the_type_of_a_column_makes_no_other_row_new(odd: Any) -> None:
    before = pd.DataFrame({"age": [60, 61, 62], "sex": ["f", None, "m"]})
    after = pd.DataFrame({"age": [60, 61, 62, odd], "sex": ["f", None, "m", "f"]})
    texts = after.assign(age=after["age"].astype(str))
    assert row_ids(after)[:3].tolist() == row_ids(before).tolist()
    assert row_ids(texts)[:3].tolist() == row_ids(before).tolist()


def test_equal_rows_are_told_apart() -> None:
    ids = row_ids(pd.DataFrame({"age": [60, 60, 61], "sex": ["f", "f", "f"]}))
    assert len(set(ids.tolist())) == 3


def test_whole_rows_are_released_in_all_columns_or_in_none() -> None:
    releases = Releases.fresh(3, 12)
    everything = rows(*range(12))
    assert releases.admit([Release(everything, ("age",))]) == [True]
    most = rows(*range(11))
    assert not releases.admit_together(everything, {"chol": most, "age": most}, rows())
    assert not releases.labels["chol"].any()  # nothing of it was noted
    half = rows(*range(6))
    assert releases.admit_together(everything, {"chol": half, "age": half}, rows())
    assert releases.admit([Release(everything, ("chol",), rows(*range(5)))]) == [False]


def test_a_column_of_which_hardly_any_value_is_there_stands_in_nobodys_way_until_it_was_released() -> None:
    releases = Releases.fresh(3, 12)
    everything, few = rows(*range(12)), rows(0, 1)
    assert releases.admit_together(everything, {"age": everything, "rare": few}, rows())
    assert releases.admit([Release(everything, ("rare",), rows(0, 1, 2))]) == [True]
    assert not releases.admit_together(everything, {"age": everything, "rare": few}, rows())


def test_rows_left_out_because_a_value_is_missing_need_not_be_many() -> None:
    kept = rows(*range(11))
    assert not Releases.fresh(3, 12).admit_together(kept, {"age": kept}, rows())
    assert Releases.fresh(3, 12).admit_together(kept, {"age": kept}, rows(11))


def test_rows_are_in_one_piece_as_long_as_they_were_released_together_somewhere() -> None:
    releases = Releases.fresh(2, 8)
    everything = rows(*range(8))
    assert len(set(releases.pieces(["age"]).tolist())) == 1
    assert releases.admit([Release(everything, ("age",), rows(0, 1, 2, 3))]) == [True]
    assert len(set(releases.pieces(["age"]).tolist())) == 1  # they were counted together
    assert releases.admit([Release(rows(0, 1, 2, 3), ("age",))]) == [True]
    pieces = releases.pieces(["age"])
    assert len(set(pieces.tolist())) == 2
    assert len(set(pieces[:4].tolist())) == 1


def test_the_points_at_which_a_question_was_answered_are_kept_in_the_file(tmp_path: Path) -> None:
    book, frame = ReleaseBook(tmp_path / "hearts.safetensors", 3), pd.DataFrame({"age": range(6)})
    for point in ([1.5], {"age": 0.25}, [1.5]):
        with book.opened(frame, np.arange(6)) as opened:
            opened.answer("logistic of ill", point)
    with book.opened(frame, np.arange(6)) as opened:
        assert opened.answered("logistic of ill") == [[1.5], {"age": 0.25}]
        assert opened.answered("another") == []
