"""The processes that do one work together: this script once for each worker, by its rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from children import free_ports

RANK = "COMPARE_RANK"
ADDRESSES = "COMPARE_ADDRESSES"

Rounds = Callable[[dict[str, Any]], dict[str, Any]]


def main(rounds: Rounds) -> None:
    """Run the work that the first argument has as JSON, in so many processes, and print what the first found as JSON."""
    work = json.loads(sys.argv[1])
    workers = work["workers"]
    if workers == 1 or RANK in os.environ:
        found = rounds(work)
        if os.environ.get(RANK, "0") == "0":
            print(json.dumps(found))
        return
    addresses = ",".join(f"localhost:{port}" for port in free_ports(workers))
    started = []
    try:
        for rank in range(workers):
            place = {ADDRESSES: addresses, RANK: str(rank)}
            started.append(subprocess.Popen([sys.executable, *sys.argv], env=os.environ | place))
        codes = [each.wait() for each in started]
    finally:
        for each in started:
            each.kill()
    if any(codes):
        sys.exit(f"the workers ended with {codes}")
