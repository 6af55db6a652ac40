from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os
from fedjob.node.sandbox.memory_use import memory_of

gone = 1 << 29  # beyond any number of a process
before = memory_of((os.getpid(), gone))
block = bytearray(b"x") * (64 << 20)
after = memory_of((os.getpid(), gone))
assert after[os.getpid()] - before[os.getpid()] > len(block) // 2, (before, after)
assert (before[gone], after[gone]) == (0, 0)
assert memory_of(()) == {}
"""


def test_a_process_holds_what_it_allocated_and_one_that_is_gone_nothing() -> None:
    # In a process of its own: one that ran other tests gives their memory back in between.
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
