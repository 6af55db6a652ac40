"""`fedjob node grants` and `fedjob node audit`, typed by an owner beside a running node."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from fedjob.common.terminal.times import when_of_text
from fedjob.common.types import new_job_id
from fedjob.identity.audit_heads import HeldHead
from fedjob.messaging.messages import Answer, Found, Offer, Ping, Pong, Result, Search
from fedjob.node.config.config import NodeConfig
from fedjob.node.storage.audit import FIRST, hash_record
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.analytics.statistics import Statistics
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.source.plan_source import plan_hash
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher
from tests.processes import Processes

RISKY = ADD_ONE.replace("import torch\n", "import os\nimport socket\nimport torch\n", 1).replace(
    "        inputs, targets = batch\n",
    '        inputs, targets = batch\n        os.system("date")  # nosec\n        eval("1 + 1")\n        open("dates", "a")\n',
)


class Owner:
    """Types `fedjob node ...` with the home of a node that runs in this process."""

    def __init__(self, processes: Processes, node: Node) -> None:
        self.processes = processes
        self.node = node

    def types(self, *words: str | Path, expect: int = 0) -> str:
        home = self.node.home.root
        done = self.processes.run("fedjob", "node", *words, "--home", home, expect=expect)
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stderr

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.types(*words, "--json"))

    def pending(self) -> str:
        (grant,) = self.json("grants", "list", "--pending")
        return str(grant["id"])


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def owner(federation: Federation, tmp_path: Path) -> Iterator[Owner]:
    with Processes(tmp_path / "logs") as processes:
        yield Owner(processes, federation.node(config=NodeConfig(contact="privacy@clinic.example")).start())


def asks(ann: Researcher, text: str = ADD_ONE, entry: str = "AddOne", **more: Any) -> str:
    """Offer, and return the offer's id once it is answered."""
    offer = ann.offer("node1", text, entry, **more)
    ann.answer_to(offer, Answer)
    return offer


def status(ann: Researcher, text: str = ADD_ONE, entry: str = "AddOne", **more: Any) -> str:
    return ann.answer_to(ann.offer("node1", text, entry, dry=True, **more), Answer).status


def answered(ann: Researcher, offer: str, status: str) -> Answer:
    found: Answer = ann.take(
        lambda received: next(
            (
                m.body
                for m in received
                if isinstance(m.body, Answer) and (m.body.of, m.body.status) == (offer, status)
            ),
            None,
        )
    )
    return found


@pytest.mark.feature("PS-23", "PS-25")
def test_show_prints_who_when_what_and_the_code(federation: Federation, owner: Owner) -> None:
    ann = federation.ann
    asks(
        ann,
        RISKY,
        project="heart",
        note="the cohort of March",
        job_name="heart-fedavg",
        owner={"name": "Ann Lee", "org": "acme", "role": "statistician"},
        model_args={"num_features": 2},
        training_args={"lr": 0.1},
        rounds=15,
        resources={"pool": "gpu"},
        launches=["ab" * 32],
    )
    id_ = owner.pending()
    shown = owner.types("grants", "show", id_, "--code")
    (listed,) = owner.json("grants", "list")
    code = [f"{number:>2}  {line}" for number, line in enumerate(RISKY.splitlines(), start=1)]
    expected = f"""\
grant         {id_}
status        pending
origin        request
who           ann (Ann Lee, acme, statistician)
key           {ann.identity.public_key_hex}
known         no: no request signed with this key was approved yet
when          {when_of_text(listed["requested"])}
question      training of the model of plan AddOne by fedavg (Federated averaging, weighted by the number of examples), \
15 rounds, lr 0.1: the trained parameters, the number of examples and metrics leave in every round
plan          AddOne
hash          {plan_hash(RISKY)}
protocol      fedavg
data          toy, 20 rows
version       {listed["version"][:16]}
use           private
arguments     num_features = 2
              lr = 0.1
rounds        15
nested plans  {"ab" * 8}
pool          gpu
project       heart
job           {ann.job} heart-fedavg
note          the cohort of March
moves         not known: its researcher's side can't say it before the job has run
takes         not known yet: nothing like it has run here
differs       nothing like it was approved for this researcher's key before
imports       torch
not installed -
"""
    head, text = shown.split("\n\n", 1)
    assert head + "\n" == expected
    lines = text.splitlines()
    assert [line for line in lines if re.match(r" ?\d", line) and "places" not in line] == code
    remarks = [
        (lines[n - 1].strip().split("  ")[-1], line.strip()) for n, line in enumerate(lines) if "^" in line
    ]
    assert ("import os", "^ import: os") in remarks
    assert ("import socket", "^ import: socket") in remarks
    text = "\n".join(lines)
    assert "socket: can talk to other machines" in text
    assert "Starting a process with a shell" in text  # although the plan says nosec
    assert "B307" in text
    assert "open(...): reads or writes a file?" in text
    assert "this list is a reading aid, no proof" in text


@pytest.mark.feature("PS-29", "TB-81")
def test_approve_says_what_is_allowed_now_and_the_one_who_waits_hears_of_it(
    federation: Federation, owner: Owner
) -> None:
    ann = federation.ann
    offer = asks(ann)
    said = owner.types(
        *("grants", "approve", owner.pending()[:6], "--note", "fine", "--by", "eve"),
        *(
            "--runs",
            "3",
            "--min-rows",
            "5",
            "--logs",
            "stdout",
            "--arg",
            "num_updates=1..9",
            "--until",
            "30d",
        ),
    )
    assert f"approved: ann may run plan AddOne ({plan_hash(ADD_ONE)[:12]}) on toy (private); until " in said
    assert said.rstrip().endswith("; 3 runs; at least 5 rows each; logs stdout; num_updates = 1..9")
    told = answered(ann, offer, "granted")
    assert (told.note, told.by) == ("fine", "eve")
    assert told.limits["args"] == {"num_updates": {"min": 1, "max": 9}}
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok


def test_an_approval_is_for_the_data_as_they_are_and_the_steps_that_were_asked_for(
    federation: Federation, owner: Owner
) -> None:
    ann = federation.ann
    steps = [{"step": "scale", "columns": ["x"]}]
    offer = asks(ann, preprocess=steps)
    asked_for = owner.json("grants", "show", owner.pending())["version"]
    path = owner.node.folder / "toy.npz"
    numpy.savez(path, x=numpy.ones((30, 2), "float32"), y=numpy.ones((30, 1), "float32"))
    time.sleep(1.1)
    assert "the data have changed since" in owner.types("grants", "approve", owner.pending())
    told = answered(ann, offer, "granted")
    assert told.version != asked_for
    assert status(ann) == "pending"  # without these steps


@pytest.mark.feature("PS-27")
def test_each_state_of_a_grant_comes_from_a_command_or_by_time(federation: Federation, owner: Owner) -> None:
    ann = federation.ann

    def states() -> dict[str, str]:
        return {grant["id"]: grant["status"] for grant in owner.json("grants", "list")}

    asks(ann)
    first = owner.pending()
    approved = owner.json("grants", "approve", first, "--until", "3s")
    assert approved["status"] == "granted"
    ann.take(lambda received: states()[first] == "expired")
    asks(ann)
    second = owner.pending()
    assert second != first
    owner.types("grants", "reject", second, "--reason", "not again")
    assert states() == {first: "expired", second: "rejected"}
    owner.types("grants", "approve", second)
    owner.types("grants", "revoke", second)
    assert states()[second] == "revoked"
    (shown,) = [line for line in owner.types("grants", "list").splitlines() if line.startswith(second)]
    assert shown.split()[1:7] == ["revoked", "request", "ann", "toy", "private", "AddOne"]


@pytest.mark.feature("TB-81")
def test_reject_tells_its_reason(federation: Federation, owner: Owner) -> None:
    offer = asks(federation.ann)
    assert "rejected: AddOne of ann on toy" in owner.types(
        "grants", "reject", owner.pending(), "--reason", "reads the disk"
    )
    assert answered(federation.ann, offer, "rejected").note == "reads the disk"


def test_decisions_that_can_not_be_made_are_refused_with_what_to_do(
    federation: Federation, owner: Owner
) -> None:
    ann = federation.ann
    assert "there is no grant 'abc'; see `fedjob node grants list`" in owner.types(
        "grants", "approve", "abc", expect=1
    )
    for number in range(17):  # two of seventeen ids begin with the same of sixteen digits
        asks(ann, ADD_ONE.replace("lr=0.1", f"lr=0.{number + 2}"))
    ids = [grant["id"] for grant in owner.json("grants", "list")]
    first = next(id_[0] for id_ in ids if sum(other[0] == id_[0] for other in ids) > 1)
    assert "begins several grants: " in owner.types("grants", "approve", first, expect=1)
    id_ = ids[0]
    owner.types("grants", "approve", id_)
    assert "is granted already" in owner.types("grants", "approve", id_, expect=1)
    assert "is in force: revoke it" in owner.types("grants", "reject", id_, "--reason", "no", expect=1)
    assert "may no longer run plan AddOne" in owner.types("grants", "revoke", id_, "--reason", "over")
    assert "is revoked: only one that is granted" in owner.types("grants", "revoke", id_, expect=1)
    for words, said in (
        (("approve", ids[1], "--until", "yesterday"), "--until is a date such as"),
        (("approve", ids[1], "--until", "2001-01-01"), "has passed"),
        (("approve", ids[1], "--runs", "0"), "--runs is 1 or more"),
        (("approve", ids[1], "--arg", "lr"), "--arg is NAME=MIN..MAX"),
        (("approve", ids[1], "--arg", "lr=9..1"), "--arg is NAME=MIN..MAX"),
        (("allow", "--who", "ann"), "--use private needs --plan and --data"),
        (("allow", "--who", "ann", "--plan", "*", "--data", "tooy"), "did you mean 'toy'"),
        (("allow", "--who", "key:ab", "--use", "mock"), "--who key:HEX takes 16 to 64"),
        (("allow", "--who", "ann", "--plan", "AddOne", "--data", "toy"), "matches several plans"),
        (("allow", "--who", "ann", "--plan", "Nobody", "--data", "toy"), "no request has this hash"),
        (
            ("allow", "--who", "ann", "--plan", "fedjob.none", "--data", "toy"),
            "matches no operation; known: fedjob.",
        ),
        (("know", "ann", "--key", "xyz"), "--key is a public key"),
    ):
        if "AddOne" in words:
            owner.types("grants", "approve", ids[2])
            owner.types("grants", "approve", ids[3])
        assert said in owner.types("grants", *words, expect=1)
    assert owner.json("grants", "show", ids[1])["status"] == "pending"


@pytest.mark.feature("TB-82", "NV-40")
def test_agreements_are_made_by_patterns_and_answer_what_waited(
    federation: Federation, owner: Owner, tmp_path: Path
) -> None:
    ann, claim = federation.ann, {"org": "acme"}
    file = tmp_path / "plan.py"
    file.write_text(ADD_ONE)
    text = extract(f"{file}:AddOne").text
    offer = asks(ann, text, owner=claim)
    said = owner.types(
        *(
            "grants",
            "allow",
            "--who",
            "ann",
            "--plan",
            file,
            "--data",
            "to*",
            "--runs",
            "2",
            "--note",
            "as in 2029",
        )
    )
    assert (
        f"allowed: ann may run plan AddOne ({plan_hash(text)[:12]}) on to* (private); 2 runs; agreement "
        in said
    )
    assert "1 waiting request is granted by it" in said
    assert (answered(ann, offer, "granted").origin, answered(ann, offer, "granted").note) == (
        "rule",
        "as in 2029",
    )
    for _ in range(2):
        assert ann.result("node1", ann.task(text, "AddOne")).ok
        ann.job = new_job_id()
    assert status(ann, text) == "pending"  # the third run
    other = text.replace("lr=0.1", "lr=0.2")
    assert status(ann, other, owner=claim) == "pending"  # another plan

    org = owner.json(
        "grants", "allow", "--who", "org:acme", "--plan", "*", "--data", "*", "--project", "heart"
    )
    assert (org["origin"], org["status"]) == ("rule", "granted")
    assert status(ann, other, owner=claim, project="heart") == "pending"  # anybody can say so
    owner.types("grants", "know", "ann", "--key", ann.identity.public_key_hex, "--org", "acme")
    assert [r["org"] for r in owner.json("grants", "researchers")] == ["acme"]
    assert status(ann, other, project="heart") == "granted"
    assert status(ann, other) == "pending"
    owner.types("grants", "revoke", org["id"])
    assert status(ann, other, project="heart") == "pending"


@pytest.mark.feature("FB-36")
def test_the_owner_is_told_that_only_form_differs_from_an_approved_plan(
    federation: Federation, owner: Owner
) -> None:
    ann = federation.ann
    asks(ann)
    approved = owner.pending()
    owner.types("grants", "approve", approved)
    asks(
        ann,
        ADD_ONE.replace("lr=0.1)", "lr=0.1)  # as before").replace("import torch\n", "import torch\n\n\n", 1),
    )
    new = owner.pending()
    decided = re.search(r"^decided +(\S+ \S+ \S+) by", owner.types("grants", "show", approved), re.MULTILINE)
    assert decided is not None
    assert (
        f"only comments or formatting differ from the plan approved on {decided[1]} (grant {approved})"
        in owner.types("grants", "show", new)
    )
    assert owner.json("grants", "show", new)["differs_only_in_form_from"] == approved
    owner.types("grants", "reject", new, "--reason", "no")
    asks(ann, ADD_ONE.replace("lr=0.1", "lr=0.2"))
    assert owner.json("grants", "show", owner.pending())["differs_only_in_form_from"] == ""


def test_two_people_have_to_agree_where_the_node_is_set_so(federation: Federation, owner: Owner) -> None:
    ann = federation.ann
    owner.types("config", "set", "approvers", "2")
    offer = asks(ann)
    id_ = owner.pending()
    assert "1 of 2 approvals" in owner.types("grants", "approve", id_, "--by", "eve", "--runs", "4")
    assert status(ann) == "pending"
    assert "waits for another person" in owner.types("grants", "approve", id_, "--by", "eve", expect=1)
    assert "approved: ann may run" in owner.types("grants", "approve", id_, "--by", "max")
    assert answered(ann, offer, "granted").by == "eve, max"
    rule = owner.json("grants", "allow", "--who", "ann", "--use", "mock", "--by", "eve")
    assert rule["status"] == "pending"


def test_show_tells_what_a_built_in_operation_is_to_compute(federation: Federation, owner: Owner) -> None:
    name, config = PROTOCOLS.config_of(Statistics(mean=["age", "chol"], by="sex"))
    ann = federation.ann
    ann.answer_to(ann.send("node1", Offer(dataset="toy", protocol=name, config=config)), Answer)
    shown = owner.types("grants", "show", owner.pending())
    assert "settings      mean = ['age', 'chol']" in shown


def test_limits_of_projects_are_set_and_shown(federation: Federation, owner: Owner) -> None:
    said = owner.types("grants", "project", "heart", "--min-rows", "30", "--logs", "none")
    assert "project heart: at least 30 rows each; logs none" in said
    assert owner.types("grants", "project", "open").strip() == "project open: no limits of its own"
    answer = federation.ann.offer("node1", ADD_ONE, "AddOne", project="heart")
    assert federation.ann.answer_to(answer, Answer).reason == "min_rows"


def test_a_protection_that_is_not_built_is_refused_where_an_owner_writes_it(owner: Owner) -> None:
    refused = owner.types("grants", "project", "heart", "--protection", "noise", expect=1)
    assert "there is no protection 'noise': this version of fedjob enforces secagg, dp" in refused


@pytest.mark.feature("TB-85")
def test_the_audit_is_shown_verified_exported_and_notices_what_was_changed(
    federation: Federation, owner: Owner, tmp_path: Path
) -> None:
    ann = federation.ann
    asks(ann, job_name="=cmd()", owner={"org": "=1+1"})
    owner.types("grants", "approve", owner.pending(), "--by", "eve")
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok
    records = owner.json("audit")
    assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
    assert {r["kind"] for r in records} == {"grant", "researcher", "use", "task"}
    assert "granted ann AddOne toy private" in owner.types("audit")
    verified = owner.json("audit", "verify")
    assert verified["verified"] == len(records)
    owner.types("audit", "verify", "--against", records[2]["hash"])
    assert "the chain was written anew" in owner.types("audit", "verify", "--against", "ab" * 32, expect=1)

    lines, table = tmp_path / "audit.jsonl", tmp_path / "audit.csv"
    owner.types("audit", "export", lines)
    exported = [json.loads(line) for line in lines.read_text().splitlines()]
    assert exported[: len(records)] == records
    owner.types("audit", "export", table)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == len(exported)
    assert rows[0]["status"] == "pending"
    assert not any(cell.startswith("=") for row in rows for cell in row.values())

    federation.nodes[0].stop()
    with sqlite3.connect(owner.node.home.database) as database:
        database.execute("UPDATE audit SET body = replace(body, 'eve', 'max') WHERE seq = 3")
    database.close()
    said = owner.types("audit", "verify", expect=1)
    assert "audit record 3" in said
    assert "was changed" in said
    assert "unbroken" in owner.types("audit", "verify", "--chain", lines)


def kept_heads(federation: Federation, node: Node) -> list[HeldHead]:
    """Return the heads of every reply of a node that ann has received."""
    replies = [m for m in federation.ann.received if isinstance(m.body, (Answer, Found, Pong, Result))]
    assert all(m.body.audit is not None for m in replies)
    return [
        HeldHead(
            node=m.sender,
            federation=federation.name,
            key=node.identity.public_key_hex,
            seq=m.body.audit.seq,
            hash=m.body.audit.hash,
            signature=m.body.audit.signature,
        )
        for m in replies
        if m.sender == node.name
    ]


def test_every_reply_carries_a_signed_head_that_covers_what_it_replies_and_shows_a_chain_that_was_rewritten(
    federation: Federation, owner: Owner, tmp_path: Path
) -> None:
    ann, node = federation.ann, owner.node
    ann.answer_to(ann.send("node1", Ping()), Pong)
    ann.answer_to(ann.send("node1", Search(tags=["toy"])), Found)
    asks(ann)
    owner.types("grants", "approve", owner.pending(), "--by", "eve")
    task = ann.task(ADD_ONE, "AddOne")
    result = ann.result("node1", task)
    refused = ann.result("node1", replace(task, dataset="none"), step="other")
    assert (result.ok, refused.ok) == (True, False)
    heads = kept_heads(federation, node)
    assert {type(m.body) for m in ann.received if hasattr(m.body, "audit")} >= {Answer, Found, Pong, Result}
    assert all(head.is_signed for head in heads)
    records = owner.json("audit")
    assert result.audit is not None
    covered = [r["body"]["state"] for r in records if r["kind"] == "task" and r["seq"] <= result.audit.seq]
    assert "completed" in covered

    file, export = tmp_path / "heads.jsonl", tmp_path / "audit.jsonl"
    other = replace(heads[0], node="node2")
    file.write_text("".join(head.to_line() + "\n" for head in (*heads, other)))
    checked = owner.json("audit", "verify", "--against", file)
    assert (checked["held"], checked["not_of_this_node"]) == (len(heads), 1)
    owner.types("audit", "export", export)

    node.stop()
    with sqlite3.connect(node.home.database) as database:
        rewrite(database, from_record=result.audit.seq, body='{"state":"failed"}')
    database.close()
    assert "unbroken" in owner.types("audit", "verify")
    shown = owner.types("audit", "verify", "--against", file, expect=1)
    assert f"audit record {result.audit.seq} is not the one whose head was given away" in shown
    assert "fits to" in owner.types("audit", "verify", "--against", file, "--chain", export)
    assert "there is no file" in owner.types("audit", "verify", "--against", tmp_path / "none", expect=1)


def rewrite(database: sqlite3.Connection, *, from_record: int, body: str) -> None:
    """Change a record, and give it and all after it the right hashes, as whoever has the whole database can."""
    database.execute("UPDATE audit SET body = ? WHERE seq = ?", (body, from_record))
    before = FIRST
    for seq, at, kind, subject, text in database.execute(
        "SELECT seq, at, kind, subject, body FROM audit ORDER BY seq"
    ).fetchall():
        before = hash_record(before, seq, at, kind, subject, text)
        database.execute("UPDATE audit SET hash = ? WHERE seq = ?", (before, seq))
        database.execute("UPDATE audit_head SET seq = ?, hash = ?", (seq, before))


def test_show_says_in_what_a_request_differs_from_what_was_approved_and_draws_what_could_hide(
    federation: Federation, owner: Owner
) -> None:
    ann = federation.ann
    asks(ann, training_args={"num_updates": 2, "column": "age"})
    first = owner.pending()
    owner.types("grants", "approve", first, "--arg", "num_updates=1..3")
    assert status(ann, training_args={"num_updates": 3, "column": "age"}) == "granted"
    asks(ann, training_args={"num_updates": 2, "column": "\u0430ge" + "x" * 1200})
    shown = owner.types("grants", "show", owner.pending())
    assert f"differs       in 1 way from grant {first}, approved on " in shown
    assert "training_args.column is '\\u0430ge" in shown
    assert "x" * 1200 in shown
    owner.types("grants", "reject", owner.pending(), "--reason", "no")
    changed = ADD_ONE.replace("import torch\n", "import torch\n\nX = 1" + " " * 95 + "; Y = 2\n")
    asks(ann, changed, training_args={"num_updates": 2, "column": "age"})
    shown = owner.types("grants", "show", owner.pending(), "--code")
    assert "the plan's text is another, approved was " in shown
    assert "X = 1" + "\u00b7" * 95 + "; Y = 2" in shown
    assert "95 blanks in one piece: code stands behind them" in shown
    assert f"changes since the plan of grant {first}:" in shown
    assert "+X = 1" + "\u00b7" * 95 + "; Y = 2" in shown
    plain = owner.json("grants", "show", owner.pending())
    assert (plain["differs_from"], plain["differences"][-1][:27]) == (first, "the plan's text is another,")
    assert plain["question_in_words"].startswith("training of the model of plan AddOne by fedavg")
