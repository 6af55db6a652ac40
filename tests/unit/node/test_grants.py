from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.messages import Offer
from fedjob.common.types import Ref
from fedjob.node.database import Database
from fedjob.node.datasets import Dataset, Datasets, told_within
from fedjob.node.grants import MAX_WAITING, Grants, Subject, Waiting
from fedjob.node.policy import examine_plan, judge
from fedjob.node.settings import NodeConfig

TEXT = b"class Net:\n    pass\n"
SUBJECT = Subject(
    researcher="ann", key_hex="ab" * 32, plan=hashlib.sha256(TEXT).hexdigest(), entry="Net", dataset="toy"
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def grants(database: Database) -> Grants:
    return Grants(database)


def status(database: Database, researcher: str = "ann", key_hex: str = "ab" * 32, **changes: object) -> str:
    offer = Offer(dataset="toy", protocol="fedavg", plan=Ref(SUBJECT.plan, len(TEXT)), entry="Net")
    verdict = judge(
        replace(offer, **changes),  # type: ignore[arg-type]
        researcher=researcher,
        key_hex=key_hex,
        datasets=Datasets(database),
        grants=Grants(database),
        config=NodeConfig(),
    )
    return verdict.status if verdict.status != "unknown" else verdict.reason


@pytest.fixture
def toy(database: Database) -> Dataset:
    dataset = Dataset(name="toy", path="/data/toy.npz", reader="npz", options={}, num_rows=20, min_rows=5)
    Datasets(database).add(dataset)
    return dataset


@pytest.mark.usefixtures("toy")
def test_a_grant_is_about_one_key_one_text_one_class_one_dataset_and_one_use(
    database: Database, grants: Grants
) -> None:
    assert status(database) == "pending"
    grants.decide(grants.file(SUBJECT, TEXT, protocol="fedavg").id, approve=True, note="", by="me")
    assert status(database) == "granted"
    assert status(database, researcher="bob") == "pending"
    assert status(database, key_hex="cd" * 32) == "pending"
    assert status(database, entry="Other") == "pending"
    assert status(database, plan=Ref("0" * 64, 9)) == "pending"
    assert status(database, use="mock") == "no_mock"
    assert status(database, dataset="other") == "no_dataset"
    assert status(database, protocol="none") == "protocol"
    assert status(database, plan=None) == "plan"
    assert status(database, plan=Ref("0" * 64, 300_000)) == "plan"
    grants.decide(grants.all()[0].id, approve=False, note="no more", by="me")
    assert status(database) == "rejected"


def test_a_dataset_that_shrank_below_its_minimum_is_not_used(database: Database) -> None:
    small = Dataset(name="toy", path="/d", reader="npz", options={}, num_rows=3, min_rows=5)
    Datasets(database).add(small)
    assert status(database) == "min_rows"


def test_text_of_another_hash_is_not_filed(grants: Grants) -> None:
    with pytest.raises(PlanError, match="hash"):
        grants.file(SUBJECT, TEXT + b"#", protocol="fedavg")
    assert grants.all() == []


def test_a_damaged_text_is_not_returned(database: Database, grants: Grants) -> None:
    grants.file(SUBJECT, TEXT, protocol="fedavg")
    assert grants.text_of(SUBJECT.plan) == TEXT
    database.execute("UPDATE plans SET text = ?", (TEXT + b"#",))
    assert grants.text_of(SUBJECT.plan) is None


def test_ids_go_by_unique_beginnings(grants: Grants) -> None:
    first = grants.file(SUBJECT, TEXT, protocol="fedavg")
    grants.file(replace(SUBJECT, researcher="bob"), TEXT, protocol="fedavg")
    assert grants.get(first.id[:8]) == first
    with pytest.raises(SpecError, match="there is no grant"):
        grants.get("zz")


def test_only_so_many_offers_wait_for_one_decision(grants: Grants) -> None:
    grant = grants.file(SUBJECT, TEXT, protocol="fedavg")
    for number in range(MAX_WAITING + 5):
        grants.wait(grant.id, Waiting(f"offer{number}", "ann/s1", "job"))
    assert grants.decided() == []
    grants.decide(grant.id, approve=True, note="ok", by="me")
    ((decided, waiting),) = grants.decided()
    assert (decided.note, decided.decided_by) == ("ok", "me")
    assert [w.offer for w in waiting] == [f"offer{n}" for n in range(5, MAX_WAITING + 5)]
    grants.told(grant.id)
    assert grants.decided() == []
    grants.decide(grant.id, approve=False, note="changed my mind", by="me")
    assert len(grants.decided()[0][1]) == MAX_WAITING


def test_plan_text_is_examined_without_running_it() -> None:
    assert examine_plan(b"import no_such_thing\n") == ("import no_such_thing\n", ("no_such_thing",))
    assert examine_plan(b"raise SystemExit\n")[1] == ()
    for text in (
        b"\xef\xbb\xbfx = 1\n",
        b"x = 1\r\n",
        b"x = '\xff'\n",
        b"x = (\n",
        b"x = '" + b"y" * 1001 + b"'\n",
    ):
        with pytest.raises(PlanError):
            examine_plan(text)


def test_what_is_told_of_datasets_fits_into_a_message() -> None:
    wide = Dataset(
        name="wide",
        path="/secret/place",
        reader="csv",
        options={},
        columns=tuple({"name": f"gene_{n}" * 10, "type": "float"} for n in range(20_000)),
    )
    (told,) = told_within([wide])
    assert told["num_columns"] == 20_000
    assert len(told["columns"]) == 100
    assert "secret" not in repr(told)
    assert all(t["columns"] == [] for t in told_within([wide] * 9))
