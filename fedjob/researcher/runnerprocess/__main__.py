"""The process itself; its arguments are the job's folder and the descriptor of the job's lock."""

from __future__ import annotations

import sys

from fedjob.researcher.runnerprocess import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
