"""A test that leaves the process otherwise than it found it is found, by the name of what it left."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

from tests.given_back import differences, process_state

Undo = Callable[[], object]


def _environment() -> Undo:
    os.environ["LEFT_BEHIND"] = "1"
    return lambda: os.environ.pop("LEFT_BEHIND")


def _folder() -> Undo:
    before = Path.cwd()
    os.chdir("/")
    return lambda: os.chdir(before)


def _umask() -> Undo:
    before = os.umask(0o013)
    return lambda: os.umask(before)


def _handler() -> Undo:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGUSR2, before)


def _path() -> Undo:
    sys.path.insert(0, "/nowhere")
    return lambda: sys.path.remove("/nowhere")


def _level() -> Undo:
    logger = logging.getLogger("fedjob")
    before = logger.level
    logger.setLevel(logging.DEBUG + 1)
    return lambda: logger.setLevel(before)


def _threads() -> Undo:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    return lambda: torch.set_num_threads(before)


def _pictures() -> Undo:
    before = mpl.rcParams["lines.linewidth"]
    mpl.rcParams["lines.linewidth"] = 17.0
    return lambda: mpl.rcParams.update({"lines.linewidth": before})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_environment, "the environment: LEFT_BEHIND was None and is '1'"),
        (_folder, "the working folder: expected "),
        (_umask, "the umask: expected "),
        (_handler, "handlers of signals: SIGUSR2 was "),
        (_path, "sys.path: expected "),
        (_level, "levels of loggers: expected "),
        (_threads, "torch's number of threads: expected "),
        (_pictures, "matplotlib's settings: lines.linewidth was "),
    ],
)
def test_what_is_left_behind_is_named_and_nothing_is_said_of_what_was_given_back(
    change: Callable[[], Undo], words: str
) -> None:
    before = process_state()
    undo = change()
    try:
        (found,) = differences(before, process_state())
    finally:
        undo()
    assert found.startswith(words)
    assert differences(before, process_state()) == []


def test_what_a_library_begins_with_is_no_difference() -> None:
    before = {name: value for name, value in process_state().items() if not name.startswith("torch")}
    assert differences(before, process_state()) == []
