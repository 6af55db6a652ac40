"""python -m tests.simulator --schedules N --seed S: run many schedules, print each failure as one line."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulator.schedule import run_schedule


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000, help="how many (default 100000)")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--only", type=int, help="run this seed alone")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.schedules)
    if options.only is not None:
        seeds = range(options.only, options.only + 1)
    began, failures = time.perf_counter(), 0
    for seed in seeds:
        try:
            report = run_schedule(seed)
        except Exception as error:
            failures += 1
            print(f"python -m tests.simulator --only {seed}    # {type(error).__name__}: {error}")
            if options.only is not None:
                raise
        else:
            if options.only is not None:
                print(report)
    spent = time.perf_counter() - began
    print(f"{len(seeds)} schedules, {failures} failed, {len(seeds) / spent:.0f} a second")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
