"""Many patterns of dropouts, repetitions and restarts of secure sums: `python -m tests.simulator.secure_sums`."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from tests.secure_sums import MANY, random_attempts, random_pattern


def main() -> None:
    """Run patterns and print how they ended; the first that fails raises, and names its number."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--patterns", type=int, default=10_000)
    options.add_argument("--first", type=int, default=0, help="number of the first pattern")
    chosen = options.parse_args()
    began = time.monotonic()
    ends = Counter(random_pattern(seed) for seed in range(chosen.first, chosen.first + chosen.patterns))
    print(
        f"{chosen.patterns} patterns of secure sums in {time.monotonic() - began:.0f} s: {ends['sum']} exact sums, "
        f"{ends['nothing']} revealed nothing, 0 wrong sums, 0 single contributions"
    )
    began = time.monotonic()
    many = chosen.patterns // 20  # they take longer still
    ends = Counter(random_pattern(seed, MANY, 0.05) for seed in range(chosen.first, chosen.first + many))
    print(
        f"{many} patterns of {MANY[0]} to {MANY[1]} nodes with few neighbours in {time.monotonic() - began:.0f} s: "
        f"{ends['sum']} exact sums, {ends['nothing']} revealed nothing, 0 wrong sums, 0 single contributions"
    )
    began = time.monotonic()
    several = chosen.patterns // 5  # they take longer
    sums = sum(random_attempts(seed) for seed in range(chosen.first, chosen.first + several))
    print(
        f"{several} patterns of several attempts with noise in {time.monotonic() - began:.0f} s: {sums} sums, 0 "
        "contributions in two of them, 0 with fresh noise"
    )


if __name__ == "__main__":
    main()
