"""The parts that tests expect of a machine beside this checkout: programs, packages, data, rights.

Where one is missing, a test that needs it is skipped and says so. With CI=true in the environment it fails
instead, because what passes there must have been tested. Only what a machine's kernel forbids is skipped there as well:
nobody can install it. This is the only file that skips a test.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def in_ci() -> bool:
    """Whether this is a run in which nothing may be skipped."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(part: str) -> NoReturn:
    """Skip a test for want of a part; in CI, fail it."""
    __tracebackhide__ = True
    if in_ci():
        pytest.fail(f"{part} is missing, and CI must have it", pytrace=False)
    pytest.skip(f"{part} is missing")


def forbidden(what: str) -> NoReturn:
    """Skip a test, also in CI, because the kernel of this machine, or what this machine runs in, forbids something."""
    __tracebackhide__ = True
    pytest.skip(f"the kernel allows no {what} here")


def has_program(name: str) -> bool:
    """Whether a program is installed."""
    return _found(name) is not None


def program(name: str) -> str:
    """Return the path of a program."""
    __tracebackhide__ = True
    return _found(name) or missing(f"the program {name}")


def _found(name: str) -> str | None:
    # distributions put daemons where the search path of a user does not lead
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path)


def package(name: str) -> ModuleType:
    """Return a module of a package that only the extra `dev` installs, or a part of it."""
    __tracebackhide__ = True
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it needs is not
        missing(f"the Python package {name.partition('.')[0]}")


def shared_data(name: str) -> Path:
    """Return a folder of the data that lie beside this checkout, in ../shared/data."""
    __tracebackhide__ = True
    folder = SHARED_DATA / name
    return folder if folder.is_dir() else missing(f"../shared/data/{name}")


def need_gpu() -> None:
    """Skip a test where there is no GPU, also in CI, whose machines have none: the exception to the rule of this module."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU, and those of CI have none either")
