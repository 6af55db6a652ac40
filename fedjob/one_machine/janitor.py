"""The janitor of a federation on one machine: `python -m fedjob.one_machine.janitor FOLDER` removes FOLDER in the end.

Whoever starts it holds the other end of its standard input. It is closed with that process, also when that one is
killed with -9 and can remove nothing itself.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from fedjob.common.files import remove_folder

MARK = ".fedjob-sandbox"
"""The file in a folder that shows that it was made to be removed."""

REMOVED_WITHIN_S = 20.0


def remove_sandbox(folder: Path, within_s: float = REMOVED_WITHIN_S) -> bool:
    """Remove the folder of a federation that has ended; return whether it is gone.

    Processes that were killed a moment ago may still write to it, so it is tried again for a while. A folder without
    the mark stays.

    Args:
        within_s: seconds.
    """
    deadline = time.monotonic() + within_s
    while (folder / MARK).is_file():
        remove_folder(folder, marker=MARK)
        if not folder.exists() or time.monotonic() > deadline:
            break
        time.sleep(0.1)
        (folder / MARK).touch()  # it may have gone before what was written in the meantime
    return not folder.exists()


def main() -> None:
    """Wait until standard input is closed, then remove the folder that the first argument names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started it may be interrupted by the same
    sys.stdin.buffer.read()
    remove_sandbox(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
