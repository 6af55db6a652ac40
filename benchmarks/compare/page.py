"""The page of figures: tables of what was measured, ratios with their spread, and what each side does better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare.machine import Machine
from benchmarks.compare.work import FEDJOB, PEERS, Compared, Pair, Run, Work

TITLES = {peer.name: peer.title for peer in PEERS} | {FEDJOB.name: FEDJOB.title}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a run of which less is better: a column of ratios, and what a sentence calls it."""

    column: str
    words: str
    of: Callable[[Run], float]
    shown: Callable[[float], str]


def seconds(value: float) -> str:
    """Return seconds as a reader wants them."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def megabytes(value: float) -> str:
    """Return megabytes as a reader wants them."""
    return f"{value:.2f} MB" if value < 10 else f"{value:,.0f} MB"


FIGURES = (
    Figure("a round takes", "a round", lambda run: run.round_s, seconds),
    Figure("start and first round", "the start, until the first round has ended", lambda run: run.first_s, seconds),
    Figure("processor time", "processor time of a round", lambda run: run.cpu_s, seconds),
    Figure("memory", "memory", lambda run: run.memory_mb, megabytes),
)  # fmt: skip
BYTES = Figure("bytes", "bytes of a node and round", lambda run: run.down_mb + run.up_mb, megabytes)
QUIET_SHARE = 0.1
"""Of the machine's processors: what else runs is called other work where it takes more of them."""
CLOSE = 0.05
"""Figures that differ by less are called equal."""


def page(compared: Sequence[Compared], machine: Machine) -> str:
    """Return the whole page, in Markdown."""
    parts = [_head(machine), *(section(each) for each in compared), _settings(compared)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(each: Compared) -> str:
    """Return the tables of one work."""
    lines = [f"## {each.work.title}", "", *_circumstances(each), *_table(each)]
    if not each.pairs:
        return "\n".join(lines)
    figures = figures_of(each.work)
    groups = [
        (named(TITLES[name], each.work, form.peer), [pair for pair in pairs if pair.form == form], form)
        for name, pairs in each.pairs.items()
        for form in each.work.forms
    ]
    lines += ["", "How many times as much as fedjob a peer needs, by pairs (below 1: less than fedjob):", ""]
    lines.append("| | " + " | ".join(figure.column for figure in figures) + " | pairs |")
    lines.append("|---" * (len(figures) + 2) + "|")
    for title, pairs, form in groups:
        beside = f"{title}, beside {form.own or 'plain'}" if len(each.work.forms) > 1 else title
        lines.append(ratio_row(beside, pairs, figures))
    better = [better_than_fedjob(title, pairs, figures) for title, pairs, _ in groups]
    if any(pair.ratio is not None for pairs in each.pairs.values() for pair in pairs):
        words = "; ".join(filter(None, better)) or "nothing of what is measured here"
        lines += ["", f"What a peer does better: {words}."]
    else:
        lines += ["", "What a peer does better can't be said: no pair of runs was finished."]
    return "\n".join(lines)


def _circumstances(each: Compared) -> list[str]:
    """Return what else a reader of the tables has to know: other work on the machine, and the note of the work."""
    shares = [run.others for pairs in each.pairs.values() for pair in pairs for run in (pair.peer, pair.own)]
    lines = []
    if shares:
        share = f"{percent(median(shares))} of the machine's processors in the middle run, {percent(max(shares))} in the worst"
        lines = [f"What else ran took {share}.", ""]
        if max(shares) > QUIET_SHARE:
            lines = [
                f"**Other work was running**: it took {share}. Ratios of pairs bear that better than seconds do; neither is a "
                "figure of a quiet machine.",
                "",
            ]
    return lines + ([each.work.note, ""] if each.work.note else [])


def percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * share:.0f} %"


def _table(each: Compared) -> list[str]:
    """Return the figures of all frameworks, one row for each form in which their parameters travel."""
    work = each.work
    heads = ["a round", "start and first round", "processor time", "memory", work.outcome]
    heads += ["to a node, from it", "of plain"] if work.mbit else []
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    own = {form: each.own_runs(form) for form in dict.fromkeys(form.own for form in work.forms)}
    lines += [row(named(FEDJOB.title, work, form), runs, work, own.get("", [])) for form, runs in own.items()]
    for name, pairs in each.pairs.items():
        by_form = {form.peer: [pair.peer for pair in pairs if pair.form == form] for form in work.forms}
        lines += [
            row(named(TITLES[name], work, form), runs, work, by_form.get("", []))
            for form, runs in by_form.items()
        ]
    blank = " |" * (len(heads) - 1)
    lines += [f"| {TITLES[name]} | not measured: {cell(why)} |{blank}" for name, why in each.missing.items()]
    return lines


def figures_of(work: Work) -> tuple[Figure, ...]:
    """Return the figures that peers are compared in: bytes, too, where lines count them."""
    return (*FIGURES, BYTES) if work.mbit else FIGURES


def named(title: str, work: Work, form: str) -> str:
    """Return a framework's name, with the form of its parameters where a work has several."""
    return f"{title}, {form or 'plain'}" if len(work.forms) > 1 else title


def row(title: str, runs: Sequence[Run], work: Work, plain: Sequence[Run]) -> str:
    """Return one framework's figures: the median of its runs, and the range of its rounds."""
    good = [run for run in runs if not run.error]
    failed = [run for run in runs if run.error]
    if not good:
        blank = " |" * (6 if work.mbit else 4)
        if not failed:
            return f"| {title} | not measured |{blank}"
        return f"| {title} | no figures, {len(failed)} of {len(runs)} runs failed: {cell(failed[0].error)} |{blank}"
    rounds = [second for run in good for second in run.seconds]
    note = f" ({len(failed)} of {len(runs)} runs failed: {cell(failed[0].error)})" if failed else ""
    return (
        f"| {title} | {seconds(median(rounds))} ({seconds(min(rounds))} to {seconds(max(rounds))}, n={len(rounds)}){note} "
        f"| {seconds(median(run.first_s for run in good))} | {seconds(median(run.cpu_s for run in good))} "
        f"| {median(run.memory_mb for run in good):,.0f} MB | {median(run.outcome for run in good):.3f} |"
    ) + (bytes_cells(good, plain) if work.mbit else "")


def bytes_cells(good: Sequence[Run], plain: Sequence[Run]) -> str:
    """Return what came to a node and left it in a round, and the share of that without compression."""
    down, up = median(run.down_mb for run in good), median(run.up_mb for run in good)
    whole = [run.down_mb + run.up_mb for run in plain if not run.error]
    share = percent((down + up) / median(whole)) if whole and median(whole) else "not known"
    return f" {megabytes(down)}, {megabytes(up)} | {share} |"


def ratio_row(title: str, pairs: Sequence[Pair], figures: Sequence[Figure]) -> str:
    """Return how many times as much as fedjob a peer needs of each figure, by pairs."""
    good = [pair for pair in pairs if pair.ratio is not None]
    if not good:
        return f"| {title} | no pair |{' |' * (len(figures) - 1)} 0 of {len(pairs)} |"
    cells = [spread([beside(figure, pair) for pair in good]) for figure in figures]
    return f"| {title} | {' | '.join(cells)} | {len(good)} of {len(pairs)} |"


def beside(figure: Figure, pair: Pair) -> float:
    """Return how many times as much as fedjob a peer needs of a figure; not a number where fedjob needs nothing."""
    own = figure.of(pair.own)
    return figure.of(pair.peer) / own if own else math.nan


def spread(ratios: Sequence[float]) -> str:
    """Return the middle of some ratios and, of several, their range."""
    if any(math.isnan(ratio) for ratio in ratios):
        return "not known"
    whole = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"**{median(ratios):.2f}**{whole}"


def better_than_fedjob(title: str, pairs: Iterable[Pair], figures: Sequence[Figure]) -> str:
    """Return a sentence about the figures of which a peer needs less; nothing where there is none."""
    good = [pair for pair in pairs if pair.ratio is not None]
    found = []
    for figure in figures if good else ():
        peer, own = (
            median(map(figure.of, runs)) for runs in zip(*((p.peer, p.own) for p in good), strict=True)
        )
        if peer < own * (1 - CLOSE):
            form = f", {good[0].form.own}," if good[0].form.own else ""
            found.append(f"for {figure.words} ({figure.shown(peer)}, fedjob{form} {figure.shown(own)})")
    return f"{title} needs less {' and '.join(found)}" if found else ""


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

- **A round** is the median of all rounds but the first, with their range and number.
- **Start and first round** begins before the first process is started; it holds the start of servers, nodes and simulations.
- **Processor time** is that of a round. It and **memory**, the most at a time, are of all processes of a framework together; of memory that
  several share each has its part.
- **The parameters' value, the loss or the accuracy** at the end shows that all did the same work. Where frameworks ran different numbers of rounds, it
  differs with these.
- Networks are this machine's loopback, but for slow lines where a table has them.
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
        "without losing it; the settings of the peers here leave these out, but for NVFlare's TLS over slow lines. pfl simulates only. "
        "What torch alone needs no framework that trains by it can go below.",
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
