"""`python -m fedjob.node`: the same as `fedjob node`."""

from __future__ import annotations

import sys

from fedjob.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "node")
    main()
