"""python -m tests.simulator --schedules N --seed S: run many schedules, print each failure as one line."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.simulator.lives import run_life
from tests.simulator.schedule import run_schedule

SCHEDULES_PER_LIFE = 50
"""A life writes to disk, a schedule does not: so many more of these are run."""


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
    if options.only is None:
        failures += run_lives(max(1, options.schedules // SCHEDULES_PER_LIFE), options.seed)
    return 1 if failures else 0


def run_lives(num_lives: int, first: int) -> int:
    """Kill the runners of jobs on disk at every state; return how many lives broke a promise."""
    failures, killed, states = 0, 0, set[str]()
    logging.getLogger("fedjob").setLevel(logging.ERROR)
    for seed in range(first, first + num_lives):
        try:
            life = run_life(seed)
        except Exception as error:
            failures += 1
            print(f"run_life({seed})    # {type(error).__name__}: {error}")
        else:
            killed, states = killed + life.num_killed, states | life.seen
    print(
        f"{num_lives} lives of jobs, {failures} failed; {killed} runners killed while {', '.join(sorted(states))}"
    )
    return failures


if __name__ == "__main__":
    sys.exit(main())
