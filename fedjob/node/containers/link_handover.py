"""A command around docker's: it gives the worker in the container its link, which docker cannot pass on.

Run as `python -P -m fedjob.node.containers.link_handover FOLDER COMMAND...` with the link as descriptor 3: it listens in
FOLDER, which the container shows to the worker, gives the link to whoever comes first, and ends with the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from fedjob.node.containers.container import MEETING_NAME
from fedjob.node.execution.fork_server import LINK_NUMBER
from fedjob.node.execution.link import hand_link

MEET_WITHIN_S = 120.0
"""For a container to start in."""


def main(arguments: list[str]) -> None:
    """Start the command, hand the link over, and wait for the command's end."""
    folder, *words = arguments
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.set_inheritable(LINK_NUMBER, False)
    running = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    until = time.monotonic() + MEET_WITHIN_S
    hand_link(
        os.path.join(folder, MEETING_NAME),
        LINK_NUMBER,
        lambda: running.poll() is None and time.monotonic() < until,
    )
    os.close(LINK_NUMBER)
    running.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
