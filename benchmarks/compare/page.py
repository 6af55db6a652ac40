"""The page of figures: tables of what was measured, ratios with their spread, and what each side does better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.compare.machine import Machine
from benchmarks.compare.work import FEDJOB, PEERS, Compared, Pair, Run

TITLES = {peer.name: peer.title for peer in PEERS} | {FEDJOB.name: FEDJOB.title}
FIGURES: tuple[tuple[str, Callable[[Run], float]], ...] = (
    ("a round", lambda run: run.round_s),
    ("the start, until the first round has ended", lambda run: run.first_s),
    ("processor time of a round", lambda run: run.cpu_s),
    ("memory", lambda run: run.memory_mb),
)
CLOSE = 0.05
"""Figures that differ by less are called equal."""


def page(compared: Sequence[Compared], machine: Machine) -> str:
    """Return the whole page, in Markdown."""
    parts = [_head(machine), *(section(each, machine) for each in compared), _settings(compared)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(each: Compared, machine: Machine) -> str:
    """Return the tables of one work."""
    work = each.work
    lines = [f"## {work.title}", ""]
    if max(each.loads) > machine.quiet_load:
        lines += [
            f"**Other work was running**: the load average was {each.loads[0]:.1f} before and {each.loads[1]:.1f} after, on "
            f"{machine.cores} cores. Ratios of pairs bear that better than seconds do; neither is a figure of a quiet machine.",
            "",
        ]
    else:
        lines += [f"Load average {each.loads[0]:.1f} before and {each.loads[1]:.1f} after.", ""]
    lines += [
        "| | a round | first round, from nothing | processor | memory | came out |",
        "|---|---|---|---|---|---|",
    ]
    lines.append(row(FEDJOB.title, each.own_runs()))
    for name, pairs in each.pairs.items():
        lines.append(row(TITLES[name], [pair.peer for pair in pairs]))
    for name, why in each.missing.items():
        lines.append(f"| {TITLES[name]} | not measured: {cell(why)} | | | | |")
    lines += ["", "| beside fedjob | rounds take | pairs |", "|---|---|---|"]
    lines += [ratio_row(TITLES[name], pairs) for name, pairs in each.pairs.items()]
    better = [
        sentence for name, pairs in each.pairs.items() for sentence in better_than_fedjob(TITLES[name], pairs)
    ]
    if any(pair.ratio is not None for pairs in each.pairs.values() for pair in pairs):
        words = "; ".join(better) or "nothing of what is measured here"
        lines += ["", f"What a peer does better: {words}."]
    else:
        lines += ["", "What a peer does better can't be said: no pair of runs was finished."]
    return "\n".join(lines)


def row(title: str, runs: Sequence[Run]) -> str:
    """Return one framework's figures: the median of its runs, and the range of its rounds."""
    good = [run for run in runs if not run.error]
    failed = [run for run in runs if run.error]
    if not good:
        why = failed[0].error if failed else "no run"
        return f"| {title} | no figures, {len(failed)} of {len(runs)} runs failed: {cell(why)} | | | | |"
    rounds = [second for run in good for second in run.seconds]
    note = f" ({len(failed)} of {len(runs)} runs failed: {cell(failed[0].error)})" if failed else ""
    return (
        f"| {title} | {seconds(median(rounds))} ({seconds(min(rounds))} to {seconds(max(rounds))}, n={len(rounds)}){note} "
        f"| {seconds(median(run.first_s for run in good))} | {seconds(median(run.cpu_s for run in good))} "
        f"| {median(run.memory_mb for run in good):,.0f} MB | {median(run.outcome for run in good):.3f} |"
    )


def ratio_row(title: str, pairs: Sequence[Pair]) -> str:
    """Return how many times as long as fedjob's the rounds of a peer take, by pairs."""
    ratios = [pair.ratio for pair in pairs if pair.ratio is not None]
    if not ratios:
        return f"| {title} | no pair | 0 of {len(pairs)} |"
    return (
        f"| {title} | **{median(ratios):.2f} times as long** ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {len(ratios)} of {len(pairs)} |"
    )


def better_than_fedjob(title: str, pairs: Iterable[Pair]) -> list[str]:
    """Return a sentence for each figure of which a peer needs less."""
    good = [pair for pair in pairs if pair.ratio is not None]
    if not good:
        return []
    found = []
    for what, figure in FIGURES:
        peer, own = median(figure(pair.peer) for pair in good), median(figure(pair.own) for pair in good)
        if peer < own * (1 - CLOSE):
            unit = (lambda value: f"{value:,.0f} MB") if what == "memory" else seconds
            found.append(f"{title} needs less for {what} ({unit(peer)}, fedjob {unit(own)})")
    return found


def seconds(value: float) -> str:
    """Return seconds as a reader wants them."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def cell(text: str) -> str:
    """Return text as it can stand in a table's cell."""
    return " ".join(text.replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")").split())[
        :200
    ]


def _head(machine: Machine) -> str:
    return f"""
# Figures

`make compare` wrote this page: fedjob and other frameworks do the same work in turns, a run of a peer always beside a run of
fedjob. Nothing is left out: a run that failed is shown as failed.

| | |
|---|---|
| taken on | {machine.date}, revision {machine.commit} |
| machine | {machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB of memory, {machine.system}, Python {machine.python} |

A round is the median of all rounds but the first, with their range. "First round, from nothing" begins before the first process
is started and holds the start of servers and nodes. Processor time and memory are of all processes of a framework together; of
memory that several share each has its part. "Came out" is the parameters' value or the model's loss at the end; rounds differ in number.
Every network is this machine's loopback: what a slow line changes is not in these figures.
"""


def _settings(compared: Sequence[Compared]) -> str:
    names = {name for each in compared for name in (*each.pairs, *each.missing)}
    lines = ["## Settings", "", "Each as its documentation recommends for speed on one machine.", ""]
    lines += [
        f"- {peer.title}: {peer.setting}."
        for peer in (FEDJOB, *PEERS)
        if peer is FEDJOB or peer.name in names
    ]
    lines += [
        "",
        "What is not the same: fedjob signs and encrypts every message, isolates what it runs, and can be killed after any round "
        "without losing it; the settings of the peers here leave these out. pfl simulates only.",
        "",
        "To take them anew:",
        "",
        "```console checkout",
        "make compare",
        "```",
        "",
        '`COMPARE="--only flower --rounds 10"` measures one peer or work, `--pairs 5` takes more pairs, `--patience 3` waits three times as long for a run, `--no-page` leaves this page as it '
        "is. The peers are installed below `COMPARE_HOME`.",
    ]
    return "\n".join(lines)
