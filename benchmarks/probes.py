"""Probes of a worker, tried and failed: with the node's sandbox and without one, side by side."""

from __future__ import annotations

import argparse
import collections
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.node.sandbox.enclosure import NONE
from tests.sandbox.corpus import PROBES
from tests.sandbox.hospital import Hospital
from tests.sandbox.probe import ALONE, Outcome


def tried(mode: str, chosen: str) -> dict[str, Outcome]:
    """Try the probes on a node with that sandbox."""
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="fedjob-probes-") as folder:
        hospital = Hospital(Path(folder), mode)
        try:
            found = hospital.try_all(p for p in PROBES if not chosen or chosen in (p.kind, p.name))
        finally:
            hospital.close()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(f"{mode}: {time.monotonic() - began:.0f} s, {cpu:.0f} s of processors", file=sys.stderr)
    return found


def print_odd(mode: str, outcomes: dict[str, Outcome], *, verbose: bool) -> None:
    """Print the probes that did harm, or ended their task with another reason than they should."""
    for probe in PROBES:
        outcome = outcomes.get(probe.name)
        if outcome is None:
            continue
        odd = probe.how == ALONE and not probe.kill and outcome.reason not in (probe.ends or ("",))
        marks = [
            *(["HARM"] if outcome.harm else []),
            *([] if outcome.served else ["NOT SERVED"]),
            *(["REASON"] if odd else []),
        ]
        if verbose or not outcome.served or (mode != NONE and marks):
            about = f"{' '.join(marks)} {'; '.join(outcome.harm)} [{outcome.reason}] {outcome.took_s:.1f} s"
            print(f"{mode} {probe.kind}/{probe.name}: {about} {outcome.said[:150]!r}", flush=True)


def main() -> None:
    """Print the probes that did harm, for each mode; then how many were tried and did, by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", default="namespaces,none")
    parser.add_argument("--only", default="", help="a kind, or a part of names")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    modes = given.modes.split(",")
    outcomes = {}
    for mode in modes:
        outcomes[mode] = tried(mode, given.only)
        print_odd(mode, outcomes[mode], verbose=given.verbose)
    kinds = collections.Counter(p.kind for p in PROBES if p.name in outcomes[modes[0]])
    print(f"{'kind':14}{'tried':>7}" + "".join(f"{mode:>14}" for mode in modes) + "   (did harm)")
    for kind, count in kinds.items():
        harmed = [
            sum(bool(outcomes[m][p.name].harm) for p in PROBES if p.kind == kind and p.name in outcomes[m])
            for m in modes
        ]
        print(f"{kind:14}{count:>7}" + "".join(f"{number:>14}" for number in harmed))
    print(
        f"{'all':14}{sum(kinds.values()):>7}"
        + "".join(f"{sum(bool(o.harm) for o in outcomes[m].values()):>14}" for m in modes)
    )


if __name__ == "__main__":
    main()
