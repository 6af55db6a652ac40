"""fedjob beside other frameworks: the same work in turns, ratios with their spread, and `docs/figures.md`.

python -m benchmarks.compare                                  every work and peer; about half an hour on a quiet machine
python -m benchmarks.compare --only flower --rounds 10
python -m benchmarks.compare --only simulation --only pfl --pairs 5 --no-page
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.compare.environments import home, python_of
from benchmarks.compare.machine import ROOT, this_machine
from benchmarks.compare.measured import measure
from benchmarks.compare.page import named, page, percent, seconds, section
from benchmarks.compare.work import FEDJOB, PEERS, WORKS, Compared, Form, Pair, Peer, Run, Work, orders
from benchmarks.simulation import write_images

SCRIPTS = Path(__file__).resolve().parent / "peers"
PAGE = ROOT / "docs" / "figures.md"


class Session:
    """What is installed, where the data are, and until when runs may begin."""

    def __init__(self, folder: Path, minutes: float, cores: int) -> None:
        self._folder = folder
        self._until = time.monotonic() + minutes * 60
        self._cores = cores
        self._pythons: dict[str, Path] = {FEDJOB.name: Path(sys.executable)}

    def install(self, peers: Sequence[Peer]) -> dict[str, str]:
        """Install the peers; return why, by name, where one can't be."""
        failed: dict[str, str] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        for peer in peers:
            print(f"{peer.title}: installing into {self._folder / peer.place} ...", flush=True)
            try:
                self._pythons[peer.name] = python_of(peer, self._folder)
            except (OSError, RuntimeError) as error:
                failed[peer.name] = f"it could not be installed: {error}"
                print(f"  {failed[peer.name]}", flush=True)
        return failed

    def data_of(self, work: Work) -> Path:
        """Return the folder of what a work trains on: images for so many nodes, or digits."""
        return self._folder / "data" / (f"images-{work.nodes}" if work.images else "digits")

    def write_data(self, work: Work) -> None:
        """Write what a work trains on, where it is not written yet."""
        data = self.data_of(work)
        data.mkdir(parents=True, exist_ok=True)
        if work.images and not (data / "targets.npy").exists():
            write_images(data, work.nodes)
        if work.mbit and not (data / "digits-targets.npy").exists():
            from benchmarks.compression import digits  # which imports all of fedjob

            inputs, labels = digits()
            np.save(data / "digits-inputs.npy", inputs)
            np.save(data / "digits-targets.npy", labels)

    def run(self, peer: Peer, work: Work, form: Form) -> Run:
        """Run one work by one framework, and print what was measured."""
        if time.monotonic() > self._until:
            return Run(error="not run: the time that --minutes gives was over")
        found = measure(
            self._pythons[peer.name],
            SCRIPTS / peer.script,
            orders(work, peer, form, data=str(self.data_of(work)), cores=self._cores),
            deadline_s=work.deadline_s,
        )
        shown = (
            found.error
            or f"round {seconds(found.round_s)}, first {seconds(found.first_s)}, {found.memory_mb:.0f} MB"
        )
        print(
            f"  {named(peer.title, work, form.own if peer is FEDJOB else form.peer)}: {shown}, others {percent(found.others)}",
            flush=True,
        )
        return found


def main() -> None:
    """Compare what was asked for."""
    args = arguments(sys.argv[1:])
    works, peers = chosen(args.only)
    if not works:
        sys.exit(f"--only {' '.join(args.only)}: no peer that is named does a work that is named")
    signal.signal(signal.SIGTERM, _leave)
    machine = this_machine(datetime.now(UTC).strftime("%Y-%m-%d"))
    session = Session(home(), args.minutes, machine.cores)
    failed = session.install(peers)
    compared = []
    for work in works:
        work = dataclasses.replace(
            work,
            rounds=args.rounds or work.rounds,
            own_rounds=args.rounds or work.own_rounds,
            deadline_s=work.deadline_s * args.patience,
        )
        print(f"{work.title}", flush=True)
        session.write_data(work)
        compared.append(
            compare(session, work, [peer for peer in peers if peer.name in work.peers], failed, args.pairs)
        )
        print(section(compared[-1]), flush=True)
        if not args.no_page:
            # After each work: whoever ends it in the middle keeps what was measured, and the page says what was not.
            later = [not_yet(each, peers) for each in works[len(compared) :]]
            PAGE.write_text(page([*compared, *later], machine), encoding="utf-8")
            print(f"written: {PAGE.relative_to(ROOT)}", flush=True)


def compare(
    session: Session, work: Work, peers: Sequence[Peer], failed: dict[str, str], count: int
) -> Compared:
    """Run so many pairs of each peer with fedjob, in turns."""
    able = [peer for peer in peers if peer.name not in failed]
    pairs: dict[str, list[Pair]] = {peer.name: [] for peer in able}
    for (peer, own_first), form in product(turns(able, count), work.forms):
        first = session.run(FEDJOB if own_first else peer, work, form)
        second = session.run(peer if own_first else FEDJOB, work, form)
        found = (second, first) if own_first else (first, second)
        pairs[peer.name].append(Pair(*found, form))
    missing = {peer.name: failed[peer.name] for peer in peers if peer.name in failed}
    return Compared(work, pairs, missing)


def not_yet(work: Work, peers: Sequence[Peer]) -> Compared:
    """Return what the page has of a work whose turn has not come."""
    missing = {peer.name: "its turn had not come" for peer in peers if peer.name in work.peers}
    return Compared(work, {}, missing)


def turns(peers: Sequence[Peer], count: int) -> Iterator[tuple[Peer, bool]]:
    """Yield whose turn it is, and whether fedjob runs first: so as often as second, or once more."""
    for number in range(count):
        for peer in peers:
            yield peer, number % 2 == 0


def chosen(only: Sequence[str]) -> tuple[list[Work], list[Peer]]:
    """Return the works and peers that were named; of a kind of which none was named, all that fit."""
    works = [work for work in WORKS if work.name in only] or list(WORKS)
    peers = [peer for peer in PEERS if peer.name in only] or list(PEERS)
    works = [work for work in works if any(peer.name in work.peers for peer in peers)]
    return works, [peer for peer in peers if any(peer.name in work.peers for work in works)]


def _leave(*_: object) -> None:
    """End as Ctrl-C does: what was started is ended on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read what was typed."""
    parser = argparse.ArgumentParser(
        prog="make compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [work.name for work in WORKS] + [peer.name for peer in PEERS]
    parser.add_argument(
        "--only", action="append", default=[], choices=names, help="a work or a peer; several times for more"
    )
    parser.add_argument("--rounds", type=_rounds, help="of each run, the first of which is not counted")
    parser.add_argument("--pairs", type=_positive, default=2, help="runs of each peer beside one of fedjob")
    parser.add_argument("--minutes", type=_factor, default=40.0, help="after these no run begins any more")
    parser.add_argument(
        "--no-page", action="store_true", help="print only, and leave docs/figures.md as it is"
    )
    parser.add_argument(
        "--patience",
        type=_factor,
        default=1.0,
        help="this many times the deadline of each run, on a busy machine",
    )
    return parser.parse_args(words)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _factor(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _rounds(text: str) -> int:
    if (value := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"{text} is less than 2: the first round is not counted")
    return value


if __name__ == "__main__":
    main()
