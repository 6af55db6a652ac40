"""A node's daemon that ends itself with -9 at a named step of a named job's task: `node_main HOME ARMED MARKER`.

It does so when the file ARMED says `STEP JOB` and the node has accepted a task of that job; the file is then
moved to MARKER. Everything but that one hook is what `fedjob node start` runs.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from fedjob.node.config.home import NodeHome
from fedjob.node.config.home_lock import locked
from fedjob.node.daemon.settings import Settings
from fedjob.node.startup import log_to, open_daemon


def main(home: NodeHome, armed: Path, marker: Path) -> None:
    def has_task(job: str) -> bool:
        with closing(sqlite3.connect(home.database)) as database:
            return database.execute("SELECT 1 FROM tasks WHERE job = ?", (job,)).fetchone() is not None

    def crash_at(name: str) -> None:
        if not armed.exists():
            return
        step, job = armed.read_text().split()
        if name == step and has_task(job):  # and not because of the task of an earlier job
            armed.rename(marker)
            os.kill(os.getpid(), signal.SIGKILL)

    log_to(home, Settings(home)().config)
    with locked(home):
        open_daemon(home, crash_at=crash_at).run()


if __name__ == "__main__":
    main(NodeHome(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
