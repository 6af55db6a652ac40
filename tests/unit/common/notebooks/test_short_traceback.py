"""The few lines of an error in IPython: the user's own line, the sentence, its notes and causes."""

from __future__ import annotations

import pytest

import fedjob
from fedjob.common.errors import FedjobError, JobFailed, SpecError
from fedjob.common.notebooks.short_traceback import own_frame, short_lines


def raised(call: object) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()  # type: ignore[operator]
    return caught.value


def test_the_line_is_the_users_own_and_not_one_of_fedjob() -> None:
    error = raised(lambda: fedjob.Guard(max_norm="x"))  # type: ignore[arg-type]
    frame = own_frame(error)
    assert frame is not None
    assert frame.filename == __file__
    place, line, sentence, hint = short_lines(error)
    assert place.endswith(f"test_short_traceback.py, line {frame.lineno}")
    assert line == '----> error = raised(lambda: fedjob.Guard(max_norm="x"))  # type: ignore[arg-type]'
    assert sentence == f"SpecError: {error}"
    assert "%tb" in hint


def failing() -> None:
    try:
        try:
            raise KeyError("sex")
        except KeyError as error:
            raise SpecError("no such column") from error
    except SpecError as error:
        raise JobFailed("the job failed") from error


def test_causes_have_a_line_each() -> None:
    lines = list(short_lines(raised(failing)))
    assert lines[2:5] == [
        "JobFailed: the job failed",
        "because of SpecError: no such column",
        "because of KeyError: 'sex'",
    ]


def unreachable() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise RuntimeError("_Pool(host='x'): Max retries exceeded") from error
    except RuntimeError as error:
        raise JobFailed("x can't be reached: is the hub running? ([Errno 111] Connection refused)") from error


def test_layers_above_an_error_of_the_system_that_the_sentence_names_are_left_out() -> None:
    lines = list(short_lines(raised(unreachable)))
    assert lines[2].startswith("JobFailed: x can't be reached")
    assert len(lines) == 4


def wrapping() -> None:
    try:
        raise SpecError("no such column")
    except SpecError as error:
        raise JobFailed("it failed: no such column") from error


def test_a_cause_whose_words_stand_in_the_sentence_is_not_repeated() -> None:
    assert not any(line.startswith("because") for line in short_lines(raised(wrapping)))


def suppressing() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        raise SpecError("outer") from None


def test_what_was_suppressed_stays_so() -> None:
    assert "inner" not in "\n".join(short_lines(raised(suppressing)))


def test_a_circle_of_causes_ends() -> None:
    first, second = SpecError("a"), SpecError("b")
    first.__cause__, second.__cause__ = second, first
    assert sum(line.startswith("because") for line in short_lines(first)) == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_cause_that_has_no_words_adds_no_line() -> None:
    error = SpecError("a")
    error.__cause__ = Unspeakable()
    assert len(list(short_lines(error))) == 2


def test_what_others_wrote_steers_no_terminal() -> None:
    error = FedjobError("a \x1b[2J")
    error.__cause__ = ValueError("b \x1b[2J")
    error.add_note("c \x1b[2J")
    assert "\x1b" not in "\n".join(short_lines(error))


def test_every_error_of_fedjob_and_no_other_is_shown_so() -> None:
    assert all(hasattr(kind, "_render_traceback_") for kind in (FedjobError, SpecError, JobFailed))
    assert not hasattr(ValueError("x"), "_render_traceback_")


def test_an_error_that_was_never_raised_has_a_sentence() -> None:
    assert next(iter(short_lines(SpecError("a")))) == "SpecError: a"
