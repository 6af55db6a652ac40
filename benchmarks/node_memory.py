"""Memory of a node's daemon that has nothing to do: no worker, no fork server.

Reach: 80 MB of resident memory.
"""

from __future__ import annotations

import time

import psutil
from _federation import federation

REACH_MB = 80


def main() -> None:
    with federation(1) as made:
        time.sleep(3.0)
        daemon = psutil.Process(made.nodes[0].pid)
        found = daemon.memory_full_info()
        children = len(daemon.children(recursive=True))
    print(
        f"node daemon, idle, {children} children: {found.rss / 1e6:.1f} MB resident, "
        f"{found.uss / 1e6:.1f} MB of its own (reach {REACH_MB} MB)"
    )


if __name__ == "__main__":
    main()
