"""The bytes of a job are computed before anything is sent, and are those that it moves."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedjob
from fedjob import (
    Cyclic,
    Ditto,
    EarlyStopping,
    Evaluation,
    FedAdam,
    FedAvg,
    FedBuff,
    FedNova,
    FedOpt,
    FedPer,
    FedProx,
    FineTuned,
    FlexLoRA,
    FLoRA,
    Fraction,
    Inference,
    Int8,
    Job,
    PowerOfChoice,
    Protect,
    QFedAvg,
    RecordDP,
    Scaffold,
    SecAgg,
    TopK,
)
from fedjob.common.codec import unpack
from fedjob.common.errors import JobFailed, SpecError
from fedjob.common.files import Blocks
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.storage.costs import CostLedger
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.connection.lines import OWN, LineLedger, LineMeasure
from fedjob.researcher.estimates.time_trial import ENOUGH_S, LEAST_ROUNDS
from fedjob.researcher.jobs.estimate import Estimate
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.folder import JobFolder
from tests.integration.nodes import ADD_ONE, Federation
from tests.integration.test_jobs_over_memory import open_session
from tests.integration.test_node_queue import configure

PLAN = ADD_ONE.replace(
    "class AddOne(TorchPlan):", 'class AddOne(TorchPlan):\n    aux_modules = ("scaffold",)\n'
)
PLAN = PLAN.replace("lr=0.1", "lr=0.001").replace(
    "torch.nn.Linear(2, 1)",
    "torch.nn.Sequential(torch.nn.Linear(2, width := model_args.get('width', 50)), torch.nn.Linear(width, 1))",
)


@dataclass(slots=True)
class Moved:
    """Bytes that were stored and read, of which those that were stored for each reader."""

    stored: int = 0
    read: int = 0


class CountedRepository(MemoryRepository):
    """A repository that counts the bytes of what goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = Moved()
        self._count_lock = threading.Lock()

    @property
    def num_objects(self) -> int:
        return len(self._objects)

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        super().store_object(sha256, blocks, job=job, readers=readers)
        with self._count_lock:
            self.moved.stored += len(blocks)

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        for block in super().read_object(sha256, offset=offset):
            with self._count_lock:
                self.moved.read += len(block)
            yield block


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("estimates"), CountedRepository())
    for name in ("east", "west"):
        node = found.node(name)
        with node.database() as database:
            data = node.folder / "toy.npz"
            Datasets(database).add(describe_dataset("pair", data, tags=["pair", "trio"], mock=data))
        node.start()
    third = found.node("south")
    with third.database() as database:
        Datasets(database).add(
            describe_dataset("third", data := third.folder / "toy.npz", tags=["trio"], mock=data)
        )
        Datasets(database).remove("toy")
    third.start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def session(federation: Federation) -> Iterator[Session]:
    home = federation.folder / "lab"
    with open_session(federation, home, Identity.generate("lab")) as found:
        yield found


def named(name: str) -> str:
    """Return a plan that no node holds yet: a plan is fetched once."""
    return PLAN.replace("    aux_modules", f"    name = {name!r}\n    aux_modules")


def adapted(name: str) -> str:
    """Return a plan with an adapter of rank 4, that no node holds yet."""
    model = """torch.nn.Sequential(
            torch.nn.Linear(2, 30),
            torch.nn.Sequential(OrderedDict(
                lora_A=torch.nn.Linear(30, 4, bias=False), lora_B=torch.nn.Linear(4, 20, bias=False)
            )),
            torch.nn.Linear(20, 1),
        )"""
    text = ADD_ONE.replace("torch.nn.Linear(2, 1)", model).replace("lr=0.1", "lr=0.001")
    text = text.replace("class AddOne(TorchPlan):", f"class AddOne(TorchPlan):\n    name = {name!r}\n")
    return "from collections import OrderedDict\n" + text


def job_of(session: Session, protocol: Any, text: str = PLAN, tag: str = "toy", **more: Any) -> Job:
    plan = session.home / f"plan_{len(text)}.py"
    plan.write_text(text)
    arguments = {
        "training_args": {"num_updates": 2, "batch_size": 5},
        "rounds": 4,
        "session": session,
        **more,
    }
    return Job(protocol, training_plan=f"{plan}:AddOne", data={"tags": [tag]}, **arguments)


def tried(job: Job, rounds: int, words: str) -> Estimate:
    """Return a job's estimate by a trial of so many rounds; by fewer only where these took the time that is enough for a trial."""
    began = time.monotonic()
    found = job.estimate(probe=True)
    took_s = time.monotonic() - began
    number = re.search(rf"by (\d+) rounds of it{re.escape(words)}", found.about)
    assert number is not None, found.about
    fewest = rounds if took_s < ENOUGH_S else LEAST_ROUNDS
    assert fewest <= int(number[1]) <= rounds, f"{number[0]} in {took_s:.1f} s"
    return found


def committed(job: Job) -> int:
    """Return how many rounds of a job were committed."""
    return sum(event.type == "round" for event in job.events())


PROTOCOLS = {
    "FedAvg": (FedAvg(), {"validate_at_end": True, "training_args": {"num_updates": 2, "test_ratio": 0.2}}),
    "FedProx": (FedProx(mu=0.1), {}),
    "FedOpt": (FedOpt(FedAdam(lr=0.1)), {}),
    "SCAFFOLD": (Scaffold(), {}),
    "FedPer": (FedPer(personal=["1.*"]), {}),
    "Ditto": (Ditto(), {}),
    "one round": (FedAvg(), {"rounds": 1}),
    "FedAvg, large": (FedAvg(), {"model_args": {"width": 3000}}),
    "fine-tuning after the last round": (FineTuned(num_updates=1), {}),
    "fine-tuning and a validation": (
        FineTuned(num_updates=1),
        {"validate_at_end": True, "training_args": {"num_updates": 2, "test_ratio": 0.2}},
    ),
    "fine-tuning, large": (FineTuned(num_updates=1), {"model_args": {"width": 3000}}),
    "one node after the other": (Cyclic(), {}),
    "one node a round": (Cyclic(round="visit"), {}),
    "one node a round, large": (Cyclic(round="visit"), {"model_args": {"width": 3000}}),
    "ranks of their own": (FlexLoRA(ranks={"east": 2}), {}),
    "adapters on those that were trained before": (FLoRA(), {"rounds": 3}),
    "SCAFFOLD, half of what is sent would have room": (Scaffold(), {"model_args": {"width": 2000}}),
}


@pytest.mark.parametrize(("protocol", "more"), PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_bytes_are_those_that_the_job_moves(
    protocol: Any,
    more: dict[str, Any],
    federation: Federation,
    session: Session,
    request: pytest.FixtureRequest,
) -> None:
    text = named(request.node.name)
    if isinstance(protocol, FlexLoRA | FLoRA):
        text = adapted(request.node.name)
    job = job_of(session, protocol, text, **more)
    counted: Any = federation.repository
    counted.moved = Moved()
    estimate = job.estimate()  # asks the nodes, which fetch the plan for it
    assert estimate.exact, estimate
    counted.moved.stored = 0
    job.run(progress=False)
    traffic = {tally.direction: tally.bytes for tally in job.traffic if tally.kind == "object"}
    sums = {name: sum(getattr(one, name) for one in estimate) for name in ("down", "up")}
    assert traffic["in"] == sums["up"], "what the researcher fetches is what nodes store"
    assert estimate.bytes_total == traffic["out"] + sums["down"] + sums["up"] + traffic["in"]
    if "model_args" in more:  # nothing is attached to messages: it all goes through the repository
        assert counted.moved.stored == traffic["out"] + sums["up"]
        assert counted.moved.read == sums["down"] + traffic["in"]
    assert sum(estimate.bytes_per_node.values()) == sums["down"] + sums["up"]


MEASURED = {"num_updates": 2, "test_ratio": 0.2, "test_on_global_updates": True}
BOUNDS = {
    "not every node takes part in every round": (
        FedAvg(),
        {"selector": PowerOfChoice(num_nodes=1, num_candidates=2)},
    ),
    "a round ends with its first answers, whosesoever they are": (FedBuff(k=1), {}),
    "early stopping may end it before its last round": (
        FedAvg(),
        {"hooks": [EarlyStopping(patience=1, min_delta=1e9)], "training_args": MEASURED},
    ),
    "how far compressed parameters can be packed shows when they are": (
        FedAvg(),
        {"compress": TopK(0.01), "model_args": {"width": 3000}},
    ),
    "what nodes fetch grows with the rounds, up to the ranks of the layers": (
        FLoRA(),
        {"rounds": 9, "validate_at_end": True, "training_args": MEASURED},
    ),
}


@pytest.mark.parametrize(("why", "job"), BOUNDS.items(), ids=BOUNDS)
def test_where_fewer_bytes_may_move_they_are_a_bound_that_says_why(
    why: str, job: tuple[Any, dict[str, Any]], federation: Federation, session: Session
) -> None:
    protocol, more = job
    text = adapted(why) if isinstance(protocol, FLoRA) else named(why)
    made = job_of(session, protocol, text, **more)
    counted: Any = federation.repository
    counted.moved = Moved()
    estimate = made.estimate()
    assert not estimate.exact
    assert f"at most ({why})" in estimate.about
    made.run(progress=False)
    moved = {tally.direction: tally.bytes for tally in made.traffic if tally.kind == "object"}
    down, up = (sum(getattr(one, way) for one in estimate) for way in ("down", "up"))
    assert moved["in"] <= up
    assert moved["out"] <= estimate.bytes_total - down - 2 * up, "attached or not"
    assert counted.moved.read <= down + up


def test_a_job_takes_as_long_as_its_like_that_ran_before(session: Session) -> None:
    first = job_of(session, FedAvg(), named("measured"))
    assert first.estimate().time_s is None
    assert "unknown until" in repr(first.estimate())
    first.run(progress=False)
    events = list(first.events())
    begun = next(event.time for event in events if event.type == "ask")
    rounds = [event.time for event in events if event.type == "round"]
    late = statistics.median(after - before for before, after in pairwise(rounds[-3:]))
    again = first.clone().estimate()
    assert again.time_s == pytest.approx(rounds[-1] - begun, rel=0.01)
    assert again.measured == first.id
    assert first.clone(rounds=2).estimate().time_s == pytest.approx(rounds[1] - begun, rel=0.01)
    further = first.clone(rounds=400).estimate().time_s
    assert further == pytest.approx(rounds[-1] - begun + 396 * late, rel=0.01)
    other = first.clone(training_args={"num_updates": 3}).estimate()
    assert other.measured == "", "that job is not like it: the nodes' own speeds serve"
    assert "by the nodes' speeds of their earlier tasks of this plan" in other.about


def test_a_job_with_other_epochs_takes_its_nodes_training_time_in_proportion(session: Session) -> None:
    args = {"epochs": 2, "batch_size": 5}
    first = job_of(session, FedAvg(), named("other epochs"), training_args=args)
    first.run(progress=False)
    same = first.clone().estimate()
    assert not same.scaled
    four, six, one = (first.clone(training_args={**args, "epochs": n}).estimate() for n in (4, 6, 1))
    assert four.scaled
    assert f"by {first.id}, which had other epochs" in four.about
    trained = four.time_s - same.time_s
    assert 0 < trained < same.time_s, "the nodes' own time, and not that of the whole round"
    assert six.time_s - same.time_s == pytest.approx(
        2 * trained, rel=0.3
    )  # the slowest node may be another one
    assert one.time_s < same.time_s
    other = first.clone(training_args={**args, "batch_size": 2}).estimate()
    assert (other.measured, other.scaled) == ("", False)


def test_another_home_learns_the_time_from_the_nodes_that_ran_the_plan(
    federation: Federation, session: Session
) -> None:
    plan = named("speeds")
    args = {"epochs": 2, "batch_size": 5}
    assert job_of(session, FedAvg(), plan, training_args=args).estimate().time_s is None
    job_of(session, FedAvg(), plan, training_args=args).run(progress=False)
    with open_session(federation, federation.folder / "office", Identity.generate("office")) as office:
        first = job_of(office, FedAvg(), plan, training_args={**args, "epochs": 4})
        found = first.estimate()
        assert "by the nodes' speeds of their earlier tasks of this plan" in found.about
        assert "examples/s" in found.about
        low, high = found.time_range_s
        assert low < found.time_s < high
        assert (found.measured, found.scaled) == ("", False)
        longer = first.clone(training_args={**args, "epochs": 4000}).estimate()
        assert longer.time_s > found.time_s
        wide = first.clone(model_args={"width": 70}).estimate()
        assert wide.time_s is None, "a model of another size trains at another speed"
        for node in federation.nodes:
            configure(node, replace(node.config, publish_speed="off"))
        try:
            assert first.clone().estimate().time_s is None
        finally:
            for node in federation.nodes:
                configure(node, replace(node.config, publish_speed="on"))


def test_a_trial_on_the_mocks_gives_the_time_and_leaves_no_job(session: Session) -> None:
    job = job_of(
        session, FedAvg(), named("mocks"), "pair", training_args={"epochs": 2, "batch_size": 5}, rounds=10
    )
    before = {one.id for one in session.jobs()}
    found = tried(job, 10, " on the mocks of east, west")
    low, high = found.time_range_s
    assert low <= found.time_s / 1.49
    assert high >= found.time_s * 1.49
    assert {one.id for one in session.jobs()} == before
    assert job.state == "draft"


def test_a_node_that_is_away_has_a_row_that_says_so(federation: Federation, session: Session) -> None:
    away = next(node for node in federation.nodes if node.name == "south")
    away.stop()
    try:
        found = job_of(session, FedAvg(), named("away"), "trio").estimate()
        row = next(one for one in found if one.node == "south")
        assert (row.absent, row.down, row.up) == (True, None, None)
        assert "south  -" in repr(found)
        assert "the job goes without it: " in repr(found)
        assert found.ok
        assert [*found.bytes_per_node] == ["east", "west"]
    finally:
        away.start()


def test_the_start_of_nodes_for_a_trial_is_no_time_of_the_job(
    federation: Federation, session: Session
) -> None:
    for node in federation.nodes:
        node.stop()
        node.start()
    job = job_of(session, FedAvg(), named("late"), "pair", training_args={"epochs": 1})
    found = job.estimate(probe=True)
    began = time.monotonic()
    job.run(progress=False)
    assert found.time_s < 4.0 * (time.monotonic() - began)


PROTECTED = {
    "masks": SecAgg(clip=0.2, bits=32, max_weight=1000),
    "noise": RecordDP(epsilon=500.0, delta=1e-4),
    "both": Protect(secagg=SecAgg(clip=8.0, max_weight=1000), dp=RecordDP(epsilon=500.0, delta=1e-4)),
}


@pytest.mark.parametrize("protect", PROTECTED.values(), ids=PROTECTED)
def test_a_protected_job_is_tried_on_the_mocks_as_any_other(protect: Any, session: Session) -> None:
    """Nodes give no times and counts of such training: a trial without protection has those."""
    args = {"epochs": 2, "batch_size": 5}
    before = {one.id for one in session.jobs()}
    job = job_of(
        session, FedAvg(), named(f"protected {protect}"), "trio", protect=protect, training_args=args
    )
    found = tried(job, 4, " on the mocks of east, south, west, whose training was scaled")
    low, high = found.time_range_s
    assert high / low >= 4.0 * 0.999, "the scale is that of another job"
    assert {one.id for one in session.jobs()} == before


def test_a_job_on_mocks_and_a_simulation_are_tried_as_they_are(session: Session) -> None:
    args = {"epochs": 2, "batch_size": 5}
    on_mocks = job_of(session, FedAvg(), named("as it is"), "pair", training_args=args, use="mock")
    inputs = np.ones((60, 2), np.float32)
    plan = session.home / "plan_simulated.py"
    plan.write_text(named("simulated"))
    simulated = Job(
        FedAvg(),
        training_plan=f"{plan}:AddOne",
        training_args=args,
        data=(inputs, inputs[:, :1]),
        nodes=fedjob.simulate(3, workers=0),
        rounds=40,
        home=session.home,
    )
    for job, rounds in ((on_mocks, 4), (simulated, 12)):
        assert job.estimate().time_s is None
        before = {one.id for one in session.jobs()}
        tried(job, rounds, ", run for this and deleted")
        assert {one.id for one in session.jobs()} == before
        assert job.state == "draft"
    assert "bytes: none, all of it is on this machine" in simulated.estimate().about
    simulated.run(progress=False)
    assert simulated.clone().estimate().measured == simulated.id
    assert simulated.clone(nodes=fedjob.simulate(3, workers=1)).estimate().time_s is None
    assert simulated.clone(share="all").estimate().time_s is None, "other bytes travel"
    protocol = fedjob.LogisticRegression(features=["a"], target="y")
    rows = pd.DataFrame({"a": np.arange(60.0), "y": np.arange(60) % 2})
    analysis = Job(protocol, data=rows, nodes=fedjob.simulate(3, workers=0), home=session.home)
    assert analysis.estimate(probe=True).time_s
    analysis.run(progress=False)
    assert analysis.clone().estimate().measured == analysis.id, "it has no plan, and a like"
    slow = simulated.clone(every_s=5.0)
    assert slow.estimate(probe=True).time_s >= 39 * 5.0


def test_a_probe_times_the_lines_of_all_and_lets_them_count(federation: Federation, session: Session) -> None:
    job = job_of(session, FedAvg(), named("lines"), model_args={"width": 9000}, training_args={"epochs": 1})
    job.run(progress=False)
    ledger = LineLedger(session.home)
    parties = (OWN, *job.nodes)
    ran = ledger.read()
    assert all(ran.rate(party, way) for party in parties for way in ("down", "up")), (
        "the job itself was measured"
    )
    counted: Any = federation.repository
    count = counted.num_objects
    found = job.clone().estimate(probe=True)
    assert found.measured == job.id
    checked = ledger.read()
    assert checked.measured_at(parties) > ran.measured_at(parties)
    assert all(checked.rate(party, "up") != ran.rate(party, "up") for party in parties)
    assert counted.num_objects == count, "nothing of a check stays"
    assert not list(session.home.rglob("line_*")), "nor here"
    assert not [path for node in federation.nodes for path in node.folder.rglob("line_*")], "nor at a node"


def test_a_job_over_another_line_than_its_like_takes_the_transfers_of_that_line(session: Session) -> None:
    args = {"model_args": {"width": 9000}, "training_args": {"epochs": 1}}
    job = job_of(session, FedAvg(), named("other lines"), **args)
    job.run(progress=False)
    before = job.clone().estimate()
    slow = [
        LineMeasure(party=party, way=way, size_bytes=1 << 20, seconds=10.0, at=time.time())
        for party in (OWN, *job.nodes)
        for way in ("down", "up")
    ]
    LineLedger(session.home).add(slow)
    after = job.clone().estimate()
    moved = 9000 * 4 * 4  # bytes of the model
    transfers = 4 * (1 + 1 + 1 + len(job.nodes)) * moved / (1 << 20) * 10.0
    assert after.time_s - before.time_s == pytest.approx(transfers, rel=0.1)
    assert (
        "over other lines than then, lines as measured 0 s ago (estimate(probe=True) measures them)"
        in after.about
    )
    low, high = after.time_range_s
    assert high / low > 1.2**2
    again = job.clone().estimate(probe=True)  # the lines are fast
    assert again.time_s < after.time_s / 2


def test_a_node_whose_owner_lets_no_speed_be_known_is_not_timed(
    federation: Federation, session: Session
) -> None:
    job = job_of(session, FedAvg(), named("not timed"), training_args={"epochs": 1})
    quiet = federation.nodes[0]
    before = LineLedger(session.home).read().measured_at([quiet.name])
    configure(quiet, replace(quiet.config, publish_speed="off"))
    try:
        job.estimate(probe=True)
    finally:
        configure(quiet, replace(quiet.config, publish_speed="on"))
    lines = LineLedger(session.home).read()
    assert lines.measured_at([quiet.name]) == before
    assert time.time() - lines.measured_at([OWN]) < 60


def test_without_mocks_a_batch_of_made_up_rows_gives_a_rough_time(session: Session) -> None:
    job = job_of(session, FedAvg(), named("made up"), training_args={"epochs": 2, "batch_size": 5})
    found = job.estimate(probe=True)
    assert "of one batch of made-up rows here" in found.about, found
    assert "; no trial on the nodes' mocks: " in found.about, "why it is no better"
    low, high = found.time_range_s
    assert high / low == pytest.approx(16.0)


@pytest.mark.parametrize("bits", [32, 10])
def test_the_bytes_of_masked_vectors_are_known_but_for_the_counts_beside_them(
    bits: int, session: Session
) -> None:
    protect = SecAgg(clip=0.2, bits=bits, max_weight=100)
    job = job_of(
        session, FedAvg(), named(f"sum {bits}"), "trio", protect=protect, model_args={"width": 9000}, rounds=2
    )
    estimate = job.estimate()
    assert not estimate.exact
    assert "if no node falls out" in estimate.about
    job.run(progress=False)
    came = sum(one.bytes for one in job.traffic if (one.kind, one.direction) == ("object", "in"))
    up = sum(one.up for one in estimate)
    room = 3 * 2 * 1000 * 24  # for nodes and rounds
    assert up - room < came <= up
    assert 3 * 2 * 36001 * bits // 8 < came
    claimed = unpack(JobFolder(job.folder).cost.read_bytes())
    assert {node: one["up"] for node, one in claimed.items()} == {one.node: one.up for one in estimate}
    assert all(one["most"] for one in claimed.values())
    assert {one["memory"] for one in claimed.values()} == {estimate.memory_bytes}


@pytest.mark.parametrize(
    ("protocol", "more", "measured"),
    [
        (FedAvg(), {}, 2.97),
        (FedProx(mu=0.1), {}, 3.95),
        (Ditto(lam=0.1), {}, 5.43),
        (Scaffold(), {}, 6.91),
        (Scaffold(kept_by="researcher"), {}, 6.42),
        (FedNova(), {}, 4.43),
        (QFedAvg(), {}, 6.91),
        (FedBuff(k=2), {}, 4.43),
        (FineTuned(epochs=1), {}, 2.95),
        (FedAvg(), {"compress": "bf16"}, 8.55),
        (FedAvg(), {"compress": Int8()}, 8.29),
        (FedAvg(), {"compress": TopK(0.01)}, 9.62),
        (FedAvg(), {"protect": SecAgg(), "tag": "trio"}, 3.46),
        (FedAvg(), {"optimizer": "SGD(model.parameters(), momentum=0.9, "}, 4.94),
        (FedAvg(), {"optimizer": "Adam(model.parameters(), "}, 8.45),
        (FedAvg(), {"optimizer": "Adagrad(model.parameters(), "}, 5.92),
        (Scaffold(), {"optimizer": "SGD(model.parameters(), momentum=0.9, "}, 9.37),
        (Ditto(lam=0.1), {"optimizer": "SGD(model.parameters(), momentum=0.9, "}, 9.91),
        (FedAvg(), {"optimizer": "Adam(model.parameters(), ", "compress": Int8()}, 11.09),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_memory_is_about_what_a_worker_held_for_such_a_job(
    protocol: Any, more: dict[str, Any], measured: float, session: Session
) -> None:
    """`measured` is in models: see the page on estimates for how it was."""
    more = dict(more)
    text = named("memory").replace(
        "SGD(model.parameters(), ", more.pop("optimizer", "SGD(model.parameters(), ")
    )
    job = job_of(session, protocol, text, model_args={"width": 9000}, **more)
    memory, model = job.estimate().memory_bytes, 4 * 36001
    assert memory is not None
    assert 0.8 < memory / (measured * model) < 1.25


ADAM = ("torch.optim.SGD(", "torch.optim.Adam(")
LOOP = """
    def train(self, model, data, training_args):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
        for inputs, targets in data:
            loss = (model(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss
"""


def test_owners_are_told_of_the_optimizers_state_too(session: Session) -> None:
    job = job_of(session, FedAvg(), named("adam").replace(*ADAM), model_args={"width": 9000}, rounds=2)
    assert "without data and activations" in job.estimate().about
    job.run(progress=False)
    claimed = unpack(JobFolder(job.folder).cost.read_bytes())
    assert {one["memory"] for one in claimed.values()} == {job.estimate().memory_bytes}
    unasked = job_of(session, FedAvg(), named("adam").replace(*ADAM), model_args={"width": 9000}, rounds=2)
    unasked.run(progress=False)
    assert unpack(JobFolder(unasked.folder).cost.read_bytes()) == claimed, (
        "whether an estimate was asked for or not"
    )


def test_the_state_of_an_optimizer_of_a_plans_own_loop_shows_when_it_trains(session: Session) -> None:
    text = named("loop")
    begin, end = text.index("    def init_optimizer"), text.index("    def training_data")
    job = job_of(session, FedAvg(), text[:begin] + text[end:] + LOOP, rounds=2)
    found = job.estimate()
    assert "what the optimizer holds, which shows when it trains" in found.about
    assert found.memory_bytes


def test_the_gradients_of_records_are_in_the_memory_as_many_as_a_worker_holds(session: Session) -> None:
    private = RecordDP(epsilon=50.0, delta=1e-3)
    found = {}
    for batch in (4, 8, 10000):
        args = {"num_updates": 2, "batch_size": batch}
        job = job_of(
            session,
            FedAvg(),
            named("private"),
            protect=private,
            training_args=args,
            model_args={"width": 9000},
        )
        found[batch] = job.estimate().memory_bytes
    model = 4 * 36001
    assert 3 * 4 * model < found[8] - found[4] < 6 * 4 * model, (
        "float32, float64 and the norms of each record"
    )
    assert found[10000] < 8 * 256 * model, "never more records than a worker takes at once"


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "soon", None])
def test_a_time_to_wait_is_a_finite_number_of_seconds(wrong: Any, session: Session) -> None:
    job = job_of(session, FedAvg())
    for call in (job.estimate, job.check, job.request, session.nodes, session.datasets):
        with pytest.raises(SpecError, match=r"timeout_s is a finite number of seconds, 0 or more, not "):
            call(timeout_s=wrong)


def test_a_job_ends_where_it_would_move_more_than_an_owner_allows(
    federation: Federation, session: Session
) -> None:
    """What it said it would move is no limit: this job did as it said."""
    with federation.nodes[0].database() as database:
        Grants(database).projects.limit("small", GrantLimits(moved_mb=1), "owner")
    job = job_of(
        session,
        FedAvg(),
        named("moves much"),
        project="small",
        nodes=["east"],
        model_args={"width": 9000},
        rounds=9,
    )
    with pytest.raises(
        JobFailed, match=r"limits_exceeded: .* MB would have gone to and from the hub, and the owner"
    ):
        job.run(progress=False)
    assert committed(job) == 3, "three rounds there and back, and the fourth there, are more than 1 MB"
    again = job.clone(rounds=3)
    again.run(progress=False)
    assert committed(again) == 3, "without a grant each job has its own"


ENDS = {
    "its worker dies": ("import os\n        os._exit(3)", NodeConfig(approval="off"), "worker_died"),
    "its time is up": (
        "import time\n        time.sleep(60)",
        NodeConfig(approval="off", task_limit_s=2.0),
        "timeout",
    ),
}


@pytest.mark.parametrize(("line", "config", "reason"), ENDS.values(), ids=ENDS)
def test_a_task_without_a_result_counts_with_what_it_has_fetched(
    line: str, config: NodeConfig, reason: str, federation: Federation, session: Session
) -> None:
    node = federation.nodes[0]
    before = node.config
    configure(node, replace(config, workers=before.workers))
    with node.database() as database:
        Grants(database).projects.limit(f"ends {reason}", GrantLimits(moved_mb=1), "owner")
    text = named(reason).replace('print("the data are loaded")', line)
    given = {"nodes": ["east"], "model_args": {"width": 9000}, "rounds": 1, "project": f"ends {reason}"}
    try:
        job = job_of(session, FedAvg(), text, **given)
        with pytest.raises(JobFailed, match=reason):
            job.run(progress=False)
    finally:
        configure(node, before)
    with node.database() as database:
        counted = CostLedger(database).moved_by(job.id, "")
    params = 4 * 36001
    assert params <= counted < 2 * params, "once, for the objects stay until the task has ended"


def test_what_a_grant_has_moved_counts_on_when_the_node_is_started_again(
    federation: Federation, session: Session
) -> None:
    node = next(node for node in federation.nodes if node.name == "east")
    before = node.config
    configure(node, replace(before, approval="on"))
    plan = named("started again")
    given = {"nodes": ["east"], "model_args": {"width": 9000}}
    try:
        first = job_of(session, FedAvg(), plan, rounds=2, **given)
        first.request()
        node.decide(limits=GrantLimits(moved_mb=1))
        first.run(progress=False)
        node.stop()
        node.start()
        with node.database() as database:
            [grant] = [one for one in Grants(database).all() if one.limits.moved_mb]
        assert grant.moved_bytes > 4 * 4 * 36001, "two rounds, there and back"
        second = first.clone()
        with pytest.raises(JobFailed, match=r"limits_exceeded: .* MB would have gone to and from the hub"):
            second.run(progress=False)
        assert committed(second) == 1, "with the two rounds before that is nearly 1 MB"
    finally:
        configure(node, before)


def test_what_is_a_bound_or_not_known_says_why(session: Session) -> None:
    some = job_of(session, FedAvg(), selector=Fraction(0.5)).estimate()
    assert not some.exact
    assert "at most (not every node takes part in every round)" in some.about
    endless = job_of(session, FedAvg(), rounds=None).estimate()
    assert endless.bytes_total is None
    assert endless.time_s is None
    assert "time: unknown: it runs until it is stopped" in endless.about
    assert "fj-" in endless._repr_html_()


def test_an_estimate_of_very_many_nodes_has_a_row_for_those_with_the_same_figures(session: Session) -> None:
    plan = session.home / "plan_of_many.py"
    plan.write_text(named("very many"))
    inputs = np.ones((3000, 2), np.float32)
    given = {"training_plan": f"{plan}:AddOne", "data": (inputs, inputs[:, :1]), "home": session.home}
    found = Job(FedAvg(), nodes=fedjob.simulate(3000, workers=0), **given).estimate()
    assert len(found) == 3000
    assert "node-0001, node-0002 and 2998 more  0 B   0 B" in repr(found)
    assert len(repr(found).splitlines()) == 5
    assert len(found._repr_html_()) < 8000
    few = Job(FedAvg(), nodes=fedjob.simulate(20, workers=0), **given).estimate()
    assert "\nnode-0020  " in repr(few)


@fedjob.function
def rows(dataset):  # type: ignore[no-untyped-def]
    return dataset.num_rows


def test_an_answer_that_is_not_known_before_is_not_guessed(session: Session) -> None:
    estimate = Job(rows, data={"tags": ["toy"]}, session=session).estimate()
    assert (estimate.bytes_total, estimate.exact) == (None, False)
    assert "known after the job" in estimate.about


TESTED = """
    def testing_step(self, model, batch):
        return model(batch[0]), batch[1]
"""


@pytest.mark.parametrize("width", [50, 3000], ids=["attached", "large"])
def test_the_bytes_of_an_evaluation_are_those_that_it_moves(
    width: int, federation: Federation, session: Session
) -> None:
    job = job_of(
        session,
        Evaluation(),
        named(f"evaluated {width}") + TESTED,
        training_args={"test_ratio": 1.0},
        rounds=1,
        model_args={"width": width},
    )
    estimate = job.estimate()
    assert estimate.exact, estimate
    job.run(progress=False)
    traffic = {tally.direction: tally.bytes for tally in job.traffic if tally.kind == "object"}
    down, up = (sum(getattr(one, way) for one in estimate) for way in ("down", "up"))
    assert (traffic.get("in", 0), up) == (0, 0), "metrics are in the message"
    assert estimate.bytes_total == traffic["out"] + down
    claimed = unpack(JobFolder(job.folder).cost.read_bytes())
    assert {node: one["down"] for node, one in claimed.items()} == {one.node: one.down for one in estimate}


@pytest.mark.parametrize("rounds", [1, 2])
def test_of_predictions_it_is_known_what_goes_down(
    rounds: int, federation: Federation, session: Session
) -> None:
    counted: Any = federation.repository
    text = named(f"predicts {rounds}")
    job = job_of(session, Inference(), text, rounds=rounds, model_args={"width": 3000}, training_args={})
    estimate = job.estimate()
    assert (estimate.bytes_total, estimate.bytes_per_node, estimate.exact) == (None, None, False)
    assert "without the answers" in estimate.about
    counted.moved = Moved()
    job.run(progress=False)
    came = sum(one.bytes for one in job.traffic if (one.kind, one.direction) == ("object", "in"))
    plans = len(text.encode())  # which nodes have from the estimate
    down = sum(one.down for one in estimate)
    assert down - 3 * plans <= counted.moved.read - came <= down
    assert all(one.up is None for one in estimate)
    claimed = unpack(JobFolder(job.folder).cost.read_bytes())
    assert {node: one["down"] for node, one in claimed.items()} == {one.node: one.down for one in estimate}
    assert not any("up" in one for one in claimed.values()), "an owner is told what is known"
    for node in [node for node in federation.nodes if node.name in claimed]:
        with node.database() as database:
            row = database.row("SELECT sum(bytes_in) AS n FROM costs WHERE job = ?", (job.id,))
        assert row is not None
        assert row["n"] == claimed[node.name]["down"], "the model comes once, and counts once"


def test_owners_are_told_what_a_function_brings_to_their_nodes(session: Session) -> None:
    job = Job(rows, data={"tags": ["toy"]}, session=session)
    job.run(progress=False)
    claimed = unpack(JobFolder(job.folder).cost.read_bytes())
    plan = JobFolder(job.folder).plan.stat().st_size
    assert {tuple(sorted(one.items())) for one in claimed.values()} == {(("down", plan), ("memory", 0))}


def test_predictions_of_a_small_model_are_sent_it_with_each_pass(session: Session) -> None:
    job = job_of(session, Inference(), named("passes"), rounds=3, training_args={})
    estimate = job.estimate()
    job.run(progress=False)
    out = sum(one.bytes for one in job.traffic if (one.kind, one.direction) == ("object", "out"))
    plan = JobFolder(job.folder).plan.stat().st_size
    assert out == sum(one.down for one in estimate) - plan, (
        "the plan is sent once, the attached parameters to each"
    )


def test_masked_metrics_are_counted_as_what_nodes_store(session: Session) -> None:
    job = job_of(
        session,
        Evaluation(),
        named("masked metrics") + TESTED,
        "trio",
        protect=SecAgg(),
        training_args={"test_ratio": 1.0},
        rounds=1,
    )
    estimate = job.estimate()
    job.run(progress=False)
    came = sum(one.bytes for one in job.traffic if (one.kind, one.direction) == ("object", "in"))
    assert 0 < came <= sum(one.up for one in estimate)


def test_of_a_resumed_job_the_rounds_count_that_are_left(session: Session) -> None:
    first = job_of(session, FedAvg(), named("resumed"), rounds=2, model_args={"width": 3000})
    first.run(progress=False)
    three = first.clone(rounds=3).estimate()
    newest = sorted((first.folder / "breakpoints").iterdir())[-1]
    resumed = Job.resume(newest, rounds=5, session=session)
    found = resumed.estimate()
    assert "in the 3 rounds that are left" in found.about
    assert found.bytes_per_node == three.bytes_per_node
    assert found.time_s == pytest.approx(three.time_s, rel=0.5)
    before = sum(one.bytes for one in resumed.traffic if (one.kind, one.direction) == ("object", "in"))
    resumed.run(progress=False)
    after = sum(one.bytes for one in resumed.traffic if (one.kind, one.direction) == ("object", "in"))
    assert after - before == sum(one.up for one in found)
    assert resumed.estimate().bytes_total == first.clone(rounds=5).estimate().bytes_total
