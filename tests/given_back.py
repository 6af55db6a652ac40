"""What the tests of one process share without asking for it, so that a test which does not give it back is found at once.

Tests are shuffled, and each begins in the process that another leaves: its environment, working folder, handlers of
signals, and what libraries keep for the whole process.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from tests.preloaded import SHARED

_OF_LIBRARIES = ("KMP_", "MLFLOW_", "RAY_", "TORCHINDUCTOR_", "WANDB_", "PYTEST_", SHARED)
"""Beginnings of environment variables that libraries, and the tests' own server, set once for the process."""

_SIGNALS = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM, signal.SIGCHLD}
"""Without the alarm, which is that of the tests' own time limit, and without that of ended children: torch takes it once
for the process, for loaders of data that have workers."""
_LIMITS = {
    name: getattr(resource, name)
    for name in ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC")
}


def process_state() -> dict[str, Any]:
    """Return what a test has to leave as it found it, by name; of libraries what those have that are imported."""
    umask = os.umask(0o077)
    os.umask(umask)
    root, own = logging.getLogger(), logging.getLogger("fedjob")
    found = {
        "the environment": {k: v for k, v in os.environ.items() if not k.startswith(_OF_LIBRARIES)},
        "the working folder": os.getcwd(),
        "the umask": oct(umask),
        "handlers of signals": {number.name: signal.getsignal(number) for number in _SIGNALS},
        "limits of the process": {name: resource.getrlimit(number) for name, number in _LIMITS.items()},
        "sys.path": list(sys.path),
        "levels of loggers": (
            root.level,
            own.level,
            own.propagate,
            own.disabled,
            logging.root.manager.disable,
        ),
        "handlers of fedjob's logger": list(own.handlers),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the time zone": time.tzname,
        "the time limit of sockets": socket.getdefaulttimeout(),
        "whether garbage is collected": gc.isenabled(),
    }
    return {**found, **_of_libraries()}


def _of_libraries() -> dict[str, Any]:
    found: dict[str, Any] = {}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "are_deterministic_algorithms_enabled"):
        found["torch's number of threads"] = torch.get_num_threads()
        found["torch's default dtype"] = torch.get_default_dtype()
        found["torch's determinism"] = torch.are_deterministic_algorithms_enabled()
        found["torch's recording of gradients"] = torch.is_grad_enabled()
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "get_printoptions"):
        found["numpy's way to print"] = numpy.get_printoptions()
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is not None and hasattr(matplotlib, "rcParams"):
        # without what is chosen at the first picture
        settings = {k: v for k, v in dict.items(matplotlib.rcParams) if k != "backend"}
        found["matplotlib's settings"] = settings
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say in a line each what is not as it was; what a library began with is no difference."""
    return [
        f"{name}: {_shown(was, after[name])}"
        for name, was in before.items()
        if name in after and after[name] != was
    ]


def _shown(was: Any, found: Any) -> str:
    if not isinstance(was, dict):
        return f"expected {was!r}, found {found!r}"
    changed = sorted(key for key in was.keys() | found.keys() if was.get(key) != found.get(key))
    return ", ".join(f"{key} was {was.get(key)!r} and is {found.get(key)!r}" for key in changed)


__all__ = ["differences", "process_state"]
