from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.types import Ref
from fedjob.messaging.messages import Offer
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, RegisteredDataset, public_within
from fedjob.node.grants.decisions import Grants, pinned
from fedjob.node.grants.grant import Grant, GrantSubject, Question
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.grants.plan_texts import MAX_RECENT, PlanTexts, examine_plan
from fedjob.node.grants.policy import Permission, judge
from fedjob.node.grants.question import question_of
from fedjob.node.grants.waiting_offers import MAX_WAITING, Waiting
from fedjob.node.storage.database import Database

TEXT = b"class Net:\n    pass\n"
PLAN = Ref(hashlib.sha256(TEXT).hexdigest(), len(TEXT))
OFFER = Offer(dataset="toy", protocol="fedavg", plan=PLAN, entry="Net")
TOY = RegisteredDataset(name="toy", path="/data/toy.npz", reader="npz", options={}, num_rows=20, min_rows=5)


def question(offer: Offer = OFFER) -> Question:
    """Return what ann asks with an offer."""
    found = question_of(
        offer, researcher="ann", key_hex="ab" * 32, job="", dataset=TOY, version="", config=NodeConfig()
    )
    assert isinstance(found, Question)
    return found


SUBJECT, ASKED = question().subject, question().asked


def filed_by(grants: Grants, subject: GrantSubject = SUBJECT, **asked: Any) -> Grant:
    """File what ann asks with `OFFER`, changed."""
    return grants.file(subject, TEXT, protocol="fedavg", asked=replace(ASKED, **asked))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def grants(database: Database) -> Grants:
    return Grants(database)


def verdict(database: Database, **changes: object) -> Permission:
    """Judge ann's offer of the plan `Net`, changed."""
    now = float(changes.pop("now", None) or time.time())  # type: ignore[arg-type]
    about = {"researcher": "ann", "key_hex": "ab" * 32, "job": "", "version": ""}
    about |= {name: str(changes.pop(name)) for name in list(changes) if name in about}
    config = changes.pop("config", NodeConfig())
    assert isinstance(config, NodeConfig)
    offer = replace(OFFER, **changes)  # type: ignore[arg-type]
    dataset = Datasets(database).find(offer.dataset)
    question = question_of(offer, dataset=dataset, config=config, **about)
    if isinstance(question, Permission):
        return question
    return judge(question, Grants(database).on_file(question), dataset, config, now)


def status(database: Database, **changes: object) -> str:
    found = verdict(database, **changes)
    return found.status if found.status != "unknown" else found.reason


@pytest.fixture
def toy(database: Database) -> RegisteredDataset:
    Datasets(database).add(TOY)
    return TOY


@pytest.mark.usefixtures("toy")
def test_a_grant_is_about_one_key_one_text_one_class_one_dataset_and_one_use(
    database: Database, grants: Grants
) -> None:
    assert status(database) == "pending"
    filed = filed_by(grants)
    grants.approve(filed.id, by="me")
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
    assert status(database, version="cd" * 32) == "pending"
    grants.revoke(filed.id, by="me", note="no more")
    assert status(database) == "rejected"
    assert verdict(database).refusal == ("revoked", "no more")


def test_a_dataset_that_shrank_below_its_minimum_is_not_used(database: Database) -> None:
    small = RegisteredDataset(name="toy", path="/d", reader="npz", options={}, num_rows=3, min_rows=5)
    Datasets(database).add(small)
    assert status(database) == "min_rows"


def test_text_of_another_hash_is_not_filed(grants: Grants) -> None:
    with pytest.raises(PlanError, match="hash"):
        grants.file(SUBJECT, TEXT + b"#", protocol="fedavg")
    assert grants.all() == []


def test_a_damaged_text_is_not_returned(database: Database, grants: Grants) -> None:
    filed_by(grants)
    assert grants.texts.of(SUBJECT.plan) == TEXT
    database.execute("UPDATE plans SET text = ?", (TEXT + b"#",))
    assert grants.texts.of(SUBJECT.plan) is None


def test_ids_go_by_unique_beginnings(grants: Grants) -> None:
    first = filed_by(grants)
    filed_by(grants, replace(SUBJECT, researcher="bob"))
    assert grants.get(first.id[:8]) == first
    with pytest.raises(SpecError, match="there is no grant"):
        grants.get("zz")


def test_only_so_many_offers_wait_for_one_decision(grants: Grants) -> None:
    grant = filed_by(grants)
    for number in range(MAX_WAITING + 5):
        offer = Offer(dataset="toy", protocol="fedavg", job_name=str(number))
        grants.waiting.add(grant.id, Waiting(f"offer{number}", "ann/s1", "job", "ann", offer))
    assert grants.unannounced() == []
    grants.approve(grant.id, note="ok", by="me")
    (decided,) = grants.unannounced()
    assert (decided.note, decided.decided_by) == ("ok", "me")
    waiting = grants.waiting.of(grant.id)
    assert [w.offer for w in waiting] == [f"offer{n}" for n in range(5, MAX_WAITING + 5)]
    assert waiting[0].body.job_name == "5"
    grants.mark_announced(grant.id)
    assert grants.unannounced() == []
    grants.revoke(grant.id, note="changed my mind", by="me")
    assert [g.status for g in grants.unannounced()] == ["revoked"]


def approved(grants: Grants, limits: GrantLimits | None = None, about: Question | None = None) -> str:
    about = about or question()
    filed = grants.file(about.subject, TEXT, protocol="fedavg", asked=about.asked)
    return grants.approve(filed.id, by="me", limits=limits or GrantLimits()).id


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("PS-22")
def test_a_single_use_serves_one_job_however_many_tasks_and_the_next_job_asks_anew(
    database: Database, grants: Grants
) -> None:
    id_ = approved(grants, GrantLimits(runs=1))
    assert status(database, job="job-a") == "granted"
    grants.usage.begin(id_, "job-a")
    grants.usage.begin(id_, "job-a")
    assert status(database, job="job-a") == "granted"
    second = verdict(database, job="job-b")
    assert (second.status, second.state, second.reason) == ("pending", "expired", "not_requested")
    anew = filed_by(grants)
    assert anew.id != id_
    assert verdict(database, job="job-b").grant == anew
    grants.reject(anew.id, by="me", note="once is enough")
    assert status(database, job="job-b") == "rejected"
    assert status(database, job="job-a") == "granted"  # what was allowed goes on


@pytest.mark.usefixtures("toy")
def test_a_grant_ends_with_its_time_and_with_its_rows(database: Database, grants: Grants) -> None:
    id_ = approved(grants, GrantLimits(until=1000.0, rows=50))
    assert status(database, now=999.0) == "granted"
    late = verdict(database, now=1000.0)
    assert (late.status, late.state, late.refusal[0]) == ("pending", "expired", "expired")
    grants.usage.bind("task", id_)
    grants.usage.spend("task", rows=49)
    assert status(database, now=999.0) == "granted"
    grants.usage.spend("task", rows=1)
    assert "50 rows are used up" in verdict(database, now=999.0).detail
    assert grants.expire(999.0) == []
    assert [g.id for g in grants.expire(1000.0)] == [id_]
    assert grants.get(id_).status == "expired"
    assert status(database, now=2000.0) == "pending"


@pytest.mark.usefixtures("toy")
def test_arguments_are_held_against_the_grant(database: Database, grants: Grants) -> None:
    limits = GrantLimits(args={"lr": {"max": 0.5}, "model_args.width": {"choices": [8]}})
    approved(grants, limits)
    good = {"training_args": {"lr": 0.1}, "model_args": {"width": 8}}
    assert status(database, **good) == "granted"
    for change, word in (
        ({"training_args": {"lr": 0.6}}, "lr is 0.6; the owner allows ..0.5"),
        ({"training_args": {"lr": "0.1"}}, "lr is '0.1'"),
        ({"training_args": {"lr": True}}, "lr is True"),
        ({"training_args": {"lr": float("nan")}}, "lr is nan"),
        ({"model_args": {"width": 9}}, "model_args.width is 9"),
    ):
        found = verdict(database, **{**good, **change})
        assert (found.status, found.reason) == ("rejected", "limits_exceeded")
        assert word in found.detail
    assert (
        status(database, **{**good, "training_args": {"width": 9, "lr": 0.1}}) == "pending"
    )  # nobody freed it
    assert status(database, model_args={"width": 8}) == "granted"  # the request gave no lr either


def rule(grants: Grants, limits: GrantLimits | None = None, **about: str) -> str:
    subject = GrantSubject(
        **{"researcher": "ann", "key_hex": "", "plan": "*", "entry": "*", "dataset": "*", **about}
    )
    return grants.allow(subject, limits=limits or GrantLimits(), by="me").id


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("TB-82", "NV-40")
@pytest.mark.parametrize(
    ("about", "covered"),
    [
        ({}, True),
        ({"researcher": "bob"}, False),
        ({"researcher": "*"}, True),
        ({"researcher": "a*"}, True),
        ({"researcher": "org:acme"}, True),
        ({"researcher": "org:other"}, False),
        ({"researcher": "key:" + "ab" * 8}, True),
        ({"researcher": "key:" + "cd" * 8}, False),
        ({"key_hex": "ab" * 32}, True),
        ({"key_hex": "cd" * 32}, False),
        ({"plan": SUBJECT.plan, "entry": "Net"}, True),
        ({"plan": SUBJECT.plan, "entry": "Other"}, False),
        ({"plan": "0" * 64, "entry": ""}, False),
        ({"plan": "fedjob.train.*", "entry": ""}, False),  # a text of the researcher's is no built-in
        ({"dataset": "t*"}, True),
        ({"dataset": "other"}, False),
        ({"use": "mock"}, False),
        ({"project": "heart"}, False),
    ],
)
def test_a_standing_agreement_covers_what_fits_its_patterns(
    database: Database, grants: Grants, about: dict[str, str], covered: bool
) -> None:
    grants.known.add("ann", "ab" * 32, "acme", "me")
    rule(grants, **about)
    found = verdict(database)
    assert found.allowed is covered
    assert found.origin == ("rule" if covered else "")


@pytest.mark.usefixtures("toy")
def test_what_researchers_say_of_themselves_opens_nothing(database: Database, grants: Grants) -> None:
    rule(grants, researcher="org:acme")
    rule(grants, researcher="*")
    claim = {"owner": {"org": "acme"}}
    assert status(database, **claim) == "pending"
    open_to_all = verdict(database, config=NodeConfig(unknown="allow"), **claim)
    assert open_to_all.grant is not None
    assert open_to_all.grant.subject.researcher == "*"
    grants.revoke(open_to_all.grant.id, by="me")
    assert status(database, config=NodeConfig(unknown="allow"), **claim) == "pending"
    request = filed_by(grants, owner={"org": "acme"})
    grants.approve(request.id, by="me")
    assert grants.known.org_of("ann", "ab" * 32) == ""
    assert status(database, entry="Other", **claim) == "pending"
    grants.known.add("ann", "ab" * 32, "acme", "me")
    assert status(database, entry="Other") == "granted"
    assert status(database, entry="Other", key_hex="cd" * 32, **claim) == "pending"


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("PS-19")
def test_an_unknown_researcher_is_asked_about_refused_or_let_in_as_the_node_is_set(
    database: Database, grants: Grants
) -> None:
    deny = NodeConfig(unknown="deny", contact="privacy@clinic.example")
    assert status(database) == "pending"
    refused = verdict(database, config=deny)
    assert (refused.status, refused.reason) == ("rejected", "unknown_researcher")
    assert "ask privacy@clinic.example" in refused.detail
    rule(grants, plan="0" * 64, dataset="toy")
    assert status(database, config=deny) == "rejected"  # it is not about this plan
    grants.known.add("ann", "ab" * 32, "", "me")
    assert status(database, config=deny) == "pending"


@pytest.mark.usefixtures("toy")
def test_a_new_agreement_answers_what_waited_and_revoking_it_takes_that_back(
    database: Database, grants: Grants
) -> None:
    waited = filed_by(grants)
    other = filed_by(grants, replace(SUBJECT, researcher="bob"))
    id_ = rule(grants)
    assert (grants.get(waited.id).status, grants.get(waited.id).rule) == ("granted", id_)
    assert grants.get(other.id).status == "pending"
    found = verdict(database, job="job-a")
    assert found.grant is not None
    assert (found.status, found.grant.id) == ("granted", id_)
    grants.usage.begin(id_, "job-a")
    grants.revoke(id_, by="me", note="enough")
    assert grants.get(waited.id).status == "revoked"
    for entry in ("Net", "Other"):
        assert verdict(database, job="job-a", entry=entry).refusal == ("revoked", "enough")
    assert status(database, job="job-b", entry="Other") == "pending"


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("TB-82")
def test_three_runs_are_allowed_and_the_fourth_is_pending(database: Database, grants: Grants) -> None:
    id_ = rule(grants, GrantLimits(runs=3, until=1000.0), plan=SUBJECT.plan, entry="Net", dataset="toy")
    for number in range(3):
        assert status(database, job=f"job-{number}", now=1.0) == "granted"
        grants.usage.begin(id_, f"job-{number}")
    assert status(database, job="job-3", now=1.0) == "pending"
    assert status(database, job="job-2", now=1.0) == "granted"
    assert status(database, job="job-2", now=1000.0) == "pending"
    assert status(database, job="job-2", now=1.0, plan=Ref("0" * 64, 9)) == "pending"


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("TB-20")
def test_a_node_says_whether_plan_or_data_or_both_need_its_owners_word(
    database: Database, grants: Grants
) -> None:
    def needs(**settings: str) -> tuple[str, tuple[str, ...]]:
        found = verdict(database, config=NodeConfig(**settings))  # type: ignore[arg-type]
        return found.status, found.needs

    assert needs() == ("pending", ("plan",))
    assert needs(approval="off", ask_data="toy") == ("pending", ("data",))
    assert needs(ask_data="*") == ("pending", ("plan", "data"))
    assert needs(approval="off", ask_data="other") == ("not-needed", ())
    data_only = NodeConfig(approval="off", ask_data="toy")
    subject = verdict(database, config=data_only).subject
    assert subject is not None
    grants.approve(grants.file(subject, TEXT, protocol="fedavg").id, by="me")
    assert status(database, config=data_only) == "granted"
    assert status(database, config=data_only, plan=Ref("0" * 64, 9)) == "granted"  # whatever the plan
    assert status(database, config=NodeConfig(ask_data="toy")) == "pending"


@pytest.mark.usefixtures("toy")
def test_two_people_have_to_agree_where_the_node_asks_for_two(database: Database, grants: Grants) -> None:
    filed = filed_by(grants)
    first = grants.approve(filed.id, by="eve", approvers=2, limits=GrantLimits(runs=3))
    assert (first.status, status(database)) == ("pending", "pending")
    with pytest.raises(SpecError, match=r"eve has approved grant .* already: it waits for another person"):
        grants.approve(filed.id, by="eve", approvers=2)
    second = grants.approve(filed.id, by="max", approvers=2, limits=GrantLimits(runs=9, min_rows=4))
    assert (second.status, status(database)) == ("granted", "granted")
    assert [approval["by"] for approval in second.approvals] == ["eve", "max"]
    assert (second.limits.runs, second.limits.min_rows) == (3, 4)  # nobody widens what another agreed to


def test_what_can_not_be_decided_so_is_said(grants: Grants) -> None:
    filed = filed_by(grants)
    with pytest.raises(SpecError, match="is pending: only one that is granted can be revoked"):
        grants.revoke(filed.id, by="me")
    grants.approve(filed.id, by="me")
    with pytest.raises(SpecError, match="is granted already, by me"):
        grants.approve(filed.id, by="me")
    assert grants.approve(filed.id, by="me", limits=GrantLimits(runs=2)).limits.runs == 2
    with pytest.raises(SpecError, match="is in force: revoke it"):
        grants.reject(filed.id, by="me", note="no")
    grants.revoke(filed.id, by="me")
    assert grants.approve(filed.id, by="me").status == "granted"  # the owner may think again


@pytest.mark.usefixtures("toy")
@pytest.mark.feature("NV-35")
def test_the_same_job_gets_other_limits_in_another_project(database: Database, grants: Grants) -> None:
    for project in ("", "public", "private", "heart-2", "unheard-of"):
        approved(grants, GrantLimits(runs=5), about=question(replace(OFFER, project=project)))
    grants.projects.limit("public", GrantLimits(min_rows=10, logs="all"), "me")
    grants.projects.limit("private", GrantLimits(min_rows=15, args={"lr": {"max": 0.1}}), "me")
    grants.projects.limit("default", GrantLimits(runs=2), "me")
    public = verdict(database, project="public")
    assert (public.status, public.limits.min_rows, public.limits.logs) == ("granted", 10, "all")
    assert public.limits.runs == 2  # those of every project
    private = verdict(database, project="private", training_args={"lr": 0.5})
    assert (private.status, private.reason) == ("rejected", "limits_exceeded")
    assert verdict(database, project="unheard-of").limits.runs == 2
    assert verdict(database, project="another").status == "pending"  # it is another question
    enrolled = NodeConfig(projects="public, heart-*")
    assert status(database, config=enrolled, project="private") == "project"
    assert status(database, config=enrolled, project="heart-2") == "granted"
    assert status(database, config=enrolled) == "granted"


def test_an_agreement_that_names_somebody_is_bound_to_the_one_key_that_is_known(grants: Grants) -> None:
    named = GrantSubject(researcher="ann", key_hex="", plan="*", entry="*", dataset="*")
    assert pinned(named, grants) == named
    filed_by(grants)
    assert pinned(named, grants).key_hex == "ab" * 32
    filed_by(grants, replace(SUBJECT, key_hex="cd" * 32))
    with pytest.raises(SpecError, match="2 keys are known of ann: key:abab"):
        pinned(named, grants)
    grants.known.add("ann", "cd" * 32, "", "me")  # what the owner knows counts for more than who has asked
    assert pinned(named, grants).key_hex == "cd" * 32


@pytest.mark.usefixtures("toy")
def test_an_agreement_by_name_is_bound_to_the_first_key_that_is_met(
    database: Database, grants: Grants
) -> None:
    id_ = rule(grants)
    assert status(database) == "granted"
    assert grants.get(id_).subject.key_hex == "ab" * 32
    assert status(database, key_hex="cd" * 32) == "pending"
    assert status(database) == "granted"


@pytest.mark.usefixtures("toy")
def test_an_agreement_by_name_holds_for_no_key_where_several_have_asked(
    database: Database, grants: Grants
) -> None:
    rule(grants)
    for key in ("cd" * 32, "ef" * 32):
        filed_by(grants, replace(SUBJECT, key_hex=key))
    assert status(database, key_hex="cd" * 32) == "pending"
    assert status(database) == "pending"
    grants.known.add("ann", "ab" * 32, "", "me")
    assert status(database) == "granted"


@pytest.mark.usefixtures("toy")
def test_arguments_that_nobody_can_read_are_refused(database: Database) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"x": [deep]}
    assert verdict(database, training_args={"deep": deep}).refusal[0] == "spec"


@pytest.mark.usefixtures("toy")
def test_a_job_does_not_leave_the_limits_of_a_project_by_not_naming_it(
    database: Database, grants: Grants
) -> None:
    grants.projects.limit("heart", GrantLimits(min_rows=10, args={"lr": {"max": 0.1}}), "me")
    rule(grants)
    for project in ("", "made-up"):
        inside = verdict(database, project=project, training_args={"lr": 0.1})
        assert (inside.status, inside.limits.min_rows) == ("granted", 10)
        assert status(database, project=project, training_args={"lr": 0.2}) == "pending"
    open_ = NodeConfig(approval="off")
    assert verdict(database, config=open_).limits.min_rows == 10
    assert status(database, config=open_, training_args={"lr": 0.2}) == "rejected"
    grants.projects.limit("heart", GrantLimits(min_rows=30), "me")
    assert status(database) == "pending"
    assert status(database, config=open_) == "min_rows"


@pytest.mark.usefixtures("toy")
def test_two_approvers_free_only_what_both_leave_free(database: Database, grants: Grants) -> None:
    filed = filed_by(grants, training_args={"lr": 0.1})
    ranged = GrantLimits(args={"lr": {"max": 0.5}})
    grants.approve(filed.id, by="eve", approvers=2, limits=ranged)
    grants.approve(filed.id, by="max", approvers=2, limits=GrantLimits(runs=3))
    assert status(database, training_args={"lr": 0.1}) == "granted"
    assert status(database, training_args={"lr": 0.2}) == "pending"
    again = filed_by(grants, training_args={"lr": 0.1, "epochs": 2})
    grants.approve(again.id, by="eve", approvers=2, limits=ranged)
    grants.approve(again.id, by="max", approvers=2)  # agrees to the ranges
    assert status(database, training_args={"lr": 0.2, "epochs": 2}) == "granted"


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
    wide = RegisteredDataset(
        name="wide",
        path="/secret/place",
        reader="csv",
        options={},
        columns=tuple({"name": f"gene_{n}" * 10, "type": "float"} for n in range(20_000)),
    )
    (public,) = public_within([wide])
    assert public["num_columns"] == 20_000
    assert len(public["columns"]) == 100
    assert "secret" not in repr(public)
    assert all(t["columns"] == [] for t in public_within([wide] * 9))


def test_texts_that_nobody_has_to_approve_are_remembered_for_a_while(database: Database) -> None:
    texts = PlanTexts(database)
    texts.remember("0" * 64, TEXT)
    assert texts.of("0" * 64) is None  # it is not the text that this hash names
    texts.remember(SUBJECT.plan, TEXT)
    assert texts.of(SUBJECT.plan) == TEXT
    for number in range(MAX_RECENT):
        text = f"x = {number}\n".encode()
        texts.remember(hashlib.sha256(text).hexdigest(), text)
    assert texts.of(SUBJECT.plan) is None
