"""The seeding of the global generators of randomness, which user code draws from."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedjob.training_plans.state.thread_turns import ThreadTurn

_computing = ThreadTurn()
"""The turn to compute what draws from the global generators."""


def seed_torch(seed: int) -> None:
    """Do what `torch.manual_seed` does, in a thousandth of its time where there is no GPU.

    It formats a stack trace for each kind of device that is not initialised: more
    than a millisecond, several times in each step of a job.
    """
    import torch

    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and, where it is loaded, torch's generators inside the block; afterwards they are as they were."""
    import numpy as np

    with _given_back():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if "torch" in sys.modules:
            seed_torch(seed)
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have the global generators to this thread alone inside the block; afterwards they are as they were.

    What a job computes in its researcher's process is inside of one: jobs in several threads take turns, or one would
    draw the numbers of another; and a job in a notebook does not disturb the notebook's own randomness.
    """
    with _computing.taken(), _given_back():
        yield


@contextmanager
def _given_back() -> Iterator[None]:
    """Set the global generators back to what they were before the block."""
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    try:
        if torch is None:
            yield
        else:
            devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            with torch.random.fork_rng(devices=devices):
                yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, which user code draws from."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    seed_torch(seed)
