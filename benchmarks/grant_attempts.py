"""Attempts to have a node do other than its owner approved: how many were tried of each kind, and refused.

python -m benchmarks.grant_attempts
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.integration.grant_attempts import SAME, Attempt, Desk, attempts


def main() -> None:
    """Make every attempt against one database, and print a line for each kind."""
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for attempt in attempts():
            tried[attempt.kind] += 1
            refused[attempt.kind] += not desk.tried(attempt).allowed
        again = [
            desk.tried(Attempt("same", name, base, change, round=round_, step=step)).allowed
            for name, (base, change, round_, step) in SAME.items()
        ]
        desk.database.close()
    for kind in sorted(tried):
        print(f"{kind:<15}{tried[kind]:>5} tried{refused[kind]:>5} refused")
    print(f"{'all':<15}{sum(tried.values()):>5} tried{sum(refused.values()):>5} refused")
    print(f"the same question: {len(again)} asked again, {sum(again)} ran")
    print(f"{1000 * (time.perf_counter() - began) / (sum(tried.values()) + len(again)):.1f} ms each")


if __name__ == "__main__":
    main()
