"""The seeding of the global generators of randomness, which user code draws from."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
    """Seed Python's, numpy's and, where it is loaded, torch's generators inside the block.

    Afterwards they are as they were, so that a local job in a notebook does not
    disturb the notebook's own randomness.
    """
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    try:
        if torch is None:
            yield
        else:
            devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            with torch.random.fork_rng(devices=devices):
                seed_torch(seed)
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
