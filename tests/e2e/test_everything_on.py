"""Three hospitals with everything on: one port with TLS, certificates, signed roster, encryption, secure sums, limits, audit heads.

Everybody types what the pages say. The same job ends in the same bytes as on one machine without any of it; nodes and
researchers are killed in between; somebody is revoked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Job, Protect, Quorum, SecAgg, connect
from fedjob.common.errors import FedjobError
from fedjob.parameters.files import FileParams
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.breakpoints import newest_valid
from tests.authorities import Authority
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, ROOT, Federation, background, digest, preferred_kind
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(400)

HOSPITALS = ("east", "north", "west")
PLAN = f"{ROOT}/tests/plans.py:Tiny"
SLOW = f"{ROOT}/tests/e2e/plans.py:Counting"
ABOUT: dict[str, Any] = {"training_args": TRAINING, "rounds": 3, "seed": 9}
"""Of the job that ends in the same bytes everywhere."""


class Hospitals(Federation):
    """A federation over TLS on one port, whose roster a coordinator signs on a machine that is no party."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, preferred_kind(), forked=True)
        self.offline = folder / "offline"
        self.offline.mkdir(parents=True)
        (words := folder / "passphrase").write_text("four words of a poem\n")
        self.passphrase = ("--passphrase-file", words)
        self.authority = Authority(folder / "authority")
        pair = self.authority.server("hub")
        self.types(
            *("federation", "create", "heart", "--folder", self.offline, "--contact", "Dr. Kim"),
            *self.passphrase,
        )
        tls = ("--tls-cert", pair.cert, "--tls-key", pair.key, "--tls-ca", self.authority.cert)
        self.hub_options = ("--federation", self.offline / "heart.federation", *tls)

    def start_hub(self) -> None:
        """Start the hub with one port: the broker has none of its own."""
        kind = ("--broker-kind", self.kind)
        command = ("fedjob", "hub", "start", "--home", self.folder / "hub", "--port", self._ports[0])
        ready = r"^hub ready: (\S+) (\S+) \(broker: (\w+)"
        self.hub = self.processes.start(*command, *kind, *self.hub_options, ready=ready, name="hub")
        self.url = self.hub.wait_for(ready)[1]
        self._ports = (self.url.rpartition(":")[2], "")

    def types(self, *words: str | Path, expect: int | None = 0) -> str:
        """Run a command as somebody types it; return what it says."""
        done = self.processes.run("fedjob", *words, expect=expect, timeout_s=PATIENCE_S)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.stdout + done.stderr

    def entrance(self, party: str, role: str) -> tuple[str | Path, ...]:
        file = self.folder / f"{party}.invitation"
        self.types("hub", "invite", party, "--role", role, "--home", self.folder / "hub", "--out", file)
        return ("--invite", file)

    def coordinator(self, verb: str, *words: str) -> str:
        """Run a command with the federation's key, which knows the hub by its URL and authority alone."""
        way = ("--hub", self.url, "--tls-ca", self.authority.cert)
        return self.types(
            "federation", verb, *words, "--key", self.offline / "heart.key", *way, *self.passphrase, "--yes"
        )


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Return a federation for one test, since some revoke a party or sign another roster."""
    with Hospitals(tmp_path_factory.mktemp("everything")) as federation:
        for index, node in enumerate(federation.add_nodes(*HOSPITALS)):
            node.add("points", make_points(federation.folder / f"points-{index}.npz", 60, index), "points")
        federation.types(
            *("init", "--id", "ann", *federation.entrance("ann", "researcher")),
            *("--home", federation.folder / "ann"),
        )
        signed = federation.coordinator("sign")
        assert "roster 1 is at the hub" in signed
        federation.start_nodes()
        yield federation


@pytest.fixture
def session(made: Hospitals) -> Iterator[Session]:
    with connect(home=made.folder / "ann", timeout_s=30) as opened:
        yield opened


def job_of(session: Session, **changes: Any) -> Job:
    about = {"training_plan": PLAN, "data": {"tags": ["points"]}, "keep": True, **ABOUT}
    return Job(FedAvg(), session=session, **{**about, **changes})


def undisturbed(made: Hospitals) -> Job:
    """Return the same job, on this machine and without a hub."""
    job = Job(
        FedAvg(),
        training_plan=PLAN,
        data={name: str(made.folder / f"points-{index}.npz") for index, name in enumerate(HOSPITALS)},
        nodes="local",
        home=made.folder / "local",
        **ABOUT,
    )
    job.run(progress=False)
    return job


def weights(job: Job) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in job.result.params.values()])


def test_what_everybody_reads_before_the_first_job_says_that_all_of_it_is_on(
    made: Hospitals, session: Session
) -> None:
    hub = json.loads(made.types("hub", "status", "--home", made.folder / "hub", "--json"))
    assert (hub["waiting"], hub["roster"]) == ("nobody", "number 1, 4 parties")
    assert hub["parties_show"].startswith("a certificate of the hub's own authority")
    for node in made.nodes.values():
        wait_until(lambda node=node: node.status()["connected"], timeout_s=20, what="its facts")
        status = node.status()
        assert status["roster"]["trust"].startswith("pinned: roster 1 of heart")
        assert status["encrypted"] is True
        assert not status["trouble"] + status["roster"]["trouble"], status
    shown = made.types("federation", "roster", "show", "--home", made.nodes["east"].home, "--json")
    parties = json.loads(shown)["parties"]
    assert {party["party"] for party in parties} == {*HOSPITALS, "ann"}
    assert all(len(party["certificate"]) == 19 for party in parties), "the roster has the certificates' keys"
    assert session.encryption.startswith("on (the roster is pinned)")
    for words in (
        ("node", "doctor", "--home", made.nodes["east"].home),
        ("doctor", "--home", made.folder / "ann"),
    ):
        said = made.types(*words, expect=None)
        print(said)
        assert "FAIL" not in said


def test_a_job_ends_in_the_bytes_of_one_machine_and_a_secure_one_in_the_same_model(
    made: Hospitals, session: Session
) -> None:
    alone = undisturbed(made)
    plain = job_of(session)
    plain.run(progress=False)
    assert digest(plain) == digest(alone)
    secure = job_of(session, protect=Protect(secagg=True))
    secure.run(progress=False)
    assert (weights(secure) - weights(alone)).abs().max() < 1e-6
    for path in secure.folder.rglob("train_*.safetensors"):
        assert FileParams(path)["tensors"].double().abs().mean() > 2**28, "a node's own update can be read"
    for job, words in (
        (plain, "3 of 3 aggregations"),
        (secure, "3 are secure sums, which nobody can compute"),
    ):
        said = made.types("verify", job.id, "--home", made.folder / "ann")
        assert words in said
        assert "3 of 3 audit logs without a contradiction" in said


def test_a_researcher_and_a_node_that_are_killed_in_a_secure_job_end_in_the_same_bytes(
    made: Hospitals, session: Session
) -> None:
    golden = job_of(session, protect=SecAgg())
    golden.run(progress=False)
    where = {"hub": None, "home": str(made.folder / "ann"), "id": None}
    about = {"plan": PLAN, "data": {"tags": ["points"]}, "secagg": {}, "keep": True, **ABOUT}
    cut = ["fedjob.researcher.rounds.secure_sum:SecureSum._step", "return", 3]
    session.close()
    saved = ["fedjob.researcher.storage.breakpoints:save_breakpoint", "return", 1]
    first = made.research({"job": about, "kill": saved, **where})
    folder = made.folder / "ann" / "jobs" / first.wait_for(r"^job: (\S+)")[1]
    first.wait(timeout_s=PATIENCE_S)
    again = made.research({"resume": str(newest_valid(folder / "breakpoints")), "kill": cut, **where})
    again.wait(timeout_s=PATIENCE_S)
    made.nodes["north"].kill()
    made.nodes["north"].start()
    last = made.research({"resume": str(newest_valid(folder / "breakpoints")), **where})
    assert last.wait(timeout_s=PATIENCE_S) == 0, last.log()
    assert last.wait_for(r"^done: (\S+)")[1] == digest(golden)
    assert "3 are secure sums" in made.types("verify", folder.name, "--home", made.folder / "ann")


def test_a_node_whose_key_changes_in_a_secure_job_goes_on_with_it(made: Hospitals, session: Session) -> None:
    north = made.nodes["north"]
    job = job_of(session, training_plan=SLOW, training_args=PAUSING, rounds=3, protect=SecAgg())
    with background(lambda: job.run(progress=False)) as running:
        wait_until(lambda: _computes(made, "north", job.id, 2), timeout_s=90, what="round 2")
        north.kill()
        made.types("federation", "new-key", "--home", north.home)
        north.start()
        running.result(timeout=PATIENCE_S)
    assert sorted(job.rounds[3].replied) == sorted(HOSPITALS)
    assert torch.isfinite(weights(job)).all()
    said = made.coordinator("sign")
    assert "new key  node north: " in said
    assert "signed with it" in said


PAUSING = {**TRAINING, "tally": "", "pause_s": 1.0}


def _computes(made: Hospitals, name: str, job: str, round_: int) -> bool:
    return any(task["job"] == job and task["round"] == round_ for task in made.nodes[name].tasks())


def test_a_revoked_node_is_left_out_by_name_and_a_revoked_researchers_job_ends_by_name(
    made: Hospitals, session: Session
) -> None:
    job = job_of(session, training_plan=SLOW, training_args=PAUSING, rounds=3, quorum=Quorum(min_nodes=2))
    with background(lambda: job.run(progress=False)) as running:
        wait_until(lambda: _computes(made, "west", job.id, 2), timeout_s=90, what="round 2")
        assert "revoked  node west" in made.coordinator("revoke", "west")
        running.result(timeout=PATIENCE_S)
    assert sorted(job.rounds[3].replied) == ["east", "north"]
    assert "does not belong to the federation any more" in job.rounds[2].dropped["west"]
    status = made.nodes["west"].status()
    assert "west was revoked: ask Dr. Kim" in status["roster"]["waiting"] + status["roster"]["trouble"], (
        status
    )
    print(made.types("node", "status", "--home", made.nodes["west"].home))
    print(made.types("node", "doctor", "--home", made.nodes["west"].home, expect=1))
    print(made.types("hub", "status", "--home", made.folder / "hub"))
    last = job_of(session, training_plan=SLOW, training_args={**PAUSING, "pause_s": 3.0}, rounds=20)
    with background(lambda: last.run(progress=False)) as running:
        wait_until(lambda: _computes(made, "east", last.id, 2), timeout_s=90, what="round 2")
        made.coordinator("revoke", "ann")
        with pytest.raises(FedjobError, match="ann does not belong to the federation any more"):
            running.result(timeout=90)
    for name in ("east", "north"):
        node = made.nodes[name]
        wait_until(
            lambda node=node: node.status()["queue"].get("running", 0) == 0, timeout_s=60, what="its end"
        )
    assert "ann was revoked" in made.types("doctor", "--home", made.folder / "ann", expect=1)
