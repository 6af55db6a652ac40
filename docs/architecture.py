"""The picture of the architecture, docs/architecture.svg, drawn from the code.

The floors come from the `layers` contracts in .importlinter, which `make check` enforces. Rooms, numbers of files
and imports are read from the syntax trees of the package, imports inside functions and under `TYPE_CHECKING`
included. Only the words, the colours and the widths of the rooms stand in this file. The same tree gives the same
bytes. `make map` draws; `python docs/architecture.py --check` only says whether the picture is up to date.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = "fedjob"
DOOR = "fedjob"  # the room of fedjob/__init__.py, above all floors of the contract
UNDRAWN = {"_version"}  # a constant, not a room
INNER_UNDRAWN = {"__main__"}

# What a room is for. A room that is not named here is described by the first line of its docstring.
DESCRIPTIONS = {
    "fedjob": "what users import: Job, FedAvg, TorchPlan ...",
    "cli": "every command of fedjob",
    "demo": "a federation on one machine, in a minute",
    "researcher": "defines jobs, orchestrates rounds, keeps results",
    "node": "keeps data, asks its owner, runs tasks",
    "hub": "broker and repository of a federation",
    "doctor": "check-ups: machine, way, hub",
    "testing": "contract suites for components of yours",
    "execution": "one node's share of one ask, in whatever process it runs: order in, result out",
    "protocols": "both halves of every federated computation, one file each",
    "training_plans": "what users write, how it becomes text, and how a node drives it",
    "data": "datasets: readers by name, loading, declared preprocessing",
    "aggregation": "aggregators: contributions in, one total out",
    "optimizers": "server optimizers by name",
    "privacy": "what may be released about few rows",
    "messaging": "certain delivery of small facts over an unreliable broker",
    "metrics": "metrics as counts that add",
    "parameters": "named tensors and their files",
    "repository": "immutable bytes named by their sha256",
    "identity": "keys, parties, logins",
    "common": "the foundation: words, codecs, errors, files; it imports nothing of fedjob",
}

INNER_DESCRIPTIONS = {
    "researcher.cli": "commands: fedjob job, init, nodes, data, doctor",
    "researcher.jobs": "the handles that users hold: Job, Session, followed jobs",
    "researcher.runner": "one attempt at a job: opened, run, closed",
    "researcher.definition": "from what a researcher writes to a fixed spec",
    "researcher.rounds": "the loop, one round",
    "researcher.results": "what a job leaves",
    "researcher.hooks": "at the end of a round",
    "researcher.federation": "the nodes asked: remote or local",
    "researcher.monitoring": "what can be seen of a job",
    "researcher.connection": "a connection to a federation",
    "researcher.selection": "who takes part in a round",
    "researcher.storage": "a job on disk: spec, record, events, breakpoints",
    "node.cli": "commands: fedjob node",
    "node.startup": "from a home to a daemon that runs",
    "node.daemon": "one loop: turn, commit, act",
    "node.grants": "owner's consent",
    "node.execution": "workers",
    "node.hooks": "of its owner",
    "node.queue": "of tasks",
    "node.data": "its datasets",
    "node.verifiers": "who is asking?",
    "node.storage": "SQLite, spool, audit chain, secrets",
    "node.config": "what the owner sets",
    "hub.cli": "commands: fedjob hub",
    "hub.supervisor": "runs server and broker",
    "hub.doctor": "checks",
    "hub.server": "the HTTP repository",
    "hub.broker": "Mosquitto or amqtt",
    "hub.storage": "objects, parties, tokens",
    "hub.config": "a home and its limits",
}

FAMILIES = {
    "roles": ("researcher", "node", "hub"),
    "learning": (
        "execution",
        "protocols",
        "training_plans",
        "aggregation",
        "optimizers",
        "metrics",
        "parameters",
    ),
    "data": ("data", "privacy"),
    "wire": ("messaging", "repository", "identity", "doctor"),
}
FAMILY_WORDS = {
    "roles": "the three roles",
    "learning": "federated learning",
    "data": "data and privacy",
    "wire": "the wire",
    "ground": "doors and foundation",
}
ORDER = [  # from left to right, where floors leave it open
    *("fedjob", "cli", "demo", "researcher", "node", "testing", "execution", "protocols", "training_plans"),
    *("data", "hub", "doctor", "aggregation", "optimizers", "privacy", "messaging"),
    *("metrics", "parameters", "repository", "identity", "common"),
]
WIDTHS = {
    "researcher": 1.5,
    "node": 1.14,
    "testing": 0.76,
    "messaging": 1.12,
    "optimizers": 0.9,
    "fedjob": 1.15,
}

WIDTH, MARGIN, GUTTER, GAP, PAD = 1320.0, 30.0, 12.0, 28.0, 14.0
HUB_WIDTH = 400.0
NAME, TEXT, SMALL = 16.0, 13.5, 12.5
LINE = 17.0
ONE_LINE, TWO_LINES, INNER_GUTTER = 31.0, 43.0, 6.0  # heights of inner rooms
PART = 24.0
MINIMAP = 50.0  # height
MINIMAP_WIDTH = 58.0


# ---------------------------------------------------------------- what the code says


@dataclass(frozen=True)
class Floors:
    """The layers of one contract, from the roof down; the rooms of a layer import none of each other."""

    container: str
    layers: tuple[tuple[str, ...], ...]

    def level(self, room: str) -> int:
        """Return the number of the floor, 0 at the roof."""
        return next(i for i, layer in enumerate(self.layers) if room in layer)

    @cached_property
    def rooms(self) -> tuple[str, ...]:
        """Return every room, from the roof down."""
        return tuple(room for layer in self.layers for room in layer)


@dataclass(frozen=True)
class Room:
    """A folder or a file of the package, with all that lies in it."""

    name: str
    description: str
    num_files: int
    parts: tuple[tuple[str, int], ...] = ()  # sub-packages with their numbers of files


@dataclass
class House:
    """The rooms of the package, the floors they stand on, and who imports whom."""

    floors: Floors
    rooms: dict[str, Room]
    inner: dict[str, tuple[Floors, dict[str, Room]]]
    imports: Counter[tuple[str, str]] = field(default_factory=Counter)  # room, room
    inner_imports: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)

    @property
    def upwards(self) -> list[str]:
        """Return the imports that do not run down, in words."""
        found = _not_down(self.floors, self.imports)
        for role, (floors, _) in self.inner.items():
            found += [f"{role}: {words}" for words in _not_down(floors, self.inner_imports[role])]
        return found

    def crossing(self, level: int) -> int:
        """Return how many imports lead from this floor or one above it to a floor below it."""
        at = self.floors.level
        return sum(n for (a, b), n in self.imports.items() if at(a) <= level < at(b))


def read_house(root: Path) -> House:
    """Read floors from .importlinter, rooms and imports from the package."""
    contracts = read_floors(root / ".importlinter")
    floors = contracts.pop(PACKAGE)
    floors = Floors(PACKAGE, tuple(tuple(r for r in layer if r not in UNDRAWN) for layer in floors.layers))
    floors = Floors(PACKAGE, ((DOOR, *floors.layers[0]), *(layer for layer in floors.layers[1:] if layer)))
    package = root / PACKAGE
    rooms = {name: _room(package, name, DESCRIPTIONS.get(name, "")) for name in floors.rooms}
    inner = {}
    for container, found in contracts.items():
        role = container.removeprefix(f"{PACKAGE}.")
        kept = tuple(tuple(r for r in layer if r not in INNER_UNDRAWN) for layer in found.layers)
        kept_floors = Floors(container, tuple(layer for layer in kept if layer))
        words = INNER_DESCRIPTIONS
        inner[role] = (
            kept_floors,
            {
                name: _room(package / role, name, words.get(f"{role}.{name}", ""))
                for name in kept_floors.rooms
            },
        )
    house = House(floors, rooms, inner, inner_imports={role: Counter() for role in inner})
    _check_complete(package, floors, {DOOR, "__main__", *UNDRAWN})
    for role, (inner_floors, _) in inner.items():
        _check_complete(package / role, inner_floors, INNER_UNDRAWN)
    for source, target in sorted(read_imports(root)):
        _count(house, source.split("."), target.split("."))
    return house


def read_floors(path: Path) -> dict[str, Floors]:
    """Return the `layers` contracts that name a container, by that container."""
    read = configparser.ConfigParser(interpolation=None)
    read.read(path, encoding="utf-8")
    found = {}
    for name in read.sections():
        section = read[name]
        if section.get("type") != "layers" or "containers" not in section:
            continue
        lines = [line.replace(":", "|") for line in section["layers"].split("\n") if line.strip()]
        layers = tuple(tuple(part.strip(" ()") for part in line.split("|")) for line in lines)
        for container in section["containers"].split():
            found[container] = Floors(container, layers)
    if PACKAGE not in found:
        raise SystemExit(f"{path}: no contract of type layers has containers = {PACKAGE}")
    return found


def read_imports(root: Path) -> set[tuple[str, str]]:
    """Return every (module, imported module) of the package, wherever in a file the import stands."""
    paths = {_module(root, path): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    return {
        (name, target)
        for name, path in paths.items()
        for target in _imported(name, path, set(paths))
        if target != name
    }


def _imported(name: str, path: Path, modules: set[str]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                if target in modules or base in modules:
                    yield target if target in modules else base


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _count(house: House, source: list[str], target: list[str]) -> None:
    """Count one import between rooms of the package, or between rooms of a role."""
    a, b = _room_of(source), _room_of(target)
    if a in house.rooms and b in house.rooms and a != b:
        house.imports[a, b] += 1
    elif a == b and a in house.inner and len(source) > 2 and len(target) > 2:
        rooms = house.inner[a][1]
        if source[2] in rooms and target[2] in rooms and source[2] != target[2]:
            house.inner_imports[a][source[2], target[2]] += 1


def _room_of(module: list[str]) -> str:
    if len(module) == 1:
        return DOOR
    return "cli" if module[1] == "__main__" else module[1]


def _room(folder: Path, name: str, description: str) -> Room:
    path = folder if name == DOOR and folder.name == PACKAGE else folder / name
    if not path.is_dir():
        path = path.with_suffix(".py")
        return Room(name, description or _first_line(path), 1)
    if name == DOOR:
        return Room(name, description, 1)
    parts = [
        (part.name, _num_files(part))
        for part in sorted(path.iterdir())
        if (part / "__init__.py").exists() and _num_files(part)
    ]
    words = description or _first_line(path / "__init__.py")
    return Room(name, words, _num_files(path), tuple(parts))


def _num_files(folder: Path) -> int:
    """Return the number of modules in a folder and below it, registries and empty `__init__.py` aside."""
    return sum(path.name != "__init__.py" for path in folder.rglob("*.py"))


def _first_line(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.split("\n")[0].replace("`", "").rstrip(".")


def _check_complete(folder: Path, floors: Floors, others: set[str]) -> None:
    there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in folder.glob("*/__init__.py")}
    if homeless := there - set(floors.rooms) - others:
        raise SystemExit(
            f".importlinter puts these rooms of {floors.container} on no floor: {sorted(homeless)}"
        )


def _not_down(floors: Floors, imports: Counter[tuple[str, str]]) -> list[str]:
    return [
        f"{a} imports {b} {n} time{'s' * (n > 1)}"
        for (a, b), n in sorted(imports.items())
        if floors.level(a) >= floors.level(b) and b != DOOR  # the door loads nothing by itself
    ]


# ---------------------------------------------------------------- where everything stands


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in its units."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Return the x of the right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Return the y of the lower edge."""
        return self.y + self.height


@dataclass(frozen=True)
class Plan:
    """Where the rooms and the gaps between the floors lie."""

    boxes: dict[str, Box]
    gaps: dict[int, float]  # below which floor, and the y where the gap begins
    legend: Box
    height: float


def lay_out(house: House) -> Plan:
    """Put every floor below the one before; the hub is a tower that reaches up beside the floors above its own."""
    y = 104.0
    boxes: dict[str, Box] = {}
    gaps = {}
    legend = Box(0, 0, 0, 0)
    floors = [sorted(layer, key=_order) for layer in house.floors.layers]
    foot = house.floors.level("hub")
    beside = range(foot - 2, foot + 1)  # the floors that the hub's tower stands beside
    inner = WIDTH - 2 * MARGIN
    extra = _tower_height(house, "hub") - sum(_heights(house, floors[i], inner) for i in beside) - 2 * GAP
    for level, layer in enumerate(floors):
        rooms = [room for room in layer if room != "hub"]
        has_towers = any(room in house.inner for room in rooms)
        width = inner - (HUB_WIDTH + GUTTER if level in beside else 0)
        height = _heights(house, rooms, width)
        if level in beside:
            height += max(extra, 0.0) / len(beside)
        columns = (
            rooms if "testing" in rooms or not has_towers else [*rooms, "testing"]
        )  # room for the legend
        row = dict(zip(columns, _row(columns, y, width, height), strict=True))
        boxes |= {room: row[room] for room in rooms}
        if has_towers:
            column, used = row["testing"], 0.0
            if "testing" in rooms:
                used = 96.0 + GUTTER
                boxes["testing"] = Box(column.x, column.y, column.width, 96.0)
            legend = Box(column.x, column.y + used, column.width, column.height - used)
        y += height
        gaps[level] = y
        y += GAP
    top = boxes[floors[beside[0]][0]].y
    boxes["hub"] = Box(WIDTH - MARGIN - HUB_WIDTH, top, HUB_WIDTH, gaps[foot] - top)
    del gaps[len(floors) - 1]
    return Plan(boxes, gaps, legend, y - GAP + MARGIN)


def _order(room: str) -> int:
    return ORDER.index(room) if room in ORDER else len(ORDER)


def _row(rooms: list[str], y: float, width: float, height: float) -> list[Box]:
    weights = [WIDTHS.get(room, 1.0) for room in rooms]
    free = width - GUTTER * (len(rooms) - 1)
    boxes, x = [], MARGIN
    for weight in weights:
        boxes.append(Box(x, y, free * weight / sum(weights), height))
        x = boxes[-1].right + GUTTER
    return boxes


def _heights(house: House, rooms: list[str], width: float) -> float:
    """Return the height that the highest room of a floor needs."""
    return max(
        _tower_height(house, room) if room in house.inner else _card_height(house.rooms[room], box.width)
        for room, box in zip(rooms, _row(rooms, 0, width, 0), strict=True)
        if room != "hub"
    )


def _tower_height(house: House, role: str) -> float:
    layers = house.inner[role][0].layers
    return 72 + sum(_inner_height(layer) + INNER_GUTTER for layer in layers) - INNER_GUTTER + PAD


def _inner_height(layer: tuple[str, ...]) -> float:
    return ONE_LINE if len(layer) == 1 else TWO_LINES


def _card_height(room: Room, width: float) -> float:
    lines = len(wrap(room.description, width - 3 * PAD - MINIMAP_WIDTH, TEXT))
    parts = PART + 8 if room.parts and not _parts_beside(width) else 0
    return max(MINIMAP + 20, 32 + LINE * lines + parts + 12)


def _parts_beside(width: float) -> bool:
    """Return whether the sub-packages have room beside the description."""
    return width > 600


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is in a sans-serif font, rather too wide than too narrow."""
    narrow, wide = set("ijl.,'|:;ftr()I `"), set("mwMW@")
    units = sum(0.34 if c in narrow else 0.86 if c in wide else 0.68 if c.isupper() else 0.6 for c in text)
    return units * size


def wrap(text: str, width: float, size: float, limit: int = 2) -> list[str]:
    """Return the text in at most `limit` lines, cut with an ellipsis where it is longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > limit:
        last = lines[limit - 1]
        while text_width(f"{last} …", size) > width and " " in last:
            last = last.rpartition(" ")[0]
        lines = [*lines[: limit - 1], f"{last.rstrip(',;:')} …"]
    return lines


# ---------------------------------------------------------------- the drawing

LIGHT = {
    "paper": "#ffffff", "ink": "#16202c", "soft": "#5a6878", "faint": "#dfe5ec", "card": "#f7f9fb", "edge": "#d3dbe4",
    "inner": "#ffffff", "arrow": "#9fb0c3", "used": "#41566e", "bad": "#c81e1e",
    "roles": "#2158c9", "learning": "#c2620a", "data": "#15803d", "wire": "#9333b8", "ground": "#64748b",
    "roles-t": "#eef4ff", "learning-t": "#fff5e9", "data-t": "#edfaf1", "wire-t": "#faf0fe", "ground-t": "#f4f6f9",
}  # fmt: skip
DARK = {
    "paper": "#0e141b", "ink": "#e8eef5", "soft": "#9fb0c1", "faint": "#2b3744", "card": "#18212b", "edge": "#33414f",
    "inner": "#121a23", "arrow": "#52667c", "used": "#b9c9da", "bad": "#ff7b72",
    "roles": "#7aa7ff", "learning": "#f5a54a", "data": "#56d083", "wire": "#d68bf5", "ground": "#94a3b8",
    "roles-t": "#152136", "learning-t": "#2a2015", "data-t": "#13261b", "wire-t": "#26182d", "ground-t": "#1a222c",
}  # fmt: skip
SANS = "Inter, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def draw(root: Path) -> str:
    """Return the picture of the package below this folder."""
    house = read_house(root)
    plan = lay_out(house)
    total = sum(house.imports.values()) + sum(sum(c.values()) for c in house.inner_imports.values())
    files = sum(room.num_files for room in house.rooms.values())
    up = house.upwards
    verdict = "every one runs down" if not up else f"{len(up)} pairs of rooms do not run down"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(WIDTH)} {_n(plan.height)}" '
        f'font-family="{SANS}" font-size="{_n(TEXT)}">',
        "  <title>The architecture of fedjob: its rooms, the floors they stand on, and who imports whom</title>",
        _style(),
        f'  <rect width="{_n(WIDTH)}" height="{_n(plan.height)}" class="paper"/>',
        _text(MARGIN, 48, "The architecture of fedjob", "ink title"),
        _text(
            MARGIN,
            76,
            f"{files} files in {len(house.rooms)} rooms on {len(house.floors.layers)} floors.  "
            f"{total:,} imports between rooms: {verdict}.",
            "bad lead" if up else "soft lead",
        ),
    ]
    out += _gaps(house, plan)
    for name in sorted(plan.boxes, key=_order):
        box = plan.boxes[name]
        out += [f"  <!-- {name} -->", *(_tower if name in house.inner else _card)(house, plan, name, box)]
    out += _legend(house, plan)
    return "\n".join([*out, "</svg>"]) + "\n"


def _style() -> str:
    fixed = [
        f".mono{{font-family:{MONO};font-weight:600}}",
        ".title{font-size:28px;font-weight:700}",
        ".lead{font-size:15px}",
        f".name{{font-size:{_n(NAME)}px}}",
        ".big{font-size:21px}",
        ".room{font-size:14px}",
        ".part{font-size:13px}",
        f".small{{font-size:{_n(SMALL)}px}}",
        ".card,.inner{stroke-width:1}",
        ".end{text-anchor:end}",
        ".none{fill:none}",
    ]
    light, dark = _colours(LIGHT), _colours(DARK)
    return (
        "  <style>\n    "
        + "\n    ".join(fixed + light)
        + "\n    @media (prefers-color-scheme: dark) {\n      "
        + "\n      ".join(dark)
        + "\n    }\n  </style>"
    )


def _colours(of: dict[str, str]) -> list[str]:
    rules = [
        f".{name}{{fill:{of[name]}}}" for name in ("paper", "ink", "soft", "faint", "arrow", "used", "bad")
    ]
    rules += [f".inner{{fill:{of['inner']};stroke:{of['edge']}}}", f".dashed{{stroke:{of['edge']}}}"]
    for family in FAMILY_WORDS:
        rules += [
            f".{family}{{fill:{of[family]}}}",
            f".{family}-t{{fill:{of[family + '-t']};stroke:{of['edge']}}}",
        ]
    return rules


def _gaps(house: House, plan: Plan) -> list[str]:
    """Draw one arrow from each floor to those below, as thick as it has imports."""
    counts = {level: house.crossing(level) for level in plan.gaps}
    most = max(counts.values())
    out = ["  <!-- imports from floor to floor -->"]
    for level, y in plan.gaps.items():
        count = counts[level]
        middle, half = MARGIN + 120.0, 1.5 + 13.0 * count / most
        head, top, bottom = half + 5.0, y + 4.0, y + GAP - 4.0
        neck = bottom - 9.0
        points = [
            (middle - half, top), (middle + half, top), (middle + half, neck), (middle + head, neck),
            (middle, bottom), (middle - head, neck), (middle - half, neck),
        ]  # fmt: skip
        path = " ".join(f"{_n(a)},{_n(b)}" for a, b in points)
        out.append(f'  <polygon class="arrow" points="{path}"/>')
        words = f"{count:,} imports" if level == min(plan.gaps) else f"{count:,}"
        out.append(_text(middle + 32, y + GAP / 2 + 4.5, words, "soft small"))
    return out


def _card(house: House, plan: Plan, name: str, box: Box) -> list[str]:
    room, family = house.rooms[name], _family(name)
    out = [*_frame(box, family)]
    y = box.y + 26
    label = {DOOR: "import fedjob", "cli": "cli.py"}.get(name, f"{name}/")
    out.append(_text(box.x + PAD + 4, y, label, f"{family} mono name"))
    beside = box.x + PAD + 4 + 0.61 * NAME * len(label) + 12
    out.append(_text(beside, y, _files(room.num_files) if name not in (DOOR, "cli") else "", "soft small"))
    lines = wrap(room.description, box.width - 3 * PAD - MINIMAP_WIDTH, TEXT)
    for i, line in enumerate(lines):
        out.append(_text(box.x + PAD + 4, y + 20 + LINE * i, line, "ink"))
    widths = [0.61 * 13 * len(f"{part}/ {num}") + 22 for part, num in room.parts]
    if _parts_beside(box.width):
        x = box.right - 2 * PAD - MINIMAP_WIDTH - 8 - sum(widths) - 8 * (len(widths) - 1)
        y = box.y + (box.height - PART) / 2
    else:
        x, y = box.x + PAD + 4, box.bottom - 12 - PART
    for (part, num), width in zip(room.parts, widths, strict=True):
        out.append(f'  <rect {_at(Box(x, y, width, PART))} rx="5" class="inner"/>')
        out.append(_text(x + 9, y + 16.5, f"{part}/", f"{family} mono part"))
        out.append(_text(x + width - 9, y + 16.5, str(num), "soft small end"))
        x += width + 8
    return [*out, *_minimap(house, plan, name, box)]


def _tower(house: House, plan: Plan, name: str, box: Box) -> list[str]:
    """Draw a role with its own floors."""
    family = _family(name)
    floors, rooms = house.inner[name]
    out = [*_frame(box, family)]
    label = f"{name}/"
    out.append(_text(box.x + PAD + 4, box.y + 31, label, f"{family} mono big"))
    out.append(
        _text(
            box.x + PAD + 4 + 0.61 * 21 * len(label) + 12,
            box.y + 30,
            _files(house.rooms[name].num_files),
            "soft small",
        )
    )
    (words,) = wrap(house.rooms[name].description, box.width - 3 * PAD - MINIMAP_WIDTH, TEXT, limit=1)
    out.append(_text(box.x + PAD + 4, box.y + 53, words, "ink"))
    out += _minimap(house, plan, name, box)
    y = box.y + 72
    stretch = (box.height - _tower_height(house, name)) / len(floors.layers)
    left, width = box.x + PAD + 4, box.width - 2 * PAD - 4
    for layer in floors.layers:
        each = (width - INNER_GUTTER * (len(layer) - 1)) / len(layer)
        height = _inner_height(layer) + stretch
        for i, inner in enumerate(layer):
            x = left + i * (each + INNER_GUTTER)
            out += _inner_room(rooms[inner], Box(x, y, each, height), family, one_line=len(layer) == 1)
        y += height + INNER_GUTTER
    return out


def _inner_room(room: Room, box: Box, family: str, one_line: bool) -> list[str]:
    out = [f'  <rect {_at(box)} rx="5" class="inner"/>']
    base = box.y + box.height / 2 + (5 if one_line else -3)
    label = f"{room.name}/" if room.num_files > 1 or room.parts else f"{room.name}.py"
    out.append(_text(box.x + 10, base, label, f"{family} mono room"))
    start = 0.61 * 14 * len(label)
    if room.num_files > 1:
        out.append(_text(box.right - 9, base, str(room.num_files), "soft small end"))
    if one_line:
        at = max(start + 12, 108.0)
        (words,) = wrap(room.description, box.width - at - 40, SMALL, limit=1) or [""]
        out.append(_text(box.x + 10 + at, base, words, "ink small"))
    else:
        (words,) = wrap(room.description, box.width - 18, SMALL, limit=1) or [""]
        out.append(_text(box.x + 10, base + 16, words, "ink small"))
    return out


def _minimap(house: House, plan: Plan, name: str, box: Box) -> list[str]:
    """Draw the house in small: this room, and the rooms that it imports, the stronger the more."""
    x, y = box.right - PAD - MINIMAP_WIDTH + 2, box.y + 10
    uses = {b: n for (a, b), n in house.imports.items() if a == name}
    return _small_house(plan, x, y, name, uses, _family(name))


def _small_house(plan: Plan, x: float, y: float, own: str, uses: dict[str, int], family: str) -> list[str]:
    top, bottom = 104.0, plan.height - MARGIN
    across, down = MINIMAP_WIDTH / (WIDTH - 2 * MARGIN), MINIMAP / (bottom - top)
    cells = {}
    for room, box in plan.boxes.items():
        height = max(box.height * down, 2.2)
        cells[room] = (
            f"M{_n(x + (box.x - MARGIN) * across)} {_n(y + (box.y - top) * down)}"
            f"h{_n(box.width * across - 0.2)}v{_n(height)}h-{_n(box.width * across - 0.2)}z"
        )
    words = ", ".join(
        f"{room} ({n})" for room, n in sorted(uses.items(), key=lambda item: (-item[1], item[0]))
    )
    out = [
        "  <g>",
        f"    <title>{escape(f'{own} imports {words}' if words else f'{own} imports nothing')}</title>",
    ]
    rest = "".join(path for room, path in sorted(cells.items()) if room != own and room not in uses)
    out.append(f'    <path class="faint" d="{rest}"/>')
    for strength, bound in ((0.4, 4), (0.7, 14), (1.0, 10**9)):
        lower = {0.4: 0, 0.7: 4, 1.0: 14}[strength]
        some = "".join(cells[room] for room, n in sorted(uses.items()) if lower < n <= bound)
        if some:
            out.append(f'    <path class="used" fill-opacity="{strength}" d="{some}"/>')
    out.append(f'    <path class="{family}" d="{cells[own]}"/>')
    return [*out, "  </g>"]


def _legend(house: House, plan: Plan) -> list[str]:
    box = plan.legend
    x, y = box.x + PAD, box.y + 26
    out = ["  <!-- how to read it -->"]
    out.append(f'  <rect {_at(box)} rx="8" class="none dashed" stroke-dasharray="4 4"/>')
    out.append(_text(x, y, "How to read this", "ink mono room"))
    y += 8
    width = box.width - 2 * PAD
    texts: list[tuple[str, list[str]]] = [
        (
            "",
            wrap(
                "A room is a folder of the code. It imports only from floors below its own.", width, SMALL, 3
            ),
        ),
        (
            "map",
            wrap(
                "The house in small: the room in colour, and the rooms that it imports, the stronger the more.",
                width - MINIMAP_WIDTH - 12,
                SMALL,
                5,
            ),
        ),
        ("arrow", wrap("Imports from above to below.", width - 32, SMALL, 2)),
    ]
    for kind, lines in texts:
        y += 8
        left = x + {"": 0.0, "map": MINIMAP_WIDTH + 12, "arrow": 32.0}[kind]
        start = y
        for line in lines:
            y += 16
            out.append(_text(left, y, line, "soft small"))
        if kind == "map":
            sample = {b: n for (a, b), n in house.imports.items() if a == "protocols"}
            out += _small_house(plan, x, start + 7, "protocols", sample, _family("protocols"))
            y = max(y, start + MINIMAP + 8)
        if kind == "arrow":
            out.append(f'  <path class="arrow" d="M{_n(x + 5)} {_n(start + 4)}h10v7h4l-9 8l-9-8h4z"/>')
    y += 14
    for family, words in FAMILY_WORDS.items():
        y += 19
        out.append(f'  <rect x="{_n(x)}" y="{_n(y - 10)}" width="14" height="11" rx="2" class="{family}"/>')
        out.append(_text(x + 24, y, words, "soft small"))
    return out


def _frame(box: Box, family: str) -> Iterable[str]:
    yield f'  <rect {_at(box)} rx="8" class="card {family}-t"/>'
    yield f'  <path class="{family}" d="M{_n(box.x + 8)} {_n(box.y)}a8 8 0 0 0 -8 8v{_n(box.height - 16)}a8 8 0 0 0 8 8q-3.5 -2 -3.5 -8v-{_n(box.height - 16)}q0 -6 3.5 -8z"/>'


def _family(room: str) -> str:
    return next((family for family, rooms in FAMILIES.items() if room in rooms), "ground")


def _files(number: int) -> str:
    return f"{number} file{'s' * (number > 1)}"


def _at(box: Box) -> str:
    return f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'  <text x="{_n(x)}" y="{_n(y)}" class="{kind}" xml:space="preserve">{escape(words)}</text>'


def _n(number: float) -> str:
    """Return a number with one decimal at most, the same on every machine."""
    return f"{round(number + 0.0, 1):g}" if abs(number) < 1e5 else str(int(number))


def main() -> None:
    """Draw the picture, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description="Draw docs/architecture.svg from the code.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where the picture is old"
    )
    options = parser.parse_args()
    picture = options.root / "docs" / "architecture.svg"
    drawn = draw(options.root)
    if options.check:
        there = picture.read_text(encoding="utf-8") if picture.exists() else ""
        sys.exit(0 if drawn == there else f"{picture} is not what the code says: make map")
    picture.write_text(drawn, encoding="utf-8")
    for words in read_house(options.root).upwards:
        print(f"does not run down: {words}", file=sys.stderr)


if __name__ == "__main__":
    main()
