"""The modules that every worker needs, imported once before workers are forked."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

LIBRARIES = ("torch", "numpy", "safetensors")
"""Packages that no worker can do without; the extra `training` brings them."""

PRELOAD = (
    "torch",
    "numpy",
    "safetensors.torch",
    "fedjob.execution.workbench",
    "fedjob.parameters.files",
    "fedjob.parameters.tree",
    "fedjob.protocols.training.fedavg",
    "fedjob.execution.batches",
    "fedjob.training_plans.source.compilation",
    "fedjob.training_plans.base",
    "fedjob.training_plans.torch",
    "fedjob.training_plans.training_args",
    "fedjob.metrics.states",
    "fedjob.data.loader",
    "fedjob.node.execution.process",
)
PRELOAD_IF_THERE = (
    "torch._dynamo",  # the first optimizer of a process imports it, in more than a second
    "pandas",
)


def lacking_libraries(launcher: str) -> str:
    """Return why no task can run here for want of libraries, and what to install; empty where none is missing.

    Args:
        launcher: how workers are started; with another than `process` they have libraries of their own.
    """
    missing = [name for name in LIBRARIES if not _is_there(name)] if launcher == "process" else []
    return f"this node lacks {', '.join(missing)}: pip install 'fedjob[training]'" if missing else ""


_found: set[str] = set()


def _is_there(library: str) -> bool:
    """Return whether a library is installed; one that was found is not looked for again, which takes milliseconds a task."""
    if library not in _found and find_spec(library) is not None:
        _found.add(library)
    return library in _found


def preload() -> None:
    """Import what workers need, and look at the processor, which they can't."""
    gc.disable()  # imports leave next to no garbage, and looking for it takes as long as a third of them
    for module in PRELOAD:
        import_module(module)
    for module in PRELOAD_IF_THERE:
        with suppress(ImportError):
            import_module(module)
    torch = sys.modules["torch"]
    with suppress(OSError, AttributeError):  # it is read from /proc once, and remembered
        ctypes.CDLL(
            os.path.join(os.path.dirname(str(torch.__file__)), "lib", "libtorch_cpu.so")
        ).cpuinfo_initialize()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it marks
    gc.enable()
