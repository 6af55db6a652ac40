"""Logs as lines of JSON, and log files that are rotated by fedjob or by somebody else."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import RepositoryUnreachable
from fedjob.common.telemetry.logs import MAX_MESSAGE_CHARS, JsonLines, RotatedFile, formatter_of

CANARY = "patient-4711"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("fedjob.node.daemon", logging.INFO)
    yield made
    for handler in list(made.handlers):
        handler.close()


def logging_to(logger: logging.Logger, path: Path, *, max_bytes: int = 0, num_old: int = 2) -> RotatedFile:
    handler = RotatedFile(path, max_bytes=max_bytes, num_old=num_old)
    handler.setFormatter(JsonLines(node="clinic"))
    logger.addHandler(handler)
    return handler


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_time_level_logger_message_and_the_fields_that_are_known(
    logger: logging.Logger, tmp_path: Path
) -> None:
    logging_to(logger, tmp_path / "log")
    logger.warning(
        "task %s failed",
        "ab12",
        extra={"job": "job_1", "task": "ab12", "round": 3, "reason": "exception", "values": CANARY},
    )
    logger.info("plain", extra={"job": "", "round": True})
    first, second = lines(tmp_path / "log")
    assert datetime.fromisoformat(first.pop("time")).utcoffset() == timedelta(0)
    assert first == {
        "level": "warning",
        "logger": "fedjob.node.daemon",
        "message": "task ab12 failed",
        "node": "clinic",
        "job": "job_1",
        "task": "ab12",
        "round": 3,
        "reason": "exception",
    }
    assert second.keys() == {"time", "level", "logger", "message", "node"}


@pytest.mark.parametrize(
    "message", ["two\nlines", "a \x1b[31mcolour", "\u2028 and \u2029", "\x00", "größer \ud800", "x" * 100_000]
)
def test_whatever_a_message_holds_it_is_one_line_of_ascii(
    logger: logging.Logger, tmp_path: Path, message: str
) -> None:
    logging_to(logger, tmp_path / "log")
    logger.error("%s", message, extra={"job": message})
    data = (tmp_path / "log").read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == 1
    (line,) = data.splitlines()
    assert json.loads(line)["message"] == message[:MAX_MESSAGE_CHARS]


def test_words_that_do_not_fit_their_arguments_are_logged_as_they_are(
    logger: logging.Logger, tmp_path: Path
) -> None:
    logging_to(logger, tmp_path / "log")
    logger.error("50 % of %s and %s", "one")
    assert lines(tmp_path / "log")[0]["message"] == "50 % of %s and %s"


def test_an_exception_is_a_field_with_its_places_and_without_its_words(
    logger: logging.Logger, tmp_path: Path
) -> None:
    logging_to(logger, tmp_path / "log")
    for raised in (KeyError(CANARY), ValueError(f"no number: {CANARY}"), FileNotFoundError(2, "no", CANARY)):
        try:
            raise raised
        except Exception:
            logger.exception("a message could not be handled")
    text = (tmp_path / "log").read_text()
    assert CANARY not in text
    found = lines(tmp_path / "log")
    assert [line["error"]["class"] for line in found] == ["KeyError", "ValueError", "FileNotFoundError"]
    assert found[0]["error"]["at"][-1].startswith("test_logs.py:")
    assert str(Path(__file__).parent) not in text


def test_an_error_of_fedjob_s_own_keeps_its_reason_and_words(logger: logging.Logger, tmp_path: Path) -> None:
    logging_to(logger, tmp_path / "log")
    try:
        raise RepositoryUnreachable("the hub does not answer")
    except RepositoryUnreachable:
        logger.exception("no hub")
    (line,) = lines(tmp_path / "log")
    assert line["error"]["reason"] == RepositoryUnreachable.reason
    assert line["error"]["message"] == "the hub does not answer"


def test_a_full_file_is_put_aside_and_only_so_many_are_kept(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    logging_to(logger, path, max_bytes=2000, num_old=2)
    for number in range(100):
        logger.info("line %d", number)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(p.stat().st_size <= 2000 for p in tmp_path.iterdir())
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in tmp_path.iterdir())
    messages = [line["message"] for name in ("log.2", "log.1", "log") for line in lines(tmp_path / name)]
    assert messages == [f"line {number}" for number in range(100 - len(messages), 100)]


def test_a_file_that_something_else_rotates_or_deletes_is_begun_anew(
    logger: logging.Logger, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    logging_to(logger, path)
    logger.info("one")
    os.rename(path, tmp_path / "log-20261130")
    logger.info("two")
    path.unlink()
    logger.info("three")
    path.write_text("")  # copytruncate
    logger.info("four")
    assert [line["message"] for line in lines(tmp_path / "log-20261130")] == ["one"]
    assert [line["message"] for line in lines(path)] == ["four"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_text_stays_text() -> None:
    record = logging.LogRecord("fedjob", logging.WARNING, "", 0, "not %s", ("connected",), None)
    assert formatter_of("text", {"node": "clinic"}).format(record).endswith(" WARNING fedjob: not connected")
