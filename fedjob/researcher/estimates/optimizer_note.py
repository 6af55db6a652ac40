"""The note in a job's folder of what its plan's optimizer holds, made once, before anybody is asked for anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import FedjobError
from fedjob.common.files import write_atomic
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.index import JobEntry
from fedjob.researcher.storage.search import find_entries
from fedjob.researcher.storage.spec import JobSpec, load_spec

_MOST_JOBS = 5
"""Earlier jobs of the plan in which its optimizer's memory is looked for, the newest ones."""
_COMPILER = "torch._dynamo"
"""The module that torch loads for the first optimizer of a process."""
_OF_NO_OPTIMIZER = ("epochs", "num_updates", "batch_size", "test_ratio")


def note_optimizer(
    spec: JobSpec, folder: JobFolder, home: Path, plan: Callable[[], Any], *, quick: bool = False
) -> None:
    """Note what the optimizer of a training job holds, where that is not noted yet; nothing where it is not known.

    An earlier job with the same plan and arguments knows it: the first optimizer of a process takes a second, because torch loads
    its compiler for it.

    Args:
        plan: returns the plan, built.
        quick: somebody waits for the job to begin: the second is not taken.
    """
    if folder.optimizer.exists() or not spec.plan_hash or spec.plans:
        return
    if not isinstance(inner_of(PROTOCOLS.build(spec.protocol.name, spec.protocol.config)), TrainingProtocol):
        return
    if _COMPILER not in sys.modules:
        if (earlier := _earlier(spec, home)) is not None:
            write_atomic(folder.optimizer, earlier)
            return
        if quick:
            return
    from fedjob.training_plans.state.optimizer_memory import optimizer_memory

    found = optimizer_memory(plan())
    write_atomic(folder.optimizer, pack({} if found is None else {"state": found.state, "step": found.step}))


def _earlier(spec: JobSpec, home: Path) -> bytes | None:
    found: list[JobEntry] = []
    with suppress(FedjobError):  # the home's index is in use, or can't be had
        found = find_entries(home, plan=spec.plan_hash, limit=_MOST_JOBS, look=lambda folder: None)
    for entry in reversed(found):
        folder = job_folder(home, entry.id)
        with suppress(FedjobError, OSError):  # it is being deleted, or can't be read any more
            if folder.optimizer.exists() and _has_like(load_spec(folder.spec), spec):
                return folder.optimizer.read_bytes()
    return None


def _has_like(earlier: JobSpec, spec: JobSpec) -> bool:
    """Tell whether two jobs of one plan make the same optimizer."""
    args = [
        {k: v for k, v in one.training_args.items() if k not in _OF_NO_OPTIMIZER} for one in (earlier, spec)
    ]
    same = all(
        getattr(earlier, name) == getattr(spec, name) for name in ("plan_entry", "model_args", "share")
    )
    return same and args[0] == args[1]
