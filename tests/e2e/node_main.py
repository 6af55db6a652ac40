"""A node's daemon that ends itself with -9 at a named step, once: `node_main HOME STEP MARKER`.

Everything but that one hook is what `fedjob node start` runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fedjob.node.config.home import NodeHome
from fedjob.node.startup import locked, log_to, open_daemon


def main(home: NodeHome, step: str, marker: Path) -> None:
    def crash_at(name: str) -> None:
        if name == step and not marker.exists():
            marker.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    log_to(home)
    with locked(home):
        open_daemon(home, crash_at=crash_at).run()


if __name__ == "__main__":
    main(NodeHome(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
