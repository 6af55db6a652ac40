"""Files that are synced together in a process that was forked from one with threads."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from fedjob.common.files import fsync_together


def test_a_process_that_was_forked_syncs_files_together_too(tmp_path: Path) -> None:
    files = [tmp_path / str(k) for k in range(3)]
    for file in files:
        file.touch()
    fsync_together(files)
    child = os.fork()
    if child == 0:  # none of the threads that waited for the disk are here
        try:
            fsync_together(files)
        finally:
            os._exit(0)
    ends = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ends:
        time.sleep(0.001)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
