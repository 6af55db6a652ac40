"""What crosses the broker, seen by a spy; and what a node makes of frames that nobody should have sent."""

from __future__ import annotations

import getpass
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fedjob import FedAvg, Job
from fedjob.common.errors import DecodeError
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.identity.keys import Identity
from fedjob.identity.membership import load_membership
from fedjob.messaging.frame import decode_frame, encode_frame
from fedjob.messaging.messages import (
    Answer,
    Message,
    Offer,
    Ping,
    Search,
    Task,
    decode_payload,
    encode_payload,
)
from fedjob.messaging.transport.echo import ECHO
from tests.data import TRAINING, make_points
from tests.e2e.federation import ROOT, Federation, Node
from tests.e2e.plans import Chatty, Large, Points
from tests.parts import program
from tests.processes import Processes, wait_until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def glass(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Federation]:
    """Return two nodes around a Mosquitto that lets everybody see and send everything."""
    folder = tmp_path_factory.mktemp("glass")
    port = free_port()
    conf = folder / "mosquitto.conf"
    conf.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser {getpass.getuser()}\n"
    )
    with Processes(folder / "broker-logs") as processes:
        processes.start(
            program("mosquitto"), "-c", conf, ready="mosquitto version .* running", name="mosquitto"
        )
        with Federation(folder / "federation", f"mqtt://127.0.0.1:{port}") as made:
            for index, node in enumerate(made.add_nodes("east", "west")):
                node.add("points", make_points(made.folder / f"points-{index}.npz", 80, index), "points")
            made.start_nodes()
            yield made


class Spy:
    """Hears everything that the broker carries, and may say anything."""

    def __init__(self, url: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        listening = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"spy-{secrets.token_hex(8)}")
        self._client.on_message = lambda c, u, m: self.heard.append((m.topic, m.payload))
        self._client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: listening.set()
        host, port = url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        assert listening.wait(20)

    def say(self, topic: str, *payloads: bytes) -> None:
        for said in [self._client.publish(topic, payload, qos=1) for payload in payloads]:
            said.wait_for_publish(20)

    def carried(self) -> list[tuple[str, bytes]]:
        """Return all that the broker was given so far: its messages come here in their order."""
        mark = f"spy/{secrets.token_hex(8)}"
        self.say(mark, b"")
        wait_until(
            lambda: any(topic == mark for topic, _ in self.heard), timeout_s=20, what="the spy to hear"
        )
        return [(topic, data) for topic, data in self.heard if not topic.startswith("spy/")]

    def messages(self) -> list[Message]:
        """Return every message so far."""
        carried = [data for topic, data in self.carried() if "/presence/" not in topic and data != ECHO]
        frames = [decode_frame(data) for data in carried]
        return [decode_payload(frame.payload, frame.sender) for frame in frames]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def spy(glass: Federation) -> Iterator[Spy]:
    made = Spy(glass.broker_url)
    yield made
    made.close()


def make_job(glass: Federation, plan: type = Points, **changes: object) -> Job:
    arguments = {"data": "points", "training_args": TRAINING, "rounds": 2, "seed": 2, **changes}
    return Job(FedAvg(), training_plan=plan, session=glass.session(), **arguments)  # type: ignore[arg-type]


@pytest.mark.feature("FB-15", "FB-31", "FB-48", "FB-77")
def test_messages_hold_refs_and_no_paths_no_parameters_no_urls(glass: Federation, spy: Spy) -> None:
    job = make_job(glass, Large, validate_at_end=True)
    asked = job.check_training_plan_is_approved_by_nodes()
    assert asked == {"east": "not-needed", "west": "not-needed"}
    offers = {m.id: m.to for m in spy.messages() if isinstance(m.body, Offer)}  # some are sent again
    assert sorted(offers.values()) == ["east/main", "west/main"]  # one each, none to everybody
    result = job.run(progress=False)
    payloads = [data for _, data in spy.carried()]
    assert len(payloads) > 20
    for data in payloads:
        for path in (str(glass.folder), str(ROOT), "/home/", "/tmp/", "http://", "points-0.npz"):
            assert path.encode() not in data
        assert len(data) <= MAX_FRAME_BYTES
    weights = result.params["0.weight"].numpy().tobytes()
    assert not [data for data in payloads if weights[1000:1016] in data]
    tasks = [m.body for m in spy.messages() if isinstance(m.body, Task)]
    assert len(tasks) >= 6
    for task in tasks:
        assert task.plan is not None
        assert task.plan.sha256 == job.spec.plan_hash
        assert list(task.params) == ["params"]
    assert all(m.job == job.id for m in spy.messages() if isinstance(m.body, (Task, Offer, Answer)))


@pytest.mark.feature("FB-58")
def test_no_log_holds_weights_keys_or_data(glass: Federation) -> None:
    job = make_job(glass, Chatty, training_args={**TRAINING, "log_interval": 1})
    result = job.run(progress=False)
    homes = [glass.folder / name for name in ("hub", "lab", "east", "west")]
    secret = [(home / "keys" / "ed25519").read_text().strip() for home in homes[1:]]
    for home in homes[1:]:
        member = load_membership(home)
        secret += [member.token, member.broker_password]
    weight = float(result.params["weight"][0, 0])
    secret += [repr(weight), f"{weight:.4f}", result.params["weight"].numpy().tobytes().hex()[:32]]
    logs = [
        p for home in homes for p in home.rglob("*") if p.suffix in (".log", ".jsonl") or "logs" in p.parts
    ]
    logs += [running.log_path for running in glass.processes.started]
    texts = {path: path.read_text(errors="replace") for path in logs if path.is_file()}
    printed = sum("printed by the plan" in text for text in texts.values())
    assert printed == 2 * job.spec.rounds  # at both nodes, in the log of each task
    for path, text in texts.items():
        for word in secret:
            assert word not in text, path


class Forger:
    """Makes frames that are right but for one thing."""

    def __init__(self, glass: Federation) -> None:
        glass.session()
        self.lab = Identity.load_or_create(glass.folder / "lab" / "keys")
        self.federation = load_membership(glass.folder / "lab").federation
        self.message = Message(
            to="east/main",
            id=secrets.token_hex(16),
            body=Search(tags=[]),
            reply_to="lab/forged",
            issued=time.time(),
            expires=time.time() + 60,
        )

    def frame(self, who: Identity | None = None, federation: str = "", **header: object) -> bytes:
        message = replace(self.message, id=secrets.token_hex(16), **header)  # type: ignore[arg-type]
        return encode_frame(who or self.lab, federation or self.federation, encode_payload(message))

    def cases(self, glass: Federation) -> list[tuple[str, str, bytes]]:
        """Return (counter, sender in the topic, frame)."""
        stranger = Identity.generate("stranger")
        forged = msgpack.unpackb(self.frame())
        forged[3] = Identity.generate("lab").sign(b"whatever")
        changed = msgpack.unpackb(self.frame())
        changed[4] = changed[4].replace(b"search", b"seerch")
        west = Identity.load_or_create(glass.folder / "west" / "keys")
        short = msgpack.packb({"to": "east/main", "kind": "task", "expires": time.time() + 60, "id": "x"})
        task = Task(dataset="points", protocol="fedavg")
        return [
            ("malformed", "lab", b""),
            ("malformed", "lab", secrets.token_bytes(300)),
            ("malformed", "lab", msgpack.packb([2, *forged[1:]])),
            ("malformed", "lab", self.frame()[:-1]),
            ("malformed", "lab", b"\xdd\xff\xff\xff\xff"),
            ("oversized", "lab", secrets.token_bytes(MAX_FRAME_BYTES + 1)),
            ("oversized", "stranger", bytes(MAX_FRAME_BYTES + 1)),
            ("unknown_sender", "stranger", self.frame(stranger)),
            ("bad_signature", "lab", msgpack.packb(forged)),
            ("bad_signature", "lab", msgpack.packb(changed)),
            ("foreign", "west", self.frame()),
            ("foreign", "lab", self.frame(to="west/main")),
            ("foreign", "lab", self.frame(to="", body=task, reply_to="lab/x", job="job_x")),
            ("foreign", "lab", self.frame(federation="another")),
            ("expired", "lab", self.frame(expires=time.time() - 3600)),
            ("expired", "lab", self.frame(expires=time.time() + 1e9)),
            ("role", "west", self.frame(west, reply_to="west/main")),
            ("schema", "lab", encode_frame(self.lab, self.federation, short)),
            ("schema", "lab", encode_frame(self.lab, self.federation, b"\xc1")),
            ("schema", "lab", self.frame(reply_to="west/main")),
            ("schema", "lab", self.frame(body=task, reply_to="")),
        ]  # fmt: skip


def dropped(node: Node, spy: Spy) -> dict[str, int]:
    """Return what a node has dropped of all that it was sent: one more frame tells when it has written it down."""
    counted: Callable[[], dict[str, int]] = lambda: node.status()["dropped"]  # noqa: E731
    before = counted().get("malformed", 0)
    spy.say(f"fedjob/1/to/{node.name}/main/from/lab", b"")
    wait_until(lambda: counted().get("malformed", 0) > before, timeout_s=60, what="the node to count a frame")
    return counted()


def test_frames_that_fail_a_check_change_nothing_and_are_counted(glass: Federation, spy: Spy) -> None:
    node = glass.nodes["east"]
    told = lambda: (node.json("tasks"), node.json("grants", "list"), node.json("data", "list"))  # noqa: E731
    counted, before = dropped(node, spy), told()
    cases = Forger(glass).cases(glass)
    for _, sender, frame in cases:
        spy.say(f"fedjob/1/to/east/main/from/{sender}", frame)
    expected = dict(counted)
    spy.say("fedjob/1/to/east/main/from/lab", bytes(1 << 20))  # more than a node lets a broker deliver
    for cause, _, _ in cases:
        expected[cause] = expected.get(cause, 0) + 1
    wait_until(
        lambda: node.status()["dropped"] == expected, timeout_s=60, what=f"the node to count {expected}"
    )
    assert told() == before
    assert node.process is not None
    assert node.process.alive
    assert not [
        topic for topic, _ in spy.carried() if topic.startswith("fedjob/1/to/lab/forged")
    ]  # no answer
    assert {"east", "west"} == {info.id for info in glass.session().nodes(timeout_s=30) if info.online}


@pytest.mark.feature("FB-62")
def test_replayed_frames_change_nothing_and_are_counted(glass: Federation, spy: Spy, tmp_path: Path) -> None:
    node = glass.nodes["east"]
    job = make_job(glass)
    job.run(progress=False)
    kinds = {"task", "offer", "end"}
    old = [
        (topic, data)
        for topic, data in spy.carried()
        if topic.startswith("fedjob/1/to/east/main/from/lab") and kind_of(data) in kinds
    ]
    assert {kind_of(data) for _, data in old} == kinds
    counted, before = dropped(node, spy).get("replayed", 0), node.json("tasks")
    for topic, data in old * 2:
        spy.say(topic, data)
    wait_until(
        lambda: node.status()["dropped"].get("replayed", 0) == counted + 2 * len(old),
        timeout_s=60,
        what="the node to count the replays",
    )
    assert node.json("tasks") == before
    digest = job.result.params["weight"].tolist()
    # an answer of a party that was not asked, or signed by another key, does not count either
    replies = [
        (topic, data) for topic, data in spy.carried() if "/from/east" in topic and kind_of(data) == "reply"
    ]
    again = make_job(glass)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.02):
            session = str(glass.session().endpoint.address)
            for _, data in replies:
                spy.say(f"fedjob/1/to/{session}/from/west", data)
                spy.say(f"fedjob/1/to/{session}/from/east", data)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        again.run(progress=False)
    finally:
        stop.set()
        thread.join()
    assert again.result.params["weight"].tolist() == digest
    counters = glass.session().endpoint.counters
    assert counters["foreign"]
    assert counters["replayed"]


def test_a_flood_of_replayed_frames_takes_nothing_from_its_partys_own_allowance(
    glass: Federation, spy: Spy
) -> None:
    """A broker's operator sends what a researcher sent before, over and over, while that researcher works."""
    make_job(glass, rounds=1).run(progress=False)
    glass.session().nodes(timeout_s=30)
    old = [(topic, data) for topic, data in spy.carried() if topic.endswith("/from/lab")]
    assert {"ping", "task", "offer", "end"} <= {kind_of(data) for _, data in old}
    node = glass.nodes["west"]
    before = dropped(node, spy)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            for topic in {topic for topic, _ in old}:
                spy.say(topic, *[data for at, data in old if at == topic] * 20)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(3):
            assert {"east", "west"} == {
                info.id for info in glass.session().nodes(timeout_s=30) if info.online
            }
        make_job(glass).run(progress=False)
    finally:
        stop.set()
        thread.join()
    after = dropped(node, spy)
    assert after["replayed"] - before.get("replayed", 0) > 500
    assert after.get("flooded", 0) == before.get("flooded", 0)


def kind_of(data: bytes) -> str:
    """Return the kind of message in a frame; empty for bytes that are none, which other tests leave on the line."""
    try:
        return str(msgpack.unpackb(decode_frame(data).payload)["kind"])
    except DecodeError:
        return ""


def test_a_flood_of_pings_is_cut_off_and_the_node_lives(glass: Federation, spy: Spy) -> None:
    forger = Forger(glass)
    node = glass.nodes["west"]
    frames = [forger.frame(to="west/main", body=Ping()) for _ in range(400)]
    spy.say("fedjob/1/to/west/main/from/lab", *frames)  # at once: a slow machine would let them trickle in
    wait_until(
        lambda: node.status()["dropped"].get("flooded"), timeout_s=60, what="the node to count a flood"
    )
    make_job(glass, rounds=1).run(progress=False)
