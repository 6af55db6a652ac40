"""The pictures of concepts, docs/*.svg, drawn from tables and computations of the code.

The life of a job and of a task come from the table in `fedjob/common/lifecycle.py`, the messages of a federation from
`fedjob/messaging/messages.py`, the numbers of the secure sum from the masks that nodes add, splits and totals from the
classes that compute them. Only words, colours and
places stand here. The same code gives the same bytes. `make map` draws them; a test fails when a picture is old.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch

from docs.architecture import DARK, LIGHT, MONO, SANS
from fedjob import IID, Dirichlet, GeometricMedian, Krum, Median, Shards, TrimmedMean, WeightedMean
from fedjob.aggregation.contribution import Contribution
from fedjob.common.lifecycle import HISTORY, PENDING, TABLE, State
from fedjob.messaging import messages
from fedjob.privacy.secagg.mask_stream import MaskStream
from fedjob.researcher.simulation.splits import Split

DOCS = Path(__file__).parent
COLOURS = ("roles", "learning", "data", "wire", "ground")


# ---------------------------------------------------------------- pieces


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a drawing with the colours of the architecture's picture, light and dark."""
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{SANS}" font-size="14">\n'
        f"  <title>{escape(title)}</title>\n{_style()}\n"
        f'  <rect width="{width}" height="{height}" class="paper"/>\n{body}\n</svg>\n'
    )


def _style() -> str:
    def rules(of: dict[str, str]) -> str:
        found = [f".{name}{{fill:{of[name]}}}" for name in ("paper", "ink", "soft", "bad")]
        for name in COLOURS:
            found.append(f".{name}{{fill:{of[name]}}}.{name}-b{{fill:{of[name + '-t']};stroke:{of[name]}}}")
            found.append(f".{name}-l{{stroke:{of[name]}}}")
        found.append(f".card{{fill:{of['card']};stroke:{of['edge']}}}.rule{{stroke:{of['edge']}}}")
        return "".join(found)

    fixed = f".mono{{font-family:{MONO}}}.b{{font-weight:600}}.s{{font-size:12.5px}}.m{{text-anchor:middle}}.e{{text-anchor:end}}"
    fixed += "path:not(.tip){fill:none;stroke-width:1.6}rect{stroke-width:1.2}"
    dark = f"@media (prefers-color-scheme:dark){{{rules(DARK)}}}"
    return f"  <style>{fixed}{rules(LIGHT)}{dark}</style>"


def text(x: float, y: float, words: str, kind: str = "ink") -> str:
    """Return words at a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a box with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" class="{kind}"/>'


def line(path: str, colour: str) -> str:
    """Return a line of one colour."""
    return f'<path d="{path}" class="{colour}-l"/>'


def head(x: float, y: float, towards: str, colour: str) -> str:
    """Return the head of an arrow, whose point is at this place."""
    by = {"right": "l-9 -5v10z", "left": "l9 -5v10z", "down": "l-5 -9h10z", "up": "l-5 9h10z"}[towards]
    return f'<path d="M{x:g} {y:g}{by}" class="{colour} tip"/>'


# ---------------------------------------------------------------- the life of a job and of a task

JOB_WORDS = {
    State.DRAFT: "defined, nothing sent",
    State.WAITING: "for owners to decide",
    State.QUEUED: "for nodes, workers",
    State.STARTING: "nodes are set up",
    State.RUNNING: "round after round",
    State.STOPPING: "told to end",
    State.COMPLETED: "the result is stored",
    State.FAILED: "code raised, or the quorum was lost",
    State.KILLED: "ended while it ran",
    State.LOST: "the process that ran it is gone",
    State.REJECTED: "an owner that it needs refused",
    State.CANCELLED: "ended before it ran",
    State.UNSCHEDULABLE: "it could not be started",
}
TASK_WORDS = JOB_WORDS | {
    State.WAITING: "for a decision",
    State.QUEUED: "for a worker",
    State.STARTING: "inputs are fetched",
    State.RUNNING: "a worker computes",
    State.COMPLETED: "the answer is kept and sent",
    State.FAILED: "code raised, or a limit was passed",
    State.LOST: "the node lost the work",
    State.REJECTED: "the owner refused",
}
NOT_OF_TASKS = {State.DRAFT, State.UNSCHEDULABLE}
COLUMN, BOX, HEIGHT, LEFT, TOP, ROW = 158, 132, 50, 24, 96, 36


def life(title: str, words: dict[State, str], left_out: set[State], restart_words: str) -> str:
    """Return the table of states as a drawing: the way along the top, and below it how each state can end."""
    way = [state for state in State if state not in HISTORY | left_out]
    ends = [state for state in State if state in HISTORY - left_out]
    width = LEFT + COLUMN * len(way) + 350
    first = TOP + HEIGHT + 64
    restart = first + ROW * len(ends) + 6
    parts = [
        text(LEFT, 40, title, "ink b"),
        text(LEFT, 62, "Along the top: the way of what goes well. A dot: it can end so from here.", "soft s"),
    ]
    for number, state in enumerate(way):
        x = LEFT + COLUMN * number
        colour = "learning" if state in PENDING else "roles" if state != State.DRAFT else "ground"
        parts += [
            box(x, TOP, BOX, HEIGHT, f"{colour}-b"),
            text(x + BOX / 2, TOP + 21, state, "ink b m"),
            text(x + BOX / 2, TOP + 39, words[state], "soft s m"),
        ]
        parts += _steps(way, number)
    for number, state in enumerate(ends):
        y = first + ROW * number
        colour = "data" if state == State.COMPLETED else "ground"
        sources = [x for x, source in enumerate(way) if state in TABLE[source]]
        right = LEFT + COLUMN * len(way)
        begin = LEFT + COLUMN * sources[0] + BOX / 2
        parts += [line(f"M{begin:g} {y}H{right}", colour), head(right + 8, y, "right", colour)]
        parts += [
            f'<circle cx="{LEFT + COLUMN * x + BOX / 2:g}" cy="{y}" r="5" class="{colour}"/>' for x in sources
        ]
        parts += [text(right + 16, y + 5, state, "ink b"), text(right + 132, y + 5, words[state], "soft s")]
    for number, source in enumerate(way):
        below = [y for y, state in enumerate(ends) if state in TABLE[source]]
        if below:
            x = LEFT + COLUMN * number + BOX / 2
            parts.insert(2, f'<path d="M{x:g} {TOP + HEIGHT}V{first + ROW * below[-1]}" class="rule"/>')
    if all(State.WAITING in TABLE[state] for state in ends):
        x = LEFT + COLUMN * way.index(State.WAITING) + 18
        parts += [
            f'<path d="M{LEFT + COLUMN * len(way) + 16} {restart}H{x}V{TOP + HEIGHT + 2}" class="wire-l" stroke-dasharray="5 4"/>',
            head(x, TOP + HEIGHT + 1, "up", "wire"),
            text(x + 12, restart - 7, restart_words, "wire s"),
        ]
    return svg(width, restart + 24, title, parts)


def _steps(way: list[State], number: int) -> list[str]:
    """Return the arrows from one state on the way to others on it."""
    parts = []
    x = LEFT + COLUMN * number
    for other, state in enumerate(way):
        if state not in TABLE[way[number]]:
            continue
        there = LEFT + COLUMN * other
        if other == number + 1:
            parts += [
                line(f"M{x + BOX} {TOP + 20}H{there - 3}", "roles"),
                head(there, TOP + 20, "right", "roles"),
            ]
        elif other == number - 1:
            parts += [
                line(f"M{x} {TOP + 36}H{there + BOX + 3}", "wire"),
                head(there + BOX, TOP + 36, "left", "wire"),
            ]
        else:
            lift = TOP - 16
            parts += [
                line(f"M{x + BOX - 20} {TOP}V{lift}H{there + 20}V{TOP - 3}", "roles"),
                head(there + 20, TOP, "down", "roles"),
            ]
    return parts


# ---------------------------------------------------------------- the secure sum

PATIENTS = {"north": 212, "south": 120, "west": 97}


def secure_sum() -> str:
    """Return three nodes' numbers, what leaves each, and their sum, with masks of the code."""
    names = list(PATIENTS)
    numbers = {name: np.array([count], dtype=np.uint32) for name, count in PATIENTS.items()}
    added: dict[str, list[str]] = {name: [] for name in names}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            seed = hashlib.sha256(f"{one} and {other}".encode()).digest()
            for name, sign, partner in ((one, 1, other), (other, -1, one)):
                before = numbers[name].copy()
                MaskStream(seed, sign).apply(numbers[name])
                mask = int((numbers[name] - before)[0] if sign > 0 else (before - numbers[name])[0])
                added[name].append(f"{'+' if sign > 0 else '−'} {mask:,}  with {partner}")
    total = sum(numbers.values())
    assert int(total[0]) == sum(PATIENTS.values())
    parts = [
        text(24, 40, "A secure sum: how many patients do three nodes have together?", "ink b"),
        text(
            24,
            62,
            "Each pair of nodes agrees on a mask that one adds and the other takes away. All numbers are modulo 2³².",
            "soft s",
        ),
    ]
    for row, name in enumerate(names):
        y = 86 + 104 * row
        parts += [
            box(24, y, 400, 88, "data-b"),
            text(42, y + 28, name, "ink b"),
            text(42, y + 56, "stays at the node", "soft s"),
            text(402, y + 26, f"{PATIENTS[name]:,}", "ink mono b e"),
            *(text(402, y + 50 + 22 * n, words, "soft mono s e") for n, words in enumerate(added[name])),
            line(f"M424 {y + 44}H540", "wire"),
            head(548, y + 44, "right", "wire"),
            text(484, y + 36, "leaves", "wire s m"),
            box(550, y + 20, 170, 48, "wire-b"),
            text(702, y + 50, f"{int(numbers[name][0]):,}", "ink mono b e"),
            line(f"M720 {y + 44}H760V236H786", "roles"),
        ]
    parts += [
        head(794, 236, "right", "roles"),
        box(796, 176, 220, 118, "roles-b"),
        text(906, 204, "researcher", "ink b m"),
        text(906, 232, "adds them: the masks cancel", "soft s m"),
        text(906, 268, f"{int(total[0]):,}", "ink mono b m"),
        text(
            24,
            420,
            "What leaves a node looks like any other number. In a job each node adds one more mask, its own, which the others help to take",
            "soft s",
        ),
        text(
            24,
            438,
            "away when it is settled whose numbers are in the sum: so the sum is found although a node is lost on the way.",
            "soft s",
        ),
    ]
    return svg(1040, 456, "A secure sum of three nodes, with the masks of the code", parts)


# ---------------------------------------------------------------- the federation

SENT_BY = {"researcher": ("ping", "search", "offer", "task", "end"), "node": ("reply", "event")}
MESSAGE_WORDS = {
    "ping": "are you there",
    "search": "which datasets do you offer",
    "offer": "may this plan run",
    "task": "compute this",
    "end": "the job is over",
    "reply": "an answer, by name and hash of its file",
    "event": "how far the work is",
    "receipt": "it is kept on my disk",
}


def federation() -> str:
    """Return who connects to whom, with the kinds of messages that the code has.

    Raises:
        ValueError: the code has a kind of message that the picture has no words for.
    """
    kinds = {body.kind for body in vars(messages).values() if isinstance(getattr(body, "kind", None), str)}
    if kinds != set(MESSAGE_WORDS):
        raise ValueError(
            f"the picture of the federation has words for {sorted(MESSAGE_WORDS)}, the code sends {sorted(kinds)}"
        )
    parts = [
        text(24, 40, "A federation", "ink b"),
        text(
            24,
            62,
            "Researchers and nodes connect outwards, to the hub and to nobody else. One port is enough.",
            "soft s",
        ),
        box(24, 92, 240, 330, "roles-b"),
        text(144, 122, "researcher", "ink b m"),
        text(144, 144, "defines jobs, adds up answers", "soft s m"),
        box(420, 92, 240, 330, "wire-b"),
        text(540, 122, "hub", "ink b m"),
        text(540, 144, "computes nothing, holds no data", "soft s m"),
        box(440, 168, 200, 96, "card"),
        text(540, 196, "broker", "ink b m"),
        text(540, 218, "MQTT: small messages,", "soft s m"),
        text(540, 236, "signed by their sender", "soft s m"),
        box(440, 296, 200, 96, "card"),
        text(540, 324, "file repository", "ink b m"),
        text(540, 346, "HTTP: models and results,", "soft s m"),
        text(540, 364, "named by their sha256", "soft s m"),
    ]
    for row, name in enumerate(("north", "south", "west")):
        y = 92 + 114 * row
        parts += [
            box(816, y, 240, 102, "data-b"),
            text(936, y + 28, f"node {name}", "ink b m"),
            text(936, y + 50, "the owner approves each plan", "soft s m"),
            text(936, y + 80, "data: never leave", "data b m"),
            line(f"M816 {y + 51}H668", "wire"),
            head(660, y + 51, "left", "wire"),
            text(738, y + 43, "connects", "wire s m"),
        ]
    parts += [
        box(44, 168, 200, 96, "card"),
        text(144, 196, "job", "ink b m"),
        text(144, 218, "which plan, on whose data,", "soft s m"),
        text(144, 236, "how many rounds", "soft s m"),
        box(44, 296, 200, 96, "card"),
        text(144, 324, "result", "ink b m"),
        text(144, 346, "a model, a table, and", "soft s m"),
        text(144, 364, "who took part in it", "soft s m"),
        line("M264 257H412", "wire"),
        head(420, 257, "right", "wire"),
        text(342, 249, "connects", "wire s m"),
        text(24, 456, "The messages of a researcher", "ink b"),
        text(560, 456, "The messages of a node", "ink b"),
    ]
    for x, party in ((24, "researcher"), (560, "node")):
        kinds_of = (*SENT_BY[party], "receipt")
        for row, kind in enumerate(kinds_of):
            y = 482 + 22 * row
            parts += [text(x, y, kind, "ink mono s"), text(x + 84, y, MESSAGE_WORDS[kind], "soft s")]
    return svg(1080, 620, "A federation: researcher, hub and nodes, and the messages between them", parts)


# ---------------------------------------------------------------- splits of a simulation

LABEL_COLOURS = ("roles", "learning", "data", "wire", "ground")
NUM_ROWS, NUM_NODES = 2000, 12


@dataclass(frozen=True)
class Labelled:
    """Rows with one of five labels each, as a split sees them."""

    targets: np.ndarray
    num_rows: int = NUM_ROWS

    def labels(self, column: str | None) -> np.ndarray:
        return self.targets


def splits() -> str:
    """Return what the same rows look like at twelve nodes under four splits."""
    source = Labelled(np.random.default_rng(0).integers(0, len(LABEL_COLOURS), size=NUM_ROWS))
    shown: list[tuple[str, Split]] = [
        ("IID()", IID()),
        ("Dirichlet(alpha=1)", Dirichlet(alpha=1.0)),
        ("Dirichlet(alpha=0.1)", Dirichlet(alpha=0.1)),
        ("Shards(per_node=2)", Shards(per_node=2)),
    ]
    parts = [
        text(24, 40, f"{NUM_ROWS:,} rows with five labels, divided among {NUM_NODES} nodes", "ink b"),
        text(24, 62, "A bar is a node, as high as it has rows; a colour is a label.", "soft s"),
    ]
    for number, (name, split) in enumerate(shown):
        left = 24 + 258 * number
        parts.append(text(left, 96, name, "ink mono s b"))
        for node, rows in enumerate(split.divide(source, NUM_NODES, np.random.default_rng(1))):
            counts = np.bincount(source.targets[rows], minlength=len(LABEL_COLOURS))
            bottom = 320.0
            for label, count in enumerate(counts.tolist()):
                height = round(count * 0.42, 1)
                bottom = round(bottom - height, 1)
                parts.append(
                    f'<rect x="{left + 19 * node}" y="{bottom:g}" width="15" height="{height:g}" '
                    f'class="{LABEL_COLOURS[label]}"/>'
                )
        parts.append(f'<path d="M{left} 320.5H{left + 19 * NUM_NODES}" class="rule"/>')
    return svg(1056, 340, "Splits of a simulation: the same rows at twelve nodes", parts)


# ---------------------------------------------------------------- aggregators and nodes that lie


def aggregators() -> str:
    """Return where each aggregator ends when two of nine nodes send something far off."""
    honest = np.random.default_rng(5).normal((1.0, 1.0), 0.45, size=(7, 2))
    points = np.concatenate([honest, [[5.2, -1.9], [4.6, -2.3]]])
    sent = [Contribution({"w": torch.tensor(point)}, 1.0) for point in points]
    rules = [WeightedMean(), TrimmedMean(num_trimmed=2), Median(), GeometricMedian(), Krum(num_byzantine=2)]

    def at(point: np.ndarray) -> tuple[float, float]:
        return round(60 + 108 * float(point[0] + 0.2), 1), round(400 - 66 * float(point[1] + 2.6), 1)

    parts = [
        text(24, 40, "Nine nodes send an update of two numbers; two of them lie", "ink b"),
        text(24, 62, "Computed by the aggregators of fedjob from the same nine updates.", "soft s"),
        box(24, 84, 680, 336, "card"),
    ]
    for number, point in enumerate(points):
        x, y = at(point)
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" class="{"data-b" if number < 7 else "bad"}"/>')
    parts += [
        '<circle cx="740" cy="112" r="7" class="data-b"/>',
        text(756, 117, "an honest node", "soft s"),
        '<circle cx="740" cy="138" r="7" class="bad"/>',
        text(756, 143, "a node that lies", "soft s"),
        text(734, 186, "the total", "ink b"),
        text(1012, 186, "off by", "ink b e"),
    ]
    middle = honest.mean(axis=0)
    for number, rule in enumerate(rules):
        total = np.asarray(rule.aggregate(sent).value["w"], dtype=np.float64)
        x, y = at(total)
        colour = "learning" if number == 0 else "roles"
        row = 216 + 30 * number
        parts += [
            f'<path d="M{x - 6:g} {y - 6:g}l12 12m0 -12l-12 12" class="{colour}-l"/>',
            text(740, row, f"× {type(rule).__name__}", f"{colour} mono s"),
            text(1012, row, f"{float(np.linalg.norm(total - middle)):.2f}", "ink mono s e"),
        ]
        if number == 0:
            parts.append(text(x + 12, y + 5, "WeightedMean", "learning mono s"))
    parts += [
        text(734, 392, "Off by: the distance to the mean", "soft s"),
        text(734, 410, "of the seven honest nodes.", "soft s"),
    ]
    return svg(1040, 440, "Aggregators: where the total ends when two of nine nodes lie", parts)


PICTURES: dict[str, Callable[[], str]] = {
    "job_life.svg": lambda: life(
        "The life of a job", JOB_WORDS, set(), "restart: any that has ended, the same id, the next attempt"
    ),
    "task_life.svg": lambda: life(
        "The life of a task at a node",
        TASK_WORDS,
        NOT_OF_TASKS,
        "asked again, by the next attempt of the job",
    ),
    "secure_sum.svg": secure_sum,
    "splits.svg": splits,
    "aggregators.svg": aggregators,
    "federation.svg": federation,
}


def main() -> None:
    """Draw every picture."""
    for name, draw in PICTURES.items():
        (DOCS / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
