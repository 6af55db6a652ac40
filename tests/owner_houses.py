"""Homes of nodes with everything in them that an owner's page shows: by people who mean well, and by one who does not."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pandas

from fedjob.common.codec import pack, to_plain
from fedjob.common.lifecycle import State
from fedjob.common.pages.password import PagePassword
from fedjob.common.pages.site import PageSite, listen_on_loopback, make_page_server
from fedjob.common.types import Ref
from fedjob.identity.enrolment import save_membership
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership
from fedjob.messaging.messages import Result, Task
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.contract import Request
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.grants.limits import parse_limits
from fedjob.node.page.site import owner_site
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

PLAN = '''\
"""Predicts readmission within thirty days from routine laboratory values."""

import torch
from fedjob import TorchPlan


class Readmission(TorchPlan):
    def init_model(self, model_args):
        width = model_args["width"]
        return torch.nn.Sequential(
            torch.nn.Linear(6, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, 1),
        )

    def init_optimizer(self, model, training_args):
        return torch.optim.Adam(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        frame = dataset.frame()
        inputs = torch.tensor(frame.drop(columns="readmitted").to_numpy(), dtype=torch.float32)
        return inputs, torch.tensor(frame["readmitted"].to_numpy(), dtype=torch.float32)

    def training_step(self, model, batch):
        inputs, targets = batch
        logits = model(inputs).squeeze(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
'''

CHANGED = PLAN.replace("import torch\n", "import os\n\nimport torch\n", 1).replace(
    "        frame = dataset.frame()\n",
    '        cache = os.environ.get("CACHE", "/tmp/cache.pt")\n'
    "        if os.path.exists(cache):\n"
    "            return torch.load(cache, weights_only=False)\n"
    "        frame = dataset.frame()\n",
)

OWNERS = {
    "ann": {"name": "Ann Lindqvist", "org": "Karolinska Institute", "role": "biostatistician"},
    "ben": {"name": "Ben Okafor", "org": "University of Basel", "role": "data scientist"},
}
ARGS = {"lr": 0.001, "epochs": 2, "batch_size": 64}


def sha(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


class House:
    """A node's home with data and a membership; its daemon does not run."""

    def __init__(self, folder: Path, name: str = "clinic-bern") -> None:
        self.folder = folder
        self.home = NodeHome(folder / name)
        self.home.create()
        self.identity = Identity.load_or_create(self.home.keys, name)
        save_membership(
            self.home.root,
            Membership(
                hub_url="http://127.0.0.1:1",
                federation="heart-failure",
                party=name,
                role="node",
                token="t" * 32,
                broker_url="mqtt://127.0.0.1:1",
                broker_password="p" * 32,
            ),
        )
        self.database = Database(self.home.database)
        self.grants = Grants(self.database)
        self.tasks = TaskStore(self.database)

    def add_table(self, name: str, rows: int, columns: int = 6, **about: Any) -> None:
        """Offer a table of made-up laboratory values."""
        names = ("age", "creatinine", "sodium", "haemoglobin", "nt_probnp", "ejection_fraction")[:columns]
        values = numpy.random.default_rng(len(name)).normal(size=(rows, columns)).round(3)
        frame = pandas.DataFrame(values, columns=list(names))
        frame["readmitted"] = (values[:, 0] > 0).astype(int)
        path = self.folder / f"{name}.csv"
        frame.to_csv(path, index=False)
        if about.pop("has_mock", False):
            mock = self.folder / f"{name}_mock.csv"
            frame.sample(20, random_state=1).assign(age=0.0).to_csv(mock, index=False)
            about["mock"] = mock
        Datasets(self.database).add(describe_dataset(name, path, **about))

    def asks(
        self,
        text: str = PLAN,
        *,
        who: str = "ann",
        dataset: str = "heart_failure",
        entry: str = "Readmission",
        protocol: str = "fedavg",
        **asked: Any,
    ) -> str:
        """File a request as the daemon does, and return its id."""
        plan = sha(text) if text else ""
        subject = GrantSubject(
            researcher=who,
            key_hex=sha(f"key of {who}"),
            plan=plan,
            entry=entry,
            dataset=dataset,
            question=sha(repr(sorted(asked.items()))),
        )
        request = Request(**{"owner": OWNERS.get(who, {}), "operation": f"fedjob.train.{protocol}", **asked})
        return self.grants.file(subject, text.encode(), protocol=protocol, asked=request).id

    def computes(
        self,
        job: str,
        round_: int,
        *,
        state: State = State.COMPLETED,
        result: Result | None = None,
        **about: Any,
    ) -> str:
        """Take a task through the queue's table as the daemon does, and return its key."""
        key = sha(f"{job} {round_} {about}")
        task = Task(dataset="heart_failure", protocol="fedavg", seed=1)
        answer = result or Result(
            of="",
            key=key,
            ok=True,
            params=Ref(sha(key), 48_216),
            num_examples=1204,
            metrics={"train": {"loss": {"sum": 310.2, "n": 1204}}},
        )
        row = TaskRow(
            **{

                    "key": key, "job": job, "researcher": "ann", "dataset": "heart_failure", "round": round_,
                    "step": "train", "epoch": 1, "attempt": 1, "reply_to": "ann", "message": key[:16],
                    "order": pack(to_plain(task)), "seq": round_, "state": State.QUEUED,
                    "project": "readmission", "job_name": "readmission-2026"
                ,
                **about,
            }
        )  # fmt: skip
        for step in (State.QUEUED, State.RUNNING, state):
            final = step == state and step not in (State.QUEUED, State.RUNNING)
            packed = pack(to_plain(answer)) if final else b""
            reason = "exception" if step == State.FAILED else ""
            self.tasks.put_task(replace(row, state=step, result=packed, reason=reason))
            if step == state:
                break
        return key

    def close(self) -> None:
        self.database.close()


def furnish(house: House) -> dict[str, str]:
    """Fill a home as a clinic's is after some weeks; return the ids of its requests by what they are."""
    from fedjob.node.owner.budgets import set_budget
    from fedjob.node.protection.privacy_accounts import PrivacyAccounts
    from fedjob.node.protection.privacy_ledger import Wanted
    from fedjob.privacy.dp.mechanisms import Gaussian

    house.add_table(
        "heart_failure", 1204, tags=["cardiology", "readmission"], min_rows=50, has_mock=True,
        description="Admissions for heart failure since 2019, one row a patient, laboratory values at admission.",
        contact="Dr. Mira Keller, data steward, data@clinic-bern.example",
    )  # fmt: skip
    house.add_table("stroke_registry", 386, columns=4, tags=["neurology"], min_rows=20)
    set_budget(house.database, "heart_failure", epsilon=3.0, by="Mira Keller")
    accounts = PrivacyAccounts(house.database)
    accounts.reserve(
        Wanted(
            dataset="heart_failure", job="job_k3", researcher="ben", project="", mechanisms=(Gaussian(noise=4.0, rate=1.0, number=1),),
            epsilon=2.0, delta=1e-5,
        ),
        task=sha("charge"), round_=1, step="statistics",
    )  # fmt: skip
    ids = {"approved": house.asks(model_args={"width": 16}, training_args=ARGS, rounds=20, job="job_a1")}
    house.grants.approve(
        ids["approved"], by="Mira Keller", note="as agreed in the data use agreement",
        limits=parse_limits(until="180d", runs=3, min_rows=50),
    )  # fmt: skip
    ids["changed"] = house.asks(
        CHANGED, model_args={"width": 32}, training_args={**ARGS, "lr": 0.01}, rounds=40, job="job_b2",
        job_name="readmission-2026", project="readmission",
        note="The second version: a wider layer, and a cache so that epochs are faster.",
    )  # fmt: skip
    columns = ["age", "nt_probnp", "ejection_fraction"]
    ids["statistics"] = house.asks(
        "", who="ben", entry="statistics", protocol="statistics", operation="fedjob.analytics.statistics", job="job_c3",
        config={"mean": columns, "std": columns, "count": columns, "by": ["readmitted"]}, job_name="table-1",
    )  # fmt: skip
    ids["rejected"] = house.asks(
        PLAN.replace("Adam", "SGD"),
        who="ben",
        dataset="stroke_registry",
        training_args=ARGS,
        rounds=5,
        job="job_d4",
    )
    house.grants.reject(ids["rejected"], by="Mira Keller", note="the ethics vote does not cover the registry")
    rule = GrantSubject(
        researcher="ann",
        key_hex="",
        plan="fedjob.analytics.statistics",
        entry="",
        dataset="heart_failure",
        use="private",
    )
    house.grants.allow(rule, limits=parse_limits(until="1w", min_rows=100), by="Mira Keller")
    for round_ in range(1, 6):
        house.computes("job_a1", round_)
    house.computes("job_c0", 1, step="statistics", researcher="ben", job_name="table-1", result=Result(
        of="", key="", ok=True, value={"mean": {"age": 71.2, "nt_probnp": 2310.0}, "count": 1204}, num_examples=1204,
    ))  # fmt: skip
    ids["failed"] = house.computes("job_a1", 6, state=State.FAILED, result=Result(
        of="", key="", ok=False, reason="exception", detail="ValueError at line 27",
    ))  # fmt: skip
    ids["running"] = house.computes("job_a1", 7, state=State.RUNNING)
    (house.home.task_logs / f"{ids['failed']}.stdout").write_text("epoch 1: loss 0.61\nepoch 2: loss 0.58\n")
    (house.home.task_logs / f"{ids['failed']}.stderr").write_text(
        'Traceback (most recent call last):\n  File "plan.py", line 27, in training_step\nValueError: shapes differ\n'
    )
    return ids


EVIL = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "' autofocus onfocus=window.pwned=1 x='",
    "</textarea></pre></code><svg onload=window.pwned=1>",
    "{{ 98765*4321 }}{% raw %}{{ config }}",
    "javascript:window.pwned=1",
    "\u202eexe.\u2066\x1b[31m\x00\x07",
    "`<b>`",
]
TEXT = " ".join(EVIL)
"""All of them in one text."""


def fill_with_evil(house: House, folder: Path) -> dict[str, str]:
    """Put hostile texts wherever a researcher, a plan, or a file can put one."""
    (folder / "evil.csv").write_text(
        ",".join(f'"{one.replace(chr(34), chr(34) * 2)}"' for one in EVIL[:6]) + "\n1,2,3,4,5,6\n"
    )
    Datasets(house.database).add(
        describe_dataset("evil", folder / "evil.csv", tags=["<img>"], description=TEXT.replace("\x00", ""))
    )
    text = PLAN + "".join(f"\n# {one}" for one in EVIL if "\x00" not in one) + f"\nX = {TEXT!r}\n"
    common = {
        "who": f"mallory {TEXT}",
        "entry": f"Net{TEXT}",
        "owner": {"name": TEXT, "org": TEXT, "role": TEXT},
    }
    about: dict[str, Any] = {
        "note": TEXT, "job_name": TEXT, "project": TEXT, "job": f"job{TEXT}", "model_args": {TEXT: TEXT}, "props": {TEXT: [TEXT]},
        "training_args": {"lr": TEXT}, "artifacts": {TEXT: "ab" * 32}, "resources": {"pool": TEXT}, "preprocess": TEXT,
    }  # fmt: skip
    ids = {"evil_before": house.asks(text.replace("Adam", "SGD"), dataset="evil", **common, **about)}
    house.grants.approve(
        ids["evil_before"], by=f"Mira {TEXT}", note=TEXT, limits=parse_limits(args=["lr=<b>,c"])
    )
    ids["evil"] = house.asks(text, dataset="evil", **common, **{**about, "job": "other"})
    ids["evil_statistics"] = house.asks(
        "", dataset="evil", **{**common, "entry": "statistics"}, protocol="statistics", operation="fedjob.analytics.statistics",
        config={"mean": [TEXT, *EVIL]}, job=f"job{TEXT}",
    )  # fmt: skip
    rule = GrantSubject(
        researcher=f"*{TEXT}", key_hex="", plan="*", entry="*", dataset="*", use="mock", project=TEXT
    )
    ids["evil_rule"] = house.grants.allow(rule, limits=parse_limits(), by=TEXT, note=TEXT).id
    about = {"researcher": TEXT, "dataset": f"e{TEXT}", "step": TEXT, "project": TEXT, "job_name": TEXT}
    ids["evil_task"] = house.computes(f"job {TEXT}", 1, **about)
    for stream in ("stdout", "stderr"):
        house.home.log_of(ids["evil_task"], stream).write_text(f"{TEXT}\n" * 3)
    Audit(house.database).add(
        "<b>kind</b>", TEXT, {"status": TEXT, "reason": TEXT, "by": TEXT, "value": TEXT}
    )
    return ids


class Opened:
    """A page that is served.

    Args:
        origin: its address, such as `http://127.0.0.1:8123`.
    """

    def __init__(self, site: PageSite, origin: str) -> None:
        self.site, self.origin = site, origin


@contextmanager
def served(
    home: NodeHome,
    password: PagePassword | None = None,
    *,
    listener: socket.socket | None = None,
    **about: Any,
) -> Iterator[Opened]:
    """Serve the owner's page of a home, as the command does, from a thread of this process."""
    listener = listener or listen_on_loopback(0)
    port = int(listener.getsockname()[1])
    site = owner_site(home, port=port, password=password, **about)
    server = make_page_server(site)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="page")
    thread.start()
    try:
        yield Opened(site, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()
