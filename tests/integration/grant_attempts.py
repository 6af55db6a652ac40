"""Attempts to have a node do other than its owner approved, against its own decision code and a real database.

`attempts()` has each by name; `Desk` is a node's decisions without its network: messages go through the wire's codec,
the plan's text, the data and the grants lie on disk.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy

from fedjob.common.codec import pack, to_plain
from fedjob.common.items import Items
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.identity.party_list import Party
from fedjob.messaging.messages import Message, Offer, Task, WorkDescription, decode_payload, encode_payload
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, RegisteredDataset
from fedjob.node.data.versions import Versions
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import Grant, GrantSubject
from fedjob.node.grants.limits import GrantLimits, parse_limits
from fedjob.node.grants.permissions import Permissions
from fedjob.node.grants.policy import Permission
from fedjob.node.queue.book import TaskRow
from fedjob.node.storage.database import Database

JOB, OTHER_JOB = (f"job_0000000{n}-0000-4000-8000-000000000000" for n in (1, 2))
TEXT = "import torch\n\n\nclass Net:\n    pass\n"
KEYS = {"ann": "ab" * 32, "bob": "cd" * 32, "mallory": "ef" * 32}
SHARED = [entry.name for entry in fields(WorkDescription)]


def ref(text: str) -> Ref:
    return Ref(hashlib.sha256(text.encode()).hexdigest(), len(text.encode()))


def task(**what: Any) -> Task:
    return Task(**{"protocol": "fedavg", "plan": ref(TEXT), "entry": "Net", **what})


@dataclass(frozen=True)
class Approved:
    """What an owner approved before an attempt.

    Args:
        as_typed: options of `grants approve`.
        rule: options of a standing agreement, in place of an approved request.
    """

    task: Task
    rounds: int = 5
    as_typed: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, str] | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Args:
        kind: of what differs.
        base: what was approved before.
        change: of the task.
        meanwhile: happens at the node between the approval and the attempt.
        settings: of the node.
    """

    kind: str
    name: str
    base: str
    change: Callable[[Task], Task] = lambda task: task
    sender: str = "ann"
    job: str = JOB
    round: int = 1
    step: str = "train"
    meanwhile: Callable[[Desk, Grant], None] = lambda desk, grant: None
    settings: NodeConfig = field(default_factory=NodeConfig)


class Desk:
    """A node's decisions: database, data, and the code that judges messages."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "toy.npz"
        self.write(rows=20)
        self.database = Database(folder / "node.sqlite")
        self.grants = Grants(self.database)
        self.parties = {name: Party(name, "researcher", key) for name, key in KEYS.items()}
        self.datasets = Datasets(self.database)
        for name in ("toy", "other"):
            shown = {"mock": str(self.path)} if name == "toy" else {}
            self.datasets.add(
                RegisteredDataset(
                    name=name, path=str(self.path), reader="npz", options={}, num_rows=20, **shown
                )
            )
        self.folder = folder

    def write(self, rows: int) -> None:
        numpy.savez(self.path, x=numpy.ones((rows, 2), "float32"), y=numpy.ones((rows, 1), "float32"))

    def permissions(self, config: NodeConfig) -> Permissions:
        return Permissions(
            config=config,
            database=self.database,
            datasets=self.datasets,
            grants=self.grants,
            versions=Versions(),
            secrets=self.folder / "secrets.json",
            models=self.folder / "models.json",
        )

    def key_of(self, party: str) -> str:
        known = self.parties.get(party)
        return "" if known is None else known.key_hex

    @contextmanager
    def afresh(self) -> Iterator[None]:
        """Forget what is decided within, so that thousands of attempts need one database."""
        self.database.execute("SAVEPOINT attempt")
        try:
            yield
        finally:
            self.write(rows=20)
            self.parties["ann"] = Party("ann", "researcher", KEYS["ann"])
            self.database.execute("ROLLBACK TO attempt")
            self.database.execute("RELEASE attempt")

    def judged(self, wanted: Task | Offer, attempt: Attempt | None = None) -> Permission:
        """Judge a message as it comes off the wire."""
        about = attempt or Attempt("", "", "")
        sent = Message(
            to="node1", id="0" * 32, job=about.job, round=about.round, step=about.step, body=wanted
        )
        message = replace(
            decode_payload(encode_payload(sent), about.sender), sender_key=self.key_of(about.sender)
        )
        assert isinstance(message.body, (Task, Offer))
        return self.permissions(about.settings).judge(message, message.body)

    def approve(self, approved: Approved) -> Grant:
        """Ask, and approve; or make a standing agreement."""
        limits = parse_limits(**approved.as_typed) if approved.as_typed else GrantLimits()
        if approved.rule is not None:
            rule = GrantSubject(
                **{
                    "researcher": "ann",
                    "key_hex": "",
                    "plan": "*",
                    "entry": "*",
                    "dataset": "toy",
                    **approved.rule,
                }
            )
            return self.grants.allow(rule, limits=limits, by="owner")
        return self.grants.approve(self.filed(approved.task, approved.rounds).id, by="owner", limits=limits)

    def filed(self, wanted: Task, rounds: int = 5) -> Grant:
        verdict = self.judged(offer_of(wanted, rounds))
        assert verdict.status == "pending", verdict
        assert verdict.subject is not None
        text = b"" if wanted.plan is None else TEXT.encode()
        return self.grants.file(verdict.subject, text, protocol=wanted.protocol, asked=verdict.asked)

    def tried(self, attempt: Attempt) -> Permission:
        """Approve what the attempt builds on, and make it: as an offer, as a task, and as one that is to start."""
        with self.afresh():
            base = BASES[attempt.base]
            grant = self.approve(base)
            control = self.judged(base.task)
            assert control.allowed, f"what was approved does not run: {control.refusal}"
            attempt.meanwhile(self, grant)
            wanted = attempt.change(base.task)
            verdict = self.judged(wanted, attempt)
            start = self.permissions(attempt.settings).may_start(
                *[row_of(wanted, attempt, self.key_of(attempt.sender))] * 2
            )
            assert (start is None) == verdict.allowed, "a task is judged at its arrival as at its start"
            return verdict


def offer_of(wanted: Task, rounds: int) -> Offer:
    return Offer(rounds=rounds, **{name: getattr(wanted, name) for name in SHARED})


def row_of(wanted: Task, attempt: Attempt, researcher_key: str) -> TaskRow:
    return TaskRow(
        key="k1", job=attempt.job, researcher=attempt.sender, dataset=wanted.dataset, round=attempt.round,
        step=attempt.step, epoch=1, attempt=1, reply_to="ann/s1", message="m1", order=pack(to_plain(wanted)), seq=1,
        state=State.RUNNING, researcher_key=researcher_key,
    )  # fmt: skip


# --- what was approved ------------------------------------------------------------------------------

FUNCTION = task(
    dataset="toy",
    protocol="function",
    entry="mean_of",
    training_args={
        "column": "age",
        "label": "caf\u00e9",
        "count": 1,
        "exact": True,
        "weights": [1, 2.5],
        "options": {"skip": True, "deep": {"n": 1, "of": "age"}},
    },
)
TRAINING = task(
    dataset="toy",
    protocol="fedprox",
    config={"mu": 0.01},
    model_args={"width": 8, "layers": [8, 4]},
    training_args={"lr": 0.1, "epochs": 2, "optimizer": {"name": "sgd", "lr": 0.1}},
    preprocess=[{"step": "select", "columns": ["x", "y"]}],
    props={"site": "a"},
    launches=["1" * 64],
    artifacts={"base": ref("base")},
    split={"train": 0.8},
    items=Items(limit=10),
    project="heart",
    owner={"org": "acme"},
)
RANGED = task(
    dataset="toy",
    training_args={"lr": 0.1, "epochs": 2, "column": "age", "optimizer": {"name": "sgd", "lr": 0.1}},
)
RANGES = {"args": ["lr=0.001..0.5", "optimizer.lr=..0.5", "column=age,sex"]}
STATISTICS = task(
    dataset="toy",
    protocol="statistics",
    plan=None,
    entry="",
    config={"mean": ["age"], "count": ["age"], "by": ["sex"]},
)
BROUGHT = task(dataset="", files=ref("files"), training_args={"n": 1})
SCHEDULED = task(
    dataset="toy", training_args={"lr": {"schedule": "piecewise", "values": {"1": 0.1, "3": 0.01}}}
)
MOCK = task(dataset="toy", use="mock")
TUNED = task(dataset="toy", protocol="finetuned", config={"epochs": 2}, training_args={"epochs": 1})
OUTLIERS = task(dataset="toy", protocol="outliers", plan=None, entry="", config={"columns": ["age"]})

BASES: dict[str, Approved] = {
    "function": Approved(FUNCTION, rounds=1),
    "training": Approved(TRAINING),
    "ranged": Approved(RANGED, as_typed=RANGES),
    "statistics": Approved(STATISTICS, rounds=1),
    "ranged statistics": Approved(STATISTICS, rounds=1, as_typed={"args": ["mean=age,sex"]}),
    "brought": Approved(BROUGHT),
    "scheduled": Approved(SCHEDULED),
    "mock": Approved(MOCK),
    "tuned": Approved(TUNED),
    "outliers": Approved(OUTLIERS, rounds=1),
    "any arguments": Approved(TRAINING, as_typed={"any_args": True}),
    "once": Approved(FUNCTION, rounds=1, as_typed={"runs": 1}),
    "agreement": Approved(
        RANGED, as_typed={"args": [*RANGES["args"], "epochs=1..3", "optimizer.name=sgd"]}, rule={}
    ),
    "agreement on a plan": Approved(task(dataset="toy"), rule={"plan": ref(TEXT).sha256, "entry": "Net"}),
    "agreement in a project": Approved(task(dataset="toy", project="heart"), rule={"project": "heart"}),
    "agreement on statistics": Approved(STATISTICS, rule={"plan": "fedjob.analytics.statistics"}),
}

# --- attempts ---------------------------------------------------------------------------------------


class _Gone:
    """An argument that is left out."""

    def __repr__(self) -> str:
        return "left out"


_GONE = _Gone()


def put(section: str, *path: str, value: Any) -> Callable[[Task], Task]:
    """Return the change of one entry; `_GONE` removes it."""

    def within(given: Any, names: tuple[str, ...]) -> Any:
        if not names:
            return value
        changed = dict(given) if isinstance(given, dict) else {}
        changed[names[0]] = within(changed.get(names[0]), names[1:])
        return {name: each for name, each in changed.items() if each is not _GONE}

    return lambda wanted: replace(wanted, **{section: within(getattr(wanted, section), path)})


def has(**changes: Any) -> Callable[[Task], Task]:
    return lambda wanted: replace(wanted, **changes)


_LIKE_AGE = (
    *(
        "ssn",
        "Age",
        "AGE",
        " age",
        "age ",
        "age\n",
        "age\0",
        "\u0430ge",
        "\uff41ge",
        "age\u200b",
        "",
        "*",
        "age,ssn",
    ),
    *(
        ["age"],
        ["age", "ssn"],
        [],
        {"age": 1},
        {},
        None,
        True,
        0,
        1.5,
        b"age",
        math.nan,
        "age'--",
        "a" * 5000,
    ),
)
_LIKE_NUMBERS = {
    ("count",): (True, 1.0, "1", [1], None, 2, 0, -1, 2**53, math.nan, {"count": 1}),
    ("exact",): (1, 1.0, "True", "true", False, None, [True]),
    ("label",): ("cafe\u0301", "cafe", "CAF\u00c9", "caf\u00e9 ", "caf\u0435\u0301"),
    ("weights",): ([2.5, 1], [1.0, 2.5], [1], [1, 2.5, 0], [True, 2.5], {"0": 1, "1": 2.5}, [[1, 2.5]], 1),
    ("options",): ({}, None, [], True, "skip"),
    ("options", "skip"): (False, 1, "yes", _GONE),
    ("options", "deep", "n"): (2, 1.0, True, "1", _GONE),
    ("options", "deep", "of"): ("ssn", _GONE),
    ("options", "deep", "more"): (1, None),
    ("options", "skip "): (True,),
    ("extra",): (1, None, "", {}),
    ("Column",): ("age",),
    ("c\u043elumn",): ("age",),
    ("column\u200b",): ("age",),
    ("column",): (_GONE,),
}
_NUMBERS = (
    0.2,
    0.10000000000000002,
    1,
    True,
    "0.1",
    [0.1],
    None,
    math.nan,
    math.inf,
    -0.1,
    -0.0,
    1e308,
    {"lr": 0.1},
)


def _arguments() -> Iterator[Attempt]:
    for value in _LIKE_AGE:
        yield Attempt(
            "argument", f"column {value!a:.40}", "function", put("training_args", "column", value=value)
        )
    for path, values in _LIKE_NUMBERS.items():
        for value in values:
            shown = "left out" if value is _GONE else f"{value!a:.40}"
            yield Attempt("argument", f"{path} {shown}", "function", put("training_args", *path, value=value))
    for value in _NUMBERS:
        yield Attempt("argument", f"lr {value!a}", "training", put("training_args", "lr", value=value))
    for value in (8.0, "8", 9, True, None, [8], _GONE):
        yield Attempt("argument", f"width {value!a:.20}", "training", put("model_args", "width", value=value))
    for value in ([4, 8], [8], [8.0, 4], [8, 4, 1], 8):
        yield Attempt("argument", f"layers {value!a}", "training", put("model_args", "layers", value=value))
    for value in (5, 0.2, "0.1", _GONE, {"lr": 0.1}):
        yield Attempt(
            "argument",
            f"optimizer.lr {value!a:.20}",
            "training",
            put("training_args", "optimizer", "lr", value=value),
        )
    moved = has(model_args={}, training_args={**TRAINING.training_args, **TRAINING.model_args})
    yield Attempt("argument", "moved to another section", "training", moved)
    dotted = {"lr": 0.1, "epochs": 2, "optimizer.name": "sgd", "optimizer.lr": 0.1}
    yield Attempt("argument", "nested names as flat ones", "training", has(training_args=dotted))


def _ranges() -> Iterator[Attempt]:
    outside = (
        0.6,
        0.0009,
        -1,
        0,
        math.nan,
        math.inf,
        -math.inf,
        True,
        "0.1",
        None,
        {},
        [],
        [0.1, 5],
        ["0.1"],
        b"0.1",
    )
    for value in (*outside, 10**18, _GONE):
        shown = "left out" if value is _GONE else f"{value!a:.30}"
        yield Attempt("range", f"lr {shown}", "ranged", put("training_args", "lr", value=value))
    schedules = {
        "steps from above": {"schedule": "step_decay", "start": 5.0, "factor": 0.1, "every": 10},
        "a line out of the range": {"schedule": "linear_decay", "start": 0.1, "end": 5.0, "rounds": 2},
        "pieces out of the range": {"schedule": "piecewise", "values": {"1": 0.1, "2": 5.0}},
        "pieces of text": {"schedule": "piecewise", "values": {"1": "0.1"}},
        "a schedule that is none": {"schedule": "cosine_decay", "start": 0.1},
        "a map like a schedule": {"schedule": "none", "start": 0.1},
    }
    for name, value in schedules.items():
        yield Attempt("range", f"lr {name}", "ranged", put("training_args", "lr", value=value), round=2)
    later = put("training_args", "lr", value={"schedule": "piecewise", "values": {"1": 0.1, "4": 5.0}})
    yield Attempt("range", "lr leaves its range in round 4", "ranged", later, round=4)
    for value in ("ssn", "Age", "age,sex", ["age", "ssn"], [], None, True, {"age": 1}, "age..sex", _GONE):
        yield Attempt("range", f"column {value!a:.30}", "ranged", put("training_args", "column", value=value))
    for value in (5, 0.6, "0.1", math.nan, math.inf, _GONE):
        change = put("training_args", "optimizer", "lr", value=value)
        yield Attempt("range", f"optimizer.lr {value!a:.20}", "ranged", change)
    yield Attempt(
        "range", "optimizer.name", "ranged", put("training_args", "optimizer", "name", value="adam")
    )
    yield Attempt(
        "range", "optimizer.momentum", "ranged", put("training_args", "optimizer", "momentum", value=9)
    )
    yield Attempt("range", "optimizer as text", "ranged", put("training_args", "optimizer", value="sgd"))
    yield Attempt("range", "optimizer left out", "ranged", put("training_args", "optimizer", value=_GONE))
    yield Attempt("range", "a flat optimizer.lr", "ranged", put("training_args", "optimizer.lr", value=0.1))
    yield Attempt("range", "lr one level down", "ranged", put("training_args", "more", value={"lr": 0.1}))
    yield Attempt("range", "momentum", "ranged", put("training_args", "momentum", value=0.9))
    yield Attempt("range", "another lr", "ranged", put("training_args", "lr ", value=0.1))
    for value in (3, 2.0, True, _GONE):
        yield Attempt("range", f"epochs {value!a:.20}", "ranged", put("training_args", "epochs", value=value))
    yield Attempt("range", "a schedule in an exact argument", "ranged", put(
        "training_args", "epochs", value={"schedule": "piecewise", "values": {"1": 2}}
    ))  # fmt: skip
    yield Attempt(
        "range", "mean of another column", "ranged statistics", put("config", "mean", value=["ssn"])
    )
    yield Attempt(
        "range", "mean of one more", "ranged statistics", put("config", "mean", value=["age", "ssn"])
    )
    yield Attempt("range", "mean of none", "ranged statistics", put("config", "mean", value=[]))
    yield Attempt("range", "max beside it", "ranged statistics", put("config", "max", value=["age"]))
    yield Attempt("range", "any arguments, other settings", "any arguments", put("config", "mu", value=0.5))
    yield Attempt("range", "any arguments, other props", "any arguments", put("props", "site", value="b"))
    yield Attempt("range", "any arguments, other items", "any arguments", has(items=Items(limit=11)))


def _settings() -> Iterator[Attempt]:
    for name, value in {
        "mean": ["ssn"], "count": ["ssn"], "by": [], "min": ["age"], "max": ["age"], "std": ["age"], "variance": ["age"],
        "missing": ["age"], "histogram": {"age": [0, 1, 2]}, "quantiles": {"age": [0.5]}, "categories": ["age"],
        "covariance": ["age", "sex"], "correlation": ["age", "sex"], "table": ["age", "sex"], "precision": 1e-15,
    }.items():  # fmt: skip
        yield Attempt("setting", f"statistics {name}", "statistics", put("config", name, value=value))
    for name, value in {
        "mean twice": ["age", "age"], "mean reordered": ["sex", "age"], "by more": None,
    }.items():  # fmt: skip
        change = put("config", "mean", value=value) if value else put("config", "by", value=["sex", "zip"])
        yield Attempt("setting", name, "statistics", change)
    yield Attempt("setting", "by left out", "statistics", put("config", "by", value=_GONE))
    yield Attempt("setting", "an unknown one", "statistics", put("config", "raw", value=True))
    yield Attempt("setting", "names as text", "statistics", put("config", "mean", value="age"))
    for value in (0.02, 0, True, "0.01", math.nan, math.inf, _GONE):
        if value is not _GONE:
            yield Attempt("setting", f"mu {value!a}", "training", put("config", "mu", value=value))
    yield Attempt("setting", "columns of outliers", "outliers", put("config", "columns", value=["ssn"]))
    yield Attempt("setting", "all columns of outliers", "outliers", put("config", "columns", value=[]))
    yield Attempt("setting", "whisker", "outliers", put("config", "whisker", value=1e-9))


def _other_work() -> Iterator[Attempt]:
    for protocol, config in (
        *(
            ("fedavg", {}),
            ("scaffold", {}),
            ("fedbuff", {}),
            ("ditto", {}),
            ("cyclic", {}),
            ("evaluation", {}),
        ),
        *(
            ("inference", {}),
            ("inference", {"release": True}),
            ("function", {}),
            ("steps", {}),
            ("fednova", {}),
        ),
        *(("own", {"entry": "Mine", "text": ""}), ("fedper", {"personal": ["x"]}), ("none", {}), ("", {})),
        *(("finetuned", {"epochs": 9}), ("FedProx", {"mu": 0.01}), ("fedprox ", {"mu": 0.01})),
    ):
        change = has(protocol=protocol, config=config)
        yield Attempt("protocol", f"{protocol!r} {config} over the plan", "training", change)
    for protocol, config in (
        *(("outliers", {"columns": ["age"]}), ("kmeans", {"features": ["age"], "clusters": 2})),
        *(("pca", {"features": ["age"]}), ("psi", {"on": "age", "own": "node1"})),
        ("linear_regression", {"features": ["age"], "target": "sex"}),
    ):
        yield Attempt(
            "protocol", f"{protocol} for statistics", "statistics", has(protocol=protocol, config=config)
        )
    yield Attempt("protocol", "statistics with a plan", "statistics", has(plan=ref(TEXT), entry="Net"))
    for name, text in {
        "one more newline": TEXT + "\n", "no newline at the end": TEXT.rstrip(), "a blank": TEXT.replace("pass", "pass "),
        "other line ends": TEXT.replace("\n", "\r\n"), "tabs": TEXT.replace("    ", "\t"),
        "a comment": TEXT + "# fine\n", "a docstring": '"""Fine."""\n' + TEXT, "another import": "import os\n" + TEXT,
        "another body": TEXT.replace("pass", "x = 1"), "nothing": "", "a mark": "\ufeff" + TEXT,
    }.items():  # fmt: skip
        yield Attempt("plan", name, "training", has(plan=ref(text)))
    yield Attempt("plan", "none at all", "training", has(plan=None))
    yield Attempt("plan", "in parts", "training", has(plan=replace(ref(TEXT), parts=True)))
    for entry in ("Other", "net", "Net ", "N\u0435t", "", "Net.x", "_Net", "object"):
        yield Attempt("class", f"{entry!a}", "training", has(entry=entry))
    for name, change in {
        "limit": has(items=Items(limit=11)), "no limit": has(items=Items()), "new": has(items=Items(only="new")),
        "batch": has(items=Items(limit=10, batch=10)), "tolerate": has(items=Items(limit=10, tolerate=None)),
    }.items():  # fmt: skip
        yield Attempt("items", name, "training", change)
    for name, value in {
        "more": {"train": 0.9},
        "text": {"train": "0.8"},
        "none": {},
        "two": {"train": 0.8, "test": 0.2},
    }.items():
        yield Attempt("split", name, "training", has(split=value))
    for name, value in {
        "another file": {"base": ref("other")}, "another name": {"Base": ref("base")}, "none": {},
        "one more": {"base": ref("base"), "more": ref("more")},
    }.items():  # fmt: skip
        yield Attempt("artifacts", name, "training", has(artifacts=value))
    for name, value in {
        "another": ["2" * 64],
        "one more": ["1" * 64, "2" * 64],
        "none": [],
        "upper": ["A" * 64],
    }.items():
        yield Attempt("children", name, "training", has(launches=value))
    for name, steps in {
        "none": [], "more columns": [{"step": "select", "columns": ["x", "y", "ssn"]}],
        "another": [{"step": "filter", "column": "x", "is": "==", "value": 1}], "twice": TRAINING.preprocess * 2,
        "reordered columns": [{"step": "select", "columns": ["y", "x"]}], "bytes": [{"step": b"select"}],
    }.items():  # fmt: skip
        yield Attempt("preprocessing", name, "training", has(preprocess=steps))
    for name, props in {
        "another": {"site": "b"},
        "none": {},
        "more": {"site": "a", "x": 1},
        "type": {"site": ["a"]},
    }.items():
        yield Attempt("props", name, "training", has(props=props))


def _data_and_people() -> Iterator[Attempt]:
    for dataset in ("other", "toy ", "Toy", "", "t\u043ey", "none", "../toy"):
        yield Attempt("data", f"dataset {dataset!a}", "training", has(dataset=dataset))
    yield Attempt("data", "private for mock", "mock", has(use="private"))
    for use in ("mock", "Private", "", "both"):
        yield Attempt("data", f"use {use!r}", "training", has(use=use))
    for project in ("", "Heart", "heart ", "lung"):
        yield Attempt("project", f"{project!r}", "training", has(project=project))
    yield Attempt("files", "another archive", "brought", has(files=ref("other")))
    yield Attempt("files", "with a dataset of the node", "brought", has(dataset="toy"))
    yield Attempt("files", "none", "brought", has(files=None))
    yield Attempt("files", "beside the dataset", "training", has(files=ref("files")))
    yield Attempt(
        "version", "the data have changed", "training", meanwhile=lambda desk, grant: desk.write(rows=30)
    )
    for base in ("function", "training", "ranged", "statistics", "agreement", "agreement on a plan"):
        for sender in ("bob", "mallory"):
            yield Attempt("people", f"{base}: {sender}", base, sender=sender)

    def stolen_name(desk: Desk, grant: Grant) -> None:
        desk.parties["ann"] = Party("ann", "researcher", KEYS["mallory"])

    for base in ("function", "training", "ranged", "agreement", "agreement on a plan"):
        yield Attempt("people", f"{base}: another key under the name", base, meanwhile=stolen_name)

    def org_rule(desk: Desk, grant: Grant) -> None:
        desk.grants.allow(
            GrantSubject(researcher="org:acme", key_hex="", plan="*", entry="*", dataset="*"),
            limits=GrantLimits(),
            by="owner",
        )

    for unknown in ("pending", "deny", "allow"):
        yield Attempt(
            "people", f"an organisation of one's own words, unknown {unknown}", "training", has(entry="Other"),
            meanwhile=org_rule, settings=NodeConfig(unknown=unknown),
        )  # fmt: skip
    yield Attempt(
        "people", "an organisation that a stranger writes", "training", has(owner={"org": "acme"}), sender="mallory",
        meanwhile=org_rule, settings=NodeConfig(unknown="allow"),
    )  # fmt: skip


def _rounds() -> Iterator[Attempt]:
    for round_, step in (
        (6, "train"),
        (7, "train"),
        (7, "validate"),
        (10**9, "train"),
        (6, "anything"),
        (7, "loss"),
    ):
        yield Attempt("rounds", f"{step} in round {round_}", "training", round=round_, step=step)
    for args in (
        {"epochs": 3},
        {"num_updates": 9},
        {"lr": 0.2},
        {"extra": 1},
        {"epochs": 2.0},
        {"epochs": None},
    ):
        yield Attempt("rounds", f"step arguments {args}", "training", has(round_args=args))
    yield Attempt("rounds", "the last step's length in another", "tuned", has(round_args={"epochs": 2}))
    change = has(round_args={"epochs": 3})
    yield Attempt("rounds", "another length of the last step", "tuned", change, round=6, step="fine_tune")
    for value in (
        0.1,
        0.01,
        {"schedule": "piecewise", "values": {"1": 0.1}},
        {"values": {"1": 0.1, "3": 0.01}},
    ):
        yield Attempt(
            "rounds", f"for a schedule {value}", "scheduled", put("training_args", "lr", value=value)
        )


def _time_and_races() -> Iterator[Attempt]:
    def revoke(desk: Desk, grant: Grant) -> None:
        desk.grants.revoke(grant.id, by="owner")

    def expire(desk: Desk, grant: Grant) -> None:
        desk.grants.approve(grant.id, by="owner", limits=GrantLimits(until=time.time() - 1))

    def use_up(desk: Desk, grant: Grant) -> None:
        desk.grants.usage.begin(grant.id, OTHER_JOB)

    def spend(desk: Desk, grant: Grant) -> None:
        desk.grants.approve(grant.id, by="owner", limits=GrantLimits(rows=10))
        desk.grants.usage.bind("k0", grant.id)
        desk.grants.usage.spend("k0", rows=10)

    def narrow(desk: Desk, grant: Grant) -> None:
        desk.grants.approve(grant.id, by="owner", limits=parse_limits(args=["epochs=5..9"]))

    def limit_project(desk: Desk, grant: Grant) -> None:
        desk.grants.projects.limit("heart", parse_limits(args=["lr=..0.01"]), "owner")

    def limit_all(desk: Desk, grant: Grant) -> None:
        desk.grants.projects.limit("default", parse_limits(min_rows=1000), "owner")

    def limit_another(desk: Desk, grant: Grant) -> None:
        desk.grants.projects.limit("heart", parse_limits(min_rows=1000), "owner")

    def file_another(desk: Desk, grant: Grant) -> None:
        desk.filed(put("training_args", "column", value="ssn")(FUNCTION), 1)

    def reject_another(desk: Desk, grant: Grant) -> None:
        file_another(desk, grant)
        (pending,) = desk.grants.all("pending")
        desk.grants.reject(pending.id, by="owner", note="no")

    def half(desk: Desk, grant: Grant) -> None:
        desk.grants.revoke(grant.id, by="owner")
        desk.grants.approve(grant.id, by="eve", approvers=2)

    def unregister(desk: Desk, grant: Grant) -> None:
        desk.database.execute("DELETE FROM datasets WHERE name = 'toy'")

    for base in ("function", "training", "ranged", "statistics", "agreement"):
        yield Attempt("time", f"{base}: revoked", base, meanwhile=revoke)
        yield Attempt("time", f"{base}: expired", base, meanwhile=expire)
        yield Attempt("time", f"{base}: its rows are used up", base, meanwhile=spend)
        yield Attempt("time", f"{base}: the data were taken away", base, meanwhile=unregister)
    yield Attempt("time", "a second job under one run", "once", meanwhile=use_up)
    other = put("training_args", "column", value="ssn")
    yield Attempt(
        "race", "another question is filed before the task comes", "function", other, meanwhile=file_another
    )
    yield Attempt("race", "another question was rejected", "function", other, meanwhile=reject_another)
    yield Attempt("race", "narrowed after the approval", "ranged", meanwhile=narrow)
    yield Attempt("race", "one of two approvers", "training", meanwhile=half)
    yield Attempt("race", "the project was limited", "training", meanwhile=limit_project)
    yield Attempt("race", "everything was limited", "training", meanwhile=limit_all)
    yield Attempt("race", "no project under an agreement for one", "agreement in a project", has(project=""))
    leave = has(project="made-up")
    yield Attempt(
        "race", "another project than limited", "agreement on a plan", leave, meanwhile=limit_another
    )
    yield Attempt(
        "race", "no project at all", "agreement on a plan", has(project=""), meanwhile=limit_another
    )
    yield Attempt("race", "an operation that the node does not run any more", "training", settings=NodeConfig(
        operations="fedjob.analytics.*"
    ))  # fmt: skip
    yield Attempt(
        "race", "a project that the node has left", "training", settings=NodeConfig(projects="lung")
    )
    yield Attempt(
        "race", "data of one's own are not taken any more", "brought", settings=NodeConfig(bring="off")
    )


def _agreements() -> Iterator[Attempt]:
    for name, change in {
        "lr": put("training_args", "lr", value=5), "nested": put("training_args", "optimizer", "lr", value=5),
        "not named": put("training_args", "momentum", value=0.9), "left out": put("training_args", "lr", value=_GONE),
        "another optimizer": put("training_args", "optimizer", "name", value="adam"),
        "nested, not named": put("training_args", "optimizer", "x", value=1),
        "model arguments": has(model_args={"width": 8}), "props": has(props={"x": 1}), "column": put(
            "training_args", "column", value="ssn"
        ), "settings": has(protocol="fedprox", config={"mu": 0.5}), "epochs": put("training_args", "epochs", value=9),
    }.items():  # fmt: skip
        yield Attempt("agreement", name, "agreement", change)
    yield Attempt("agreement", "another plan", "agreement on a plan", has(plan=ref(TEXT + "#")))
    yield Attempt("agreement", "another class", "agreement on a plan", has(entry="Other"))
    yield Attempt("agreement", "predictions for training", "agreement on a plan", has(protocol="inference"))
    yield Attempt("agreement", "private for mock", "agreement on a plan", has(dataset="other"))
    yield Attempt("agreement", "another project", "agreement in a project", has(project="lung"))
    for protocol, config in (("outliers", {"columns": ["age"]}), ("pca", {"features": ["age"]})):
        yield Attempt("agreement", protocol, "agreement on statistics", has(protocol=protocol, config=config))
    yield Attempt("agreement", "a plan", "agreement on statistics", has(plan=ref(TEXT), entry="Net"))


def attempts() -> list[Attempt]:
    """Return all attempts, each under a name of its own."""
    found = [
        *(*_arguments(), *_ranges(), *_settings(), *_other_work(), *_data_and_people(), *_rounds()),
        *(*_time_and_races(), *_agreements()),
    ]
    assert len({(one.kind, one.name) for one in found}) == len(found)
    return found


# --- what is the same question, and runs --------------------------------------------------------------

SAME: dict[str, tuple[str, Callable[[Task], Task], int, str]] = {
    "the very same": ("function", has(), 1, "train"),
    "entries in another order": (
        "function", has(training_args=dict(reversed(FUNCTION.training_args.items()))), 1, "train"
    ),
    "another seed": ("training", has(seed=7), 1, "train"),
    "other parameters, state and values": (
        "training", has(params={"params": ref("p")}, values={"turn": 1}, state="0" * 32, keep_states=[]), 3, "train"
    ),
    "other resources and limits of time": ("training", has(resources={"cpus": 1}, limit_s=9.0), 2, "train"),
    "the last round": ("training", has(), 5, "train"),
    "a validation after the last round": ("training", has(), 6, "validate"),
    "the same length again in a step": ("training", has(round_args={"epochs": 2}), 2, "train"),
    "a setting that is as it would be": ("training", has(config={}), 1, "train"),
    "an argument within its range": ("ranged", put("training_args", "lr", value=0.3), 1, "train"),
    "a schedule within its range": (
        "ranged",
        put("training_args", "lr", value={"schedule": "step_decay", "start": 0.5, "factor": 0.5, "every": 1}),
        4,
        "train",
    ),
    "a nested argument within its range": ("ranged", put("training_args", "optimizer", "lr", value=0.3), 1, "train"),
    "another column of the choices": ("ranged", put("training_args", "column", value="sex"), 1, "train"),
    "several of the choices": ("ranged", put("training_args", "column", value=["sex", "age"]), 1, "train"),
    "a column of statistics within the choices": ("ranged statistics", put("config", "mean", value=["sex"]), 1, "first"),
    "any arguments": ("any arguments", has(training_args={"x": {"y": 1}}, model_args={}), 1, "train"),
    "a schedule, every round": ("scheduled", has(), 4, "train"),
    "the last step of fine-tuning": ("tuned", has(round_args={"epochs": 2}), 6, "fine_tune"),
    "an agreement, within its ranges": ("agreement", put("training_args", "epochs", value=1), 9, "train"),
    "an agreement without ranges": ("agreement on a plan", has(training_args={"x": 1}), 9, "train"),
}  # fmt: skip
