"""A federation whose parties encrypt for each other: what the hub's memory and disk hold of a job, and how it ends."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from fedjob import FedAvg, Job, connect
from fedjob.cli import cli
from fedjob.common.config import set_config
from fedjob.common.errors import NotAllowed
from fedjob.common.sealing.chunks import content_key
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.breakpoints import hash_file, newest_valid
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, ROOT, Federation, background, digest, preferred_kind
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(400)

NODES = ("east", "west")
PLAN = '''
import torch

from fedjob import TorchPlan


class Marked(TorchPlan):
    """{plan}"""

    extra_args = ("word",)

    def init_model(self, model_args):
        mark = torch.frombuffer(bytearray.fromhex("{weights}") * 2000, dtype=torch.float64).clone()
        model = torch.nn.Linear(4, 2)
        model.mark = torch.nn.Parameter(mark, requires_grad=False)
        return model

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD([model.weight, model.bias], lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        inputs, targets = batch
        print("{log}", flush=True)
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    def testing_step(self, model, batch):
        inputs, targets = batch
        return model(inputs).argmax(1), targets
'''


RESEARCHERS = ("lab", "partner", "keeper")


class Pinned(Federation):
    """A federation whose roster is signed with a key of its own: its parties encrypt, though nobody set anything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, preferred_kind())
        self.keys = folder / "offline"
        self.keys.mkdir(parents=True)
        (words := folder / "passphrase").write_text("four words of a poem\n")
        self.passphrase = ("--passphrase-file", words)
        types(
            "federation", "create", "heart", "--folder", self.keys, "--contact", "Dr. Kim", *self.passphrase
        )
        self.hub_options = ("--federation", self.keys / "heart.federation", "--invited-only")

    def entrance(self, party: str, role: str) -> tuple[str | Path, ...]:
        file = self.folder / f"{party}.invitation"
        types("hub", "invite", party, "--role", role, "--home", self.folder / "hub", "--out", file)
        return ("--invite", file)

    def sign(self) -> None:
        for name in RESEARCHERS:
            types("init", "--id", name, *self.entrance(name, "researcher"), "--home", self.folder / name)
        key = ("--key", self.keys / "heart.key", "--hub", self.url, *self.passphrase)
        types("federation", "sign", *key, "--yes")


def types(*words: str | Path) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Pinned(tmp_path_factory.mktemp("encrypted")) as federation:
        for index, node in enumerate(federation.add_nodes(*NODES, logs_private="all")):
            node.add("points", make_points(federation.folder / f"points-{index}.npz", 60, index), "points")
        federation.sign()
        federation.start_nodes()
        yield federation


def connected(federation: Federation, home: str, encryption: str = "auto") -> Session:
    set_config(ResearcherConfig, federation.folder / home, "encryption", encryption)
    return connect(home=federation.folder / home, timeout_s=30)


class Canaries:
    """Words that stand for what is nobody's but the parties', each in a place of its own."""

    def __init__(self, folder: Path) -> None:
        self.words = {
            name: f"canary-{secrets.token_hex(12)}"
            for name in ("plan", "data", "log", "argument", "name", "note")
        }
        self.weights = bytes.fromhex("3fe0") + secrets.token_bytes(6)  # a number between 0.5 and 1
        self.plan = folder / f"{secrets.token_hex(4)}.py"
        text = PLAN.format(plan=self.words["plan"], log=self.words["log"], weights=self.weights[::-1].hex())
        self.plan.write_text(text)

    def patterns(self) -> dict[str, bytes]:
        found = {name: word.encode() for name, word in self.words.items()}
        return {**found, "weights": self.weights[::-1] * 16}


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield what a process has in its memory, as a dump of it would hold it."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if "w" not in rights:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            for at in range(start, end, 16 << 20):
                try:
                    memory.seek(at)
                    yield memory.read(min(16 << 20, end - at) + 200)
                except (OSError, ValueError, OverflowError):
                    break


def seen_at_hub(federation: Federation, patterns: Mapping[str, bytes]) -> set[str]:
    """Return the canaries that lie in the memory of the hub and its broker, or in their files."""
    hub = psutil.Process(federation.hub.pid)
    found: set[str] = set()
    for process in (hub, *hub.children(recursive=True)):
        for block in memory_of(process.pid):
            found |= {name for name, word in patterns.items() if word in block}
    for path in (federation.folder / "hub").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found |= {name for name, word in patterns.items() if word in data}
    return found


def job_of(session: Session, canaries: Canaries, **more: Any) -> Job:
    return Job(
        FedAvg(),
        training_plan=f"{canaries.plan}:Marked",
        data={"tags": [canaries.words["data"]]},
        training_args={**TRAINING, "word": canaries.words["argument"]},
        name=canaries.words["name"],
        note=canaries.words["note"],
        rounds=4,
        seed=3,
        session=session,
        **more,
    )


def watched_at_hub(federation: Federation, session: Session) -> tuple[set[str], set[str], Job]:
    """Run a job and look at the hub again and again; return all canaries, those that were seen, and the job."""
    canaries = Canaries(federation.folder)
    for index, node in enumerate(federation.nodes.values()):
        node.add(canaries.words["data"], federation.folder / f"points-{index}.npz", canaries.words["data"])
    job = job_of(session, canaries)
    seen: set[str] = set()

    def run() -> Job:
        job.run(progress=False)
        return job

    with background(run) as running:
        running: Future[Job]
        while not running.done():
            seen |= seen_at_hub(federation, canaries.patterns())
        running.result(timeout=PATIENCE_S)
    seen |= seen_at_hub(federation, canaries.patterns())
    return set(canaries.patterns()), seen, job


def encrypt_at_nodes(federation: Federation, encryption: str) -> None:
    """Change the setting of every node, and wait until they follow it."""
    for node in federation.nodes.values():
        node.set(encryption=encryption)
    wanted = encryption != "off"
    for node in federation.nodes.values():
        wait_until(lambda node=node: node.status()["encrypted"] is wanted, timeout_s=20, what="the setting")


@pytest.fixture
def plain_nodes(made: Federation) -> Iterator[None]:
    encrypt_at_nodes(made, "off")
    yield
    encrypt_at_nodes(made, "auto")


def hides(folder: Path, words: Iterable[bytes]) -> list[str]:
    """Return the files of a folder that hold one of these words, as bytes or as hex digits."""
    wanted = [form for word in words for form in (word, word.hex().encode())]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in wanted)
    ]


def test_nothing_of_a_job_is_found_in_the_memory_and_the_files_of_the_hub_and_its_broker(
    made: Federation,
) -> None:
    with connected(made, "lab") as session:
        assert session.encryption.startswith("on (the roster is pinned)")
        _, seen, job = watched_at_hub(made, session)
        assert job.success
        assert seen == set()
        assert made.nodes["east"].status()["encryption"].startswith("on (the roster is pinned)")
        assert [event for event in job.events() if event.type == "log"], "no log came that could be found"


@pytest.mark.usefixtures("plain_nodes")
def test_all_of_it_is_found_there_where_the_parties_do_not_encrypt(
    made: Federation,
) -> None:
    """The search for words finds them: what the test above does not find is not there.

    A message is in memory for some milliseconds, and on a busy machine one job may pass between two looks: a few may run.
    """
    seen: set[str] = set()
    with connected(made, "lab", "off") as session:
        for _ in range(4):
            every, found, _ = watched_at_hub(made, session)
            seen |= found
            if seen == every:
                break
        assert seen == every


@pytest.mark.usefixtures("plain_nodes")
def test_a_node_that_answers_in_plain_is_named_to_a_researcher_who_requires_encryption(
    made: Federation,
) -> None:
    with connected(made, "lab", "on") as session:
        found = {node.id: node for node in session.nodes(timeout_s=4)}
        assert not any(node.online for node in found.values())
        assert "it answers without encryption" in found["east"].silence
        offered = session.datasets(tags=["points"])
        assert list(offered) == []
        assert "it answers without encryption" in offered.silent["east"]
        assert session.encryption.startswith("on:")


def test_a_node_that_requires_encryption_is_named_to_a_researcher_who_does_without(made: Federation) -> None:
    before = made.nodes["east"].status()["dropped"].get("plain", 0)
    with connected(made, "lab", "off") as session:
        found = {node.id: node for node in session.nodes(timeout_s=4)}
        assert "does it require encryption" in found["east"].silence
    wait_until(
        lambda: made.nodes["east"].status()["dropped"].get("plain", 0) > before,
        timeout_s=20,
        what="the count",
    )
    assert made.nodes["east"].status()["encryption"].startswith("on")


def test_a_killed_researcher_goes_on_with_the_same_key_and_the_end_of_the_job_destroys_every_key(
    made: Federation,
) -> None:
    folder = made.folder / "keeper"
    plan = f"{ROOT}/tests/plans.py:Tiny"
    about = {
        "plan": plan,
        "data": {"tags": ["points"]},
        "model_args": {
            "width": 2000
        },  # too much to be attached to a message: nodes encrypt it by a secret of the job
        "training_args": TRAINING,
        "rounds": 5,
        "seed": 9,
        "keep": True,
    }
    where = {"hub": None, "home": str(folder), "id": None}
    cut = ["fedjob.researcher.storage.breakpoints:save_breakpoint", "return", 2]
    first = made.research({"job": about, "kill": cut, **where})
    job = first.wait_for(r"^job: (\S+)")[1]
    first.wait(timeout_s=PATIENCE_S)
    secret = folder / "keys" / "jobs" / job
    before = secret.read_bytes()
    assert secret.stat().st_mode & 0o777 == 0o600
    own = [node.home / "keys" / "jobs" / job for node in made.nodes.values()]
    secrets_of_nodes = [path.read_bytes() for path in own]
    assert len({before, *secrets_of_nodes}) == 3, "parties share a secret"
    last = newest_valid(folder / "jobs" / job / "breakpoints")
    again = made.research({"resume": str(last), **where})
    wait_until(lambda: "round" in again.log() or again.wait_for(r"^job: (\S+)"), timeout_s=60, what="it")
    result = again.wait_for(r"^done: (\S+)", timeout_s=PATIENCE_S)[1]
    assert again.wait(timeout_s=PATIENCE_S) == 0
    local = Job(
        FedAvg(),
        training_plan=plan,
        data={name: str(made.folder / f"points-{index}.npz") for index, name in enumerate(NODES)},
        model_args={"width": 2000},
        training_args=TRAINING,
        rounds=5,
        seed=9,
        nodes="local",
        home=made.folder / "local",
    )
    local.run(progress=False)
    assert digest(local) == result
    keys = [before, *secrets_of_nodes]
    shas = [hash_file(path) for path in (folder / "jobs" / job).rglob("*.safetensors")]
    keys += [content_key(one, sha256) for one in (before, *secrets_of_nodes) for sha256 in shas]
    wait_until(lambda: not any(path.exists() for path in own), timeout_s=20, what="the keys to go")
    for home in (folder, *(node.home for node in made.nodes.values())):
        wait_until(lambda home=home: not hides(home, keys), timeout_s=20, what=f"the keys to go from {home}")
    assert not secret.exists()
    assert "5 of 5 aggregations recomputed to the same bytes" in made.cli("verify", job, home=folder).stdout


def test_a_partner_watches_an_encrypted_job_and_the_hub_does_not(made: Federation) -> None:
    with connected(made, "lab") as session, connected(made, "partner") as partner:
        canaries = Canaries(made.folder)
        for index, node in enumerate(made.nodes.values()):
            node.add(canaries.words["data"], made.folder / f"points-{index}.npz", canaries.words["data"])
        job = job_of(session, canaries, watchers=["partner"])
        job.run(progress=False)
        followed = partner.follow(job.id)
        assert followed.success
        assert followed.name == canaries.words["name"]
        assert list(followed.events()) == list(job.events())
        assert seen_at_hub(made, canaries.patterns()) == set()
        with connected(made, "keeper") as stranger, pytest.raises(NotAllowed):
            stranger.follow(job.id)


def test_a_mock_is_read_by_the_researcher_who_asked_and_not_by_the_hub(made: Federation) -> None:
    canaries = Canaries(made.folder)
    name, word = canaries.words["data"], canaries.words["plan"]
    table = made.folder / "mocked.csv"
    table.write_text("age,note\n" + f"41,{word}\n" * 20)
    made.nodes["east"].add(name, table, name, mock=table)
    with connected(made, "lab") as session:
        (handle,) = session.datasets(tags=[name])
        assert handle.mock().frame()["note"][0] == word
    assert seen_at_hub(made, canaries.patterns()) == set()
