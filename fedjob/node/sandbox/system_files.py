"""The files of the machine that a worker needs to compute: the interpreter, its libraries and its packages."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store")
_CONFIGURATION = (
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/localtime",
)


def system_paths(hidden: str) -> tuple[str, ...]:
    """Return the files and folders that a worker may read of the machine: absolute, those that exist.

    Args:
        hidden: the node's home, which is in none of them as far as this can be helped.
    """
    found = [path for path in (*_SYSTEM, *_CONFIGURATION) if os.path.lexists(path)]
    for path in (*_interpreter(), *_packages(hidden)):
        if not any(is_within(path, other) for other in found):
            found.append(path)
    return tuple(found)


def is_within(path: str, folder: str) -> bool:
    """Tell whether a path is a folder, or something in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _interpreter() -> Iterator[str]:
    """Yield where Python itself lies."""
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        if os.path.isdir(prefix) and prefix != "/":
            yield os.path.abspath(prefix)
    real = os.path.realpath(sys.executable)
    if os.path.isfile(real):
        yield real
    yield os.path.abspath(sys.executable)


def _packages(hidden: str) -> Iterator[str]:
    """Yield the folders that packages are imported from: whole where they hold nothing else, else package by package.

    A checkout that is installed as it lies has tests, notes and maybe the owner's files beside its package.
    """
    imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    for entry in map(os.path.abspath, filter(None, sys.path)):
        if not os.path.exists(entry):
            continue
        if os.path.isfile(entry) or _is_of_packages(entry):
            yield entry
            continue
        for child in sorted(Path(entry).iterdir()):
            if (_is_package(child) or str(child) in imported) and not is_within(hidden, str(child)):
                yield str(child)


def _is_of_packages(folder: str) -> bool:
    if os.path.basename(folder) in ("site-packages", "dist-packages"):
        return True
    return any(is_within(folder, prefix) for prefix in (sys.prefix, sys.base_prefix, *site.getsitepackages()))


def _is_package(path: Path) -> bool:
    if path.suffix in (".dist-info", ".egg-info"):
        return path.is_dir()
    return (path / "__init__.py").is_file()
