"""Whole jobs with real node daemons in this process: memory transport, memory repository, no broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import (
    FedAvg,
    FedBuff,
    Fraction,
    Hook,
    Job,
    JobFailed,
    Median,
    PowerOfChoice,
    Quorum,
    StepDecay,
    TorchPlan,
)
from fedjob.common.codec import to_plain
from fedjob.common.errors import NoDatasets, ObjectMissing, PlanError, QuorumNotReached, SpecError
from fedjob.common.types import Address, Ref
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame import decode_frame
from fedjob.messaging.messages import Ping, Receipt, Result, Task, decode_payload
from fedjob.messaging.outbox import MemoryStore
from fedjob.node.config.config import NodeConfig
from fedjob.protocols.base import Ask
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.source.extraction import extract
from tests.foreign import accept
from tests.integration.nodes import Federation, Node
from tests.integration.scripted import open_session
from tests.on_disk import in_memory_alone, need_a_disk_that_waits
from tests.processes import wait_until

NAMES = ("node1", "node2", "node3")
ARGS = {"lr": 0.1, "num_updates": 2, "batch_size": 5}


class Toy(TorchPlan):
    """One linear layer with momentum; `fail_at` names a node that raises."""

    extra_args = ("fail_at", "sleep_at")

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        import time

        if training_args_name(self, "fail_at") == self.ctx.node:
            raise RuntimeError("no luck")
        if training_args_name(self, "sleep_at") == self.ctx.node:
            time.sleep(60)
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


class Gated(Toy):
    """At node3, what is asked in round 1 is done as soon as a file is there."""

    extra_args = ("gate",)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        import pathlib
        import time

        ends = time.monotonic() + 300
        while self.ctx.node == "node3" and self.ctx.round == 1 and time.monotonic() < ends:
            if pathlib.Path(self.training_args["gate"]).exists():
                break
            time.sleep(0.01)
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


def training_args_name(plan, key):  # type: ignore[no-untyped-def]
    """Return a training argument, empty where it was not given."""
    return plan.training_args.raw.get(key, "")


class Losing(MemoryRepository):
    """A repository that can lose what one party put."""

    lost: str = ""

    def read_object(self, sha256: str, *, offset: int) -> Any:
        if sha256 == self.lost:
            raise ObjectMissing(f"object {sha256} is gone")
        return super().read_object(sha256, offset=offset)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"), Losing())
    for name in NAMES:
        found.node(name, NodeConfig(approval="off", threads=1, sandbox="none")).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


class Wide(Toy):
    """A model whose parameters are too many to be attached to a message."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = super().init_model(model_args)
        model.pad = torch.nn.Parameter(torch.zeros(20_000))
        return model


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Toy,
        "data": {"tags": ["toy"]},
        "training_args": ARGS,
        "rounds": 2,
        "seed": 5,
        "session": session,
    }
    return Job(**{"operation": FedAvg(), **arguments, **changes})


class AtRound(Hook):
    """Calls a function at the end of every round."""

    def __init__(self, look: Callable[[RoundReport], None]) -> None:
        self._look = look

    def round_done(self, report: RoundReport) -> str | None:
        self._look(report)
        return None


@pytest.fixture
def tasks(federation: Federation) -> Iterator[list[tuple[str, Task]]]:
    """Every task that travels while the test runs, with the node it goes to."""
    seen: list[tuple[str, Task]] = []

    def look(sender: str, to: Address | None, data: bytes) -> int:
        message = decode_payload(decode_frame(data).payload, sender)
        if isinstance(message.body, Task) and to is not None:
            own = message.body.training_args  # schedules travel as data, and nodes look their values up
            seen.append((to.party, replace(message.body, training_args=at_round(own, message.round))))
        return 1

    federation.broker.fate = look
    yield seen
    federation.broker.fate = None


@pytest.mark.feature("TB-06")
def test_nothing_is_sent_before_a_job_is_submitted(session: Session, federation: Federation) -> None:
    sent: list[str] = []
    federation.broker.fate = lambda sender, to, data: sent.append(sender) or 1  # type: ignore[func-returns-value]
    try:
        job = make_job(session)
        told = (job.state, job.id, job.spec, job.nodes, repr(job), job.to_json())
    finally:
        federation.broker.fate = None
    assert session.party not in sent
    assert told[0] == "draft"


def test_no_node_gets_a_receipt_before_its_answer_and_the_head_of_its_audit_log_are_on_the_disk(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    need_a_disk_that_waits(tmp_path)
    held: list[tuple[str, bool]] = []

    def look(sender: str, to: Address | None, data: bytes) -> int:
        message = decode_payload(decode_frame(data).payload, sender)
        confirms = message.receipts or isinstance(message.body, Receipt)
        if sender == session.party and confirms:
            files = [*job.folder.glob("audit_heads.jsonl"), *job.folder.glob("spool/*/journal")]
            held.extend((file.name, in_memory_alone(file)) for file in files if file.stat().st_size)
        return 1

    job = make_job(session, rounds=3)
    federation.broker.fate = look
    try:
        job.run(progress=False)
    finally:
        federation.broker.fate = None
    assert {name for name, _ in held} == {"audit_heads.jsonl", "journal"}
    assert not any(waits for _, waits in held)


def test_what_only_earlier_rounds_needed_is_removed_once_the_next_tasks_are_sent(
    session: Session, federation: Federation
) -> None:
    def there(kind: str) -> list[str]:
        return sorted(path.name for path in job.folder.glob(f"{kind}/round_*"))

    at_sending: dict[int, tuple[list[str], int]] = {}
    at_the_end_of: dict[int, tuple[list[str], list[str]]] = {}

    def look(sender: str, to: Address | None, data: bytes) -> int:
        message = decode_payload(decode_frame(data).payload, sender)
        if isinstance(message.body, Task) and message.round not in at_sending:
            at_sending[message.round] = there("breakpoints"), len(message.body.keep_states)
        return 1

    hook = AtRound(
        lambda report: at_the_end_of.update({report.round: (there("breakpoints"), there("spool"))})
    )
    job = make_job(session, rounds=4, keep_breakpoints=1, hooks=[hook])
    federation.broker.fate = look
    try:
        job.run(progress=False)
    finally:
        federation.broker.fate = None
    # nodes keep only what the breakpoint names that stays
    assert at_sending[3] == (["round_0001", "round_0002"], 1)
    assert at_sending[4] == (["round_0002", "round_0003"], 1)
    assert at_the_end_of[3] == (["round_0002"], ["round_0002", "round_0003"])
    assert at_the_end_of[4] == (["round_0003"], ["round_0003", "round_0004"])
    assert (there("breakpoints"), there("spool")) == (["round_0004"], ["round_0004"])


@pytest.mark.feature("TB-54")
def test_raw_replies_are_what_each_node_sent_in_each_round(session: Session, federation: Federation) -> None:
    sent: dict[tuple[int, str, str], list[Any]] = {}

    def look(sender: str, to: Address | None, data: bytes) -> int:
        message = decode_payload(decode_frame(data).payload, sender)
        if isinstance(message.body, Result) and message.job == job.id:
            body = replace(message.body, attached={})  # tensors lie in files of their own
            sent.setdefault((message.round, message.step, sender), []).append(to_plain(body))
        return 1

    job = make_job(session)
    federation.broker.fate = look
    try:
        raw = job.run(progress=False).raw
    finally:
        federation.broker.fate = None
    bodies = {
        (round_, step, node): body
        for round_, steps in raw.items()
        for step, nodes in steps.items()
        for node, body in nodes.items()
    }
    assert bodies.keys() == sent.keys() == {(round_, "train", node) for round_ in (1, 2) for node in NAMES}
    for place, body in bodies.items():
        assert all(same == body for same in sent[place])  # resends say the same


@pytest.mark.feature("BF-39", "BF-40")
def test_one_call_runs_at_the_nodes_that_are_named_and_at_no_other(
    session: Session, federation: Federation
) -> None:
    told: set[str] = set()

    def look(sender: str, to: Address | None, data: bytes) -> int:
        if to is not None and sender == session.party:
            told.add(to.party)
        return 1

    job = make_job(session, nodes=["node1", "node2"], rounds=1)
    federation.broker.fate = look
    try:
        result = job.run(progress=False)
    finally:
        federation.broker.fate = None
    assert isinstance(result, JobResult)
    assert job.state == "completed"
    assert told == {"node1", "node2"}


@pytest.mark.feature("BF-42", "FB-01", "FB-02", "FB-08")
def test_a_job_trains_over_memory_alone_and_its_plan_lies_in_the_repository(session: Session) -> None:
    plan = extract(Toy)
    found = []
    ref = Ref(plan.sha256, len(plan.text.encode()))
    hook = AtRound(lambda report: found.append(session.repository.get_bytes(ref, limit_bytes=1 << 20)))
    job = make_job(session, hooks=[hook])
    job.run(progress=False)
    assert found == [plan.text.encode()] * 2
    assert job.spec.plan_hash == plan.sha256
    assert job.nodes == list(NAMES)


@pytest.mark.feature("FB-08")
def test_an_empty_search_is_an_error_that_lists_what_there_is(session: Session) -> None:
    with pytest.raises(NoDatasets, match="node1/toy"):
        make_job(session, data={"tags": ["nothing"]}).run(progress=False)
    with pytest.raises(NoDatasets, match="elsewhere"):
        make_job(session, nodes=["elsewhere"]).run(progress=False)
    with pytest.raises(SpecError, match="tags"):
        make_job(session, data={"tag": ["toy"]}).run(progress=False)


@pytest.mark.feature("FB-16")
def test_three_rounds_of_two_nodes_are_six_replies_whose_parameters_stay_on_disk(session: Session) -> None:
    job = make_job(session, nodes=["node1", "node2"], keep=True)
    for round_ in (1, 2, 3):
        job.start_nodes_training_round(round_)
        job.aggregate()
    replies = [reply for replies in job.training_replies.values() for reply in replies]
    job.close()
    assert len(replies) == 6
    assert all("params" not in vars(type(reply)).get("__slots__", ()) for reply in replies)
    assert all(Path(reply.params_path).exists() for reply in replies)


@pytest.mark.feature("FB-17", "FB-54")
def test_a_node_has_no_state_before_its_first_round_and_one_after(
    session: Session, tasks: list[tuple[str, Task]]
) -> None:
    def all_but_one_at_first(round_: int, nodes: list[str]) -> list[str]:
        return nodes[:2] if round_ == 1 else nodes

    make_job(session, selector=all_but_one_at_first, rounds=3).run(progress=False)
    states: dict[str, list[str | None]] = {name: [] for name in NAMES}
    for node, task in tasks:
        if task.state not in states[node]:
            states[node].append(task.state)
    assert [states[name][0] for name in NAMES] == [None] * 3
    assert [len(states[name]) for name in NAMES] == [3, 3, 2]


@pytest.mark.feature("FB-28")
def test_other_training_arguments_are_in_the_tasks_from_the_next_round_on(
    session: Session, tasks: list[tuple[str, Task]]
) -> None:
    job = make_job(session, training_args={**ARGS, "lr": StepDecay(0.1, factor=0.5, every=1)})
    for round_ in (1, 2):
        job.start_nodes_training_round(round_)
        job.aggregate()
    job.training_args = {**ARGS, "lr": 0.01}
    job.start_nodes_training_round(3)
    job.close()
    told = dict.fromkeys((node, task.training_args["lr"]) for node, task in tasks)  # some may be sent twice
    assert [lr for _, lr in told] == [0.1] * 3 + [0.05] * 3 + [0.01] * 3


def test_nodes_that_are_chosen_by_their_losses_and_a_median_give_the_bytes_of_a_local_job(
    session: Session, federation: Federation
) -> None:
    arguments: dict[str, Any] = {"selector": PowerOfChoice(2, 3), "aggregator": Median(), "rounds": 3}
    remote = make_job(session, **arguments)
    remote.run(progress=False)
    own = {node.name: str(node.folder / "toy.npz") for node in federation.nodes}
    local = make_job(session, **arguments, nodes="local", data=own)
    local.run(progress=False)
    assert remote.rounds == local.rounds
    names = [hash_file(job.folder / "result" / "params.safetensors") for job in (remote, local)]
    assert names[0] == names[1]


@pytest.mark.feature("FB-48", "FB-49", "FB-56")
def test_small_values_travel_in_the_message_and_large_ones_as_objects_for_their_node(
    session: Session, tasks: list[tuple[str, Task]]
) -> None:
    job = make_job(session)
    job.start_nodes_training_round(1)
    large = {"correction": [0.5] * 120_000}
    ask = Ask(
        shared={"params": job.position.state["params"], "mu": 0.25},
        each={"node1": large, "node2": {"hint": "small"}},
    )
    runner = job._runner
    assert runner is not None
    tasks.clear()
    with pytest.raises(
        QuorumNotReached, match="found 'correction', a plain value"
    ):  # and no step gets what it lacks
        runner.gatherer(ask, job.position)
    job.close("killed")
    by_node = dict(tasks)
    assert by_node["node1"].values == {"mu": 0.25}
    assert list(by_node["node1"].blobs) == ["correction"]
    assert by_node["node1"].blobs["correction"].size_bytes > 1_000_000
    assert by_node["node2"].values == {"mu": 0.25, "hint": "small"}
    assert by_node["node2"].blobs == {}
    assert by_node["node3"].values == {"mu": 0.25}
    assert len({task.params["params"] for task in by_node.values()}) == 1


@pytest.mark.feature("FB-12", "FB-61", "FB-63", "FB-70")
def test_a_node_that_fails_is_named_and_left_out(session: Session) -> None:
    job = make_job(session, training_args={**ARGS, "fail_at": "node2"}, rounds=1)
    job.run(progress=False)
    info = job.rounds[1]
    assert info.selected == NAMES
    assert info.replied == ("node1", "node3")
    assert list(info.dropped) == ["node2"]
    assert info.dropped["node2"].startswith("exception: RuntimeError at plan line")
    assert "no luck" not in info.dropped["node2"]


@pytest.mark.feature("FB-60")
def test_a_node_that_does_not_answer_in_time_is_left_out(session: Session) -> None:
    make_job(session, rounds=1).run(progress=False)  # a node's first task may wait long for its libraries
    job = make_job(
        session,
        training_args={**ARGS, "sleep_at": "node3"},
        rounds=1,
        quorum=Quorum(min_nodes=2, deadline_s=15),
    )
    job.run(progress=False)
    assert job.rounds[1].replied == ("node1", "node2")
    assert job.rounds[1].dropped == {"node3": "deadline"}


@pytest.mark.feature("NV-48")
def test_a_required_node_that_fails_fails_the_job_with_its_reason(session: Session) -> None:
    job = make_job(session, training_args={**ARGS, "fail_at": "node2"}, quorum=Quorum(required=("node2",)))
    with pytest.raises(JobFailed, match="node2: exception"):
        job.run(progress=False)
    assert (job.state, job.reason) == ("failed", "exception")


@pytest.mark.feature("FB-59", "FB-64")
def test_replies_tell_how_long_each_stage_took_and_hold_the_parameters(session: Session) -> None:
    job = make_job(session, training_args={**ARGS, "test_ratio": 0.2, "test_on_local_updates": True})
    replies = job.start_nodes_training_round(1)
    job.close("killed")
    for reply in replies:
        assert {"queued", "setup", "train", "validate", "total"} <= set(reply.timing)
        assert reply.timing["total"] >= reply.timing["train"] > 0
        assert reply.params is not None
        assert set(reply.params) == {"weight", "bias"}
        [group] = reply.optimizer_args["groups"]
        assert (reply.optimizer_args["optimizer"], group["lr"], group["momentum"]) == ("SGD", ARGS["lr"], 0.9)
        assert reply.optim_aux_var == {}
        assert reply.encryption_factor is None


@pytest.mark.feature("FB-65")
def test_a_reply_whose_file_is_lost_costs_that_node_only(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    job = make_job(session, rounds=1, training_plan=Wide)
    first = job.start_nodes_training_round(1)
    lost = first.get("node2")
    job.close("killed")
    assert lost is not None
    repository = federation.repository
    assert isinstance(repository, Losing)
    repository.lost = hash_file(Path(lost.params_path))
    try:
        again = make_job(session, rounds=1, training_plan=Wide)  # the same seed: node 2 gives the same file
        again.run(progress=False)
    finally:
        repository.lost = ""
    assert again.rounds[1].replied == ("node1", "node3")
    assert again.rounds[1].dropped["node2"].startswith("object_missing")


@pytest.mark.feature("FB-62")
def test_a_reply_signed_with_another_key_is_dropped_and_counted(
    session: Session, federation: Federation
) -> None:
    impostor = Endpoint(
        Identity.generate("node1"),  # the name of a node, but not its key
        federation.name,
        Roster(federation.parties, federation.refresh),
        federation.transport(Address("node1", "other")),
        MemoryStore(),
        "node",
    )
    impostor.start(5)
    from fedjob.messaging.messages import Result

    job = make_job(session, rounds=1)
    before = session.endpoint.counters["bad_signature"]
    impostor.send(session.endpoint.address, Result(of="x", key="k" * 64, ok=True, weight=1e9), job=job.id)
    job.run(progress=False)
    impostor.stop()
    assert session.endpoint.counters["bad_signature"] > before
    assert job.rounds[1].replied == NAMES


@pytest.mark.feature("FB-71")
def test_one_node_after_another_is_a_selector_of_three_lines(session: Session) -> None:
    def cyclic(round_: int, nodes: list[str]) -> list[str]:
        return [nodes[(round_ - 1) % len(nodes)]]

    job = make_job(session, selector=cyclic, rounds=4)
    job.run(progress=False)
    assert [job.rounds[round_].replied for round_ in range(1, 5)] == [
        ("node1",),
        ("node2",),
        ("node3",),
        ("node1",),
    ]


def test_a_slow_node_counts_in_a_later_round_as_in_a_simulation_and_after_a_resume(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def select(round_: int, nodes: list[str]) -> list[str]:
        return nodes if round_ == 1 else [nodes[0]] if round_ == 2 else nodes[1:]

    arguments: dict[str, Any] = {
        "operation": FedBuff(k=2),
        "training_plan": Gated,
        "training_args": {**ARGS, "gate": str(gate)},
        "selector": select,
        "rounds": 3,
        "keep": True,
    }
    whole = make_job(session, hooks=[AtRound(lambda report: gate.touch())], **arguments)
    whole.run(progress=False)
    first, second, third = whole.position.ledger
    assert sorted(first.arrived) == [["node1", 1], ["node2", 1]]
    assert sorted(second.arrived) == [["node1", 2], ["node3", 1]]
    assert sorted(third.arrived) == [["node2", 3], ["node3", 3]]
    assert {check.verdict for check in verify_job(JobFolder(whole.folder))} == {"equal"}
    data = {name: str(federation.folder / name / "toy.npz") for name in NAMES}
    simulated = make_job(session, nodes="local", data=data, home=session.home, **arguments)
    simulated.run(progress=False)
    # the job's end took node3's work away, and the hub's objects with it
    resumed = Job.resume(whole.breakpoints[0], session=session, hooks=[])
    resumed.run(progress=False)
    jobs = (whole, simulated, resumed)
    assert len({hash_file(job.folder / "result" / "params.safetensors") for job in jobs}) == 1


@pytest.mark.feature("FB-82", "FB-83")
@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("form", ["class", "instance", "file"])
def test_local_and_remote_jobs_load_plans_alike_and_both_validate(
    session: Session, federation: Federation, where: str, form: str
) -> None:
    plan = {"class": Toy, "instance": Toy(), "file": f"{__file__}:Toy"}[form]
    args = {**ARGS, "test_ratio": 0.2, "test_on_global_updates": True, "test_on_local_updates": True}
    changes: dict[str, Any] = {"nodes": ["node1"], "data": "node1/toy"}
    if where == "local":
        path = str(federation.folder / "node1" / "toy.npz")
        changes = {"nodes": "local", "as_node": "node1", "data": path, "home": session.home}
    job = make_job(session, training_plan=plan, training_args=args, rounds=1, **changes)
    job.run(progress=False)
    assert any(event.type == "metrics" for event in job.events())
    assert {row.phase for row in job.position.rows} == {"before", "train", "after"}


@pytest.mark.feature("FB-81")
def test_a_local_job_equals_a_job_of_one_node_byte_for_byte(session: Session, federation: Federation) -> None:
    args = {**ARGS, "test_ratio": 0.2}
    remote = make_job(session, nodes=["node1"], training_args=args, rounds=3)
    remote.run(progress=False)
    path = str(federation.folder / "node1" / "toy.npz")
    local = make_job(
        session, nodes="local", as_node="node1", data=path, training_args=args, rounds=3, home=session.home
    )
    local.run(progress=False)
    results = [hash_file(job.folder / "result" / "params.safetensors") for job in (remote, local)]
    assert results[0] == results[1]


@pytest.mark.feature("FB-87")
def test_answers_belong_to_their_question_and_late_ones_are_ignored(session: Session) -> None:
    session.ask(["node1", "node2"], Ping(), timeout_s=0.001)  # too soon: most answers will come late
    answers = session.ask(["node3"], Ping(), timeout_s=10)
    assert list(answers) == ["node3"]


@pytest.mark.feature("FB-23")
def test_a_plan_that_only_works_where_it_was_written_fails_at_construction(
    session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "plan.py"
    text = Path(__file__).read_text().split("class Toy")[1].split("\n\n\nclass Losing")[0]
    file.write_text(
        f"import torch\nimport not_installed_anywhere\nfrom fedjob import TorchPlan\n\n\nclass Toy{text}"
    )
    file.write_text(
        file.read_text().replace("import time\n", "not_installed_anywhere.go()\n        import time\n")
    )
    with pytest.raises(PlanError, match="not_installed_anywhere"):
        make_job(session, training_plan=f"{file}:Toy")


def test_a_job_resumes_though_the_repository_lost_everything(
    session: Session, federation: Federation
) -> None:
    whole = make_job(session, rounds=4, selector=Fraction(0.67), keep_breakpoints=9)
    whole.run(progress=False)
    half = make_job(session, rounds=2, selector=Fraction(0.67))
    half.run(progress=False)  # its end removes every object of the job
    resumed = Job.resume(half.breakpoints[-1], rounds=4, session=session)
    resumed.run(progress=False)
    assert resumed.id == half.id
    assert resumed.record.attempt == 2
    results = [hash_file(job.folder / "result" / "params.safetensors") for job in (whole, resumed)]
    assert results[0] == results[1]


def test_another_researchers_key_makes_it_a_new_job(
    federation: Federation, session: Session, tmp_path: Path
) -> None:
    job = make_job(session)
    job.run(progress=False)
    with open_session(federation, tmp_path / "other", Identity.generate("other")) as other:
        clone = accept(job.breakpoints[0], session=other)
        clone.run(progress=False)
    assert clone.id != job.id
    assert clone.spec.researcher == "other"
    assert clone.success


def test_a_node_that_was_away_at_the_end_is_told_by_the_next_session(
    federation: Federation, tmp_path: Path
) -> None:
    from fedjob.researcher.connection.end_messages import release_again

    def unreleased(session: Session) -> list[str]:
        release_again(session)
        return [path.name for path in (session.home / "unreleased").iterdir()]

    home, identity = tmp_path / "lab", Identity.generate("patient")
    away: Node = federation.nodes[2]
    with open_session(federation, home, identity) as session:
        job = make_job(session, rounds=1, keep_breakpoints=1)
        job.start_nodes_training_round(1)
        job.aggregate()
        away.stop()
        try:
            job.close()
            wait_until(lambda: unreleased(session) == [f"{job.id}.node3"], timeout_s=30, what="the others")
        finally:
            away.start()
    with open_session(federation, home, identity) as session:
        wait_until(lambda: unreleased(session) == [], timeout_s=30, what="the node that is back")
