from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os
import time
from fedjob.node.sandbox.memory_use import memory_of

gone = 1 << 29  # beyond any number of a process
before = memory_of((os.getpid(), gone))
block = bytearray(b"x") * (64 << 20)
after = memory_of((os.getpid(), gone))
assert after[os.getpid()] - before[os.getpid()] > len(block) // 2, (before, after)
assert (before[gone], after[gone]) == (0, 0)
assert memory_of(()) == {}
mine = os.getpid()
exact = memory_of((mine,), over=len(block) // 2)[mine]  # before the bound: what the process does itself may grow it
at_most = memory_of((mine, gone), over=1 << 40)
assert after[mine] <= at_most[mine] < 1 << 40, "an upper bound where that is enough"
assert exact <= at_most[mine], "exact where it may be over"
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
assert memory_of((mine,), over=1 << 40)[mine] > 1.9 * len(block), "the bound counts what is shared twice"
assert memory_of((mine,), over=len(block) * 3 // 2)[mine] < 1.5 * len(block), "which what is held does not"
os.kill(child, 9)
os.waitpid(child, 0)
"""


def test_a_process_holds_what_it_allocated_and_one_that_is_gone_nothing() -> None:
    # In a process of its own: one that ran other tests gives their memory back in between.
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
