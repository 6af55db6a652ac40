"""A federation over a cluster of three RabbitMQ nodes: the same rights, the same bytes, and a node of the cluster that is killed."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob import FedAvg, Job, connect
from fedjob.hub.broker import rabbitmq
from fedjob.hub.broker.mosquitto import MESSAGE_SIZE_LIMIT
from fedjob.identity.membership import Membership, enrol
from tests.bare_mqtt import SUBACK, BareClient, publish, subscribe
from tests.bare_mqtt import connect as login
from tests.cluster.rabbits import Cluster
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, background, digest, preferred_kind
from tests.hubs import keys_of
from tests.plans import Tiny
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(500)

SITES = ("site-1", "site-2", "site-3")
FAILURE = 0x80


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("rabbits")) as made:
        yield made


@pytest.fixture(scope="module")
def federation(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    management = f"http://127.0.0.1:{cluster.nodes[2].management_port}"
    made = Federation(tmp_path_factory.mktemp("federation"), cluster.url)
    made.hub_options = ("--broker-management", management)
    with made:
        cluster.start((made.folder / "hub" / "broker" / rabbitmq.SETTINGS_NAME).read_text())
        with cluster.explained():
            _add_nodes(made)
        yield made


def _add_nodes(federation: Federation) -> None:
    for index, node in enumerate(federation.add_nodes(*SITES)):
        path = make_points(federation.folder / f"points-{index}.npz", 60 + 20 * index, index)
        node.add("points", path, "points")
    federation.start_nodes()


def _job(federation: Federation) -> Job:
    return Job(
        FedAvg(),
        training_plan=Tiny,
        training_args=TRAINING,
        rounds=5,
        seed=11,
        data={"tags": ["points"]},
        session=federation.session(),
    )


def _in_round(job: Job, number: int) -> bool:
    return any(event.type == "ask" and event.round >= number for event in job.events())


@pytest.fixture(scope="module")
def eve(federation: Federation) -> Membership:
    return enrol(federation.url, "eve", "researcher", keys_of("eve"))


def _listens_on_loopback_alone(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    where = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    return [each.partition(":")[0] for each in where if each.endswith(f":{port:04X}")] == ["0100007F"]


@pytest.fixture
def healed(cluster: Cluster, federation: Federation) -> Iterator[None]:
    """Leave the hub and every node of the cluster running and all parties connected, whatever became of the test."""
    yield
    if not federation.hub.alive:
        federation.start_hub()
    for node in cluster.nodes:
        if not node.alive:
            node.start()
            node.wait()
    with cluster.explained():
        wait_until(lambda: _all_answer(federation), timeout_s=PATIENCE_S, what="every node to answer")


def _all_answer(federation: Federation) -> bool:
    """Ask all nodes; one that RabbitMQ has stopped to listen to notices within three quarters of a minute."""
    return {info.id for info in federation.session().nodes(timeout_s=5) if info.online} >= set(SITES)


@pytest.fixture
def client(cluster: Cluster, eve: Membership) -> Iterator[BareClient]:
    """A party that is let in and then does what it likes."""
    with BareClient("127.0.0.1", cluster.port) as made:
        assert made.login(login("eve", eve.broker_password)).code == 0
        yield made


def _subscribe(client: BareClient, topic: str) -> int:
    """Return the broker's answer to a subscription; -1 for the end of the connection."""
    client.send(subscribe(topic))
    try:
        return client.until(SUBACK)[-1]
    except EOFError:
        return -1


def _ends(client: BareClient) -> bool:
    try:
        while client.next():
            pass
    except (EOFError, TimeoutError) as error:
        return isinstance(error, EOFError)
    return False


def test_three_nodes_are_one_cluster_and_tls_is_served(cluster: Cluster, federation: Federation) -> None:
    status = cluster.nodes[0].ctl("cluster_status", "--formatter", "json")
    for node in cluster.nodes:
        assert status.count(node.node) > 2
        context = ssl.create_default_context(cafile=str(cluster.authority.cert))
        with (
            socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.version() == "TLSv1.3"
        assert _listens_on_loopback_alone(node.management_port)
    assert '"fedjob-sessions"' in cluster.nodes[0].ctl("list_policies", "--formatter", "json")


def test_a_stranger_and_a_party_in_the_name_of_another_are_refused(
    cluster: Cluster, federation: Federation, eve: Membership
) -> None:
    key = eve.broker_password
    for user, password, client_id in (
        ("eve", "0" * 64, None),
        ("nobody", key, None),
        ("", "", "x"),
        ("guest", "guest", None),
        ("_hub", key, None),
        ("site-1", key, None),
        ("other:eve", key, "eve:1"),
        ("eve", key, "site-1:1"),
        ("eve", key, "evergreen:1"),
        ("eve", key, "eve"),
    ):
        with BareClient("127.0.0.1", cluster.port) as client:
            assert client.login(login(user, password, client_id=client_id)).code != 0, (user, client_id)


@pytest.mark.parametrize(
    "topic",
    ["#", "fedjob/#", "fedjob/1/#", "fedjob/1/to/#", "fedjob/1/to/+/#", "fedjob/1/to/site-1/#", "fedjob/1/to/site-1/+/from/+",
     "fedjob/1/to/*/#", "fedjob.1.to.site-1.#", "fedjob/1/to/site-1/d/from/eve", "$SYS/#", "fedjob/1/presence/#"],
)  # fmt: skip
def test_what_is_addressed_to_another_party_is_not_read(client: BareClient, topic: str) -> None:
    assert _subscribe(client, topic) in (FAILURE, -1)


@pytest.mark.parametrize(
    "topic",
    ["fedjob/1/to/site-1/d/from/site-2", "fedjob/1/all/from/site-2", "fedjob/1/presence/site-1", "fedjob/1/to/site-1/d/from",
     "fedjob/1/to/eve/d/from/site-1", "fedjob/1/to/eve/s.1/from/eve", "elsewhere", "fedjob.1.all.from.site-2"],
)  # fmt: skip
def test_nobody_writes_in_the_name_of_another(client: BareClient, topic: str) -> None:
    client.send(publish(topic, b"x"))
    assert _ends(client)


def test_a_party_reads_and_writes_what_is_its_own_over_the_whole_cluster(
    cluster: Cluster, eve: Membership
) -> None:
    first, last = cluster.nodes[0], cluster.nodes[2]
    with BareClient("127.0.0.1", first.port) as one, BareClient("127.0.0.1", last.port) as other:
        for each in (one, other):
            assert each.login(login("eve", eve.broker_password)).code == 0
        for topic in ("fedjob/1/to/eve/#", "fedjob/1/all/from/+", "fedjob/1/presence/+"):
            assert _subscribe(one, topic) == 0, topic
        for topic in ("fedjob/1/to/eve/s-1/from/eve", "fedjob/1/all/from/eve", "fedjob/1/presence/eve"):
            other.send(publish(topic, b"hello"))
            found = one.until(3)
            assert topic.encode() in found
            assert found.endswith(b"hello")


def test_a_message_over_the_limit_ends_its_sender_alone(client: BareClient, federation: Federation) -> None:
    client.send(publish("fedjob/1/all/from/eve", b"x" * (MESSAGE_SIZE_LIMIT + 1)))
    assert _ends(client)
    assert federation.session().endpoint.connected


def test_nothing_is_retained_and_who_answers_counts_as_present(
    cluster: Cluster, federation: Federation, client: BareClient, eve: Membership
) -> None:
    client.send(publish("fedjob/1/all/from/eve", b"x", retain=True))
    time.sleep(0.3)
    with BareClient("127.0.0.1", cluster.port, timeout_s=1) as later:
        assert later.login(login("eve", eve.broker_password)).code == 0
        assert _subscribe(later, "fedjob/1/all/from/+") == 0
        assert not _ends(later)
    with connect(hub=federation.url, home=federation.folder / "late", id="late", timeout_s=30) as session:
        found = {info.id for info in session.nodes(timeout_s=20) if info.online}
        assert found == set(SITES)
        assert {node for node, there in session.endpoint.presence().items() if there} >= set(SITES)


def test_a_session_that_outlives_its_connection_lies_on_three_nodes(
    cluster: Cluster, eve: Membership
) -> None:
    with BareClient("127.0.0.1", cluster.port) as lasting:
        assert (
            lasting.login(login("eve", eve.broker_password, client_id="eve:lasting", clean=False)).code == 0
        )
        lasting.send(subscribe("fedjob/1/to/eve/#")[:-1] + b"\x01")
        assert lasting.until(SUBACK)[-1] == 1
        queues = cluster.nodes[0].ctl("list_queues", "name", "type", "members")
    with BareClient("127.0.0.1", cluster.port) as last:  # which ends the session
        assert last.login(login("eve", eve.broker_password, client_id="eve:lasting")).code == 0
    (line,) = [line for line in queues.splitlines() if "eve:lasting" in line]
    assert "quorum" in line
    assert all(node.node in line for node in cluster.nodes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash in which the job ends over a hub's own broker."""
    with Federation(tmp_path_factory.mktemp("single"), preferred_kind()) as single:
        _add_nodes(single)
        expected = _job(single)
        expected.run(progress=False)
        return digest(expected)


@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize("away_s", [0, 8])
def test_a_job_ends_in_the_same_bytes_when_the_hub_is_killed(
    away_s: int, cluster: Cluster, federation: Federation, undisturbed: str
) -> None:
    """Meanwhile the brokers have nobody to ask: sessions go on or are ended, and are let in again by the hub that is back."""
    job = _job(federation)
    rights = (federation.folder / "hub" / "broker" / rabbitmq.SETTINGS_NAME).read_text()
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: _in_round(job, 2), timeout_s=PATIENCE_S, what="round 2")
        federation.hub.kill()
        time.sleep(away_s)
        federation.start_hub()
        run.result(timeout=PATIENCE_S)
    assert digest(job) == undisturbed
    assert all(sorted(info.replied) == sorted(SITES) for info in job.rounds.values())
    assert (federation.folder / "hub" / "broker" / rabbitmq.SETTINGS_NAME).read_text() == rights


@pytest.mark.usefixtures("healed")
def test_a_job_ends_in_the_bytes_of_one_over_a_single_broker_also_when_a_cluster_node_is_killed(
    cluster: Cluster, federation: Federation, undisturbed: str
) -> None:
    whole = _job(federation)
    whole.run(progress=False)
    assert digest(whole) == undisturbed

    broken = _job(federation)
    with background(lambda: broken.run(progress=False)) as run:
        wait_until(lambda: _in_round(broken, 2), timeout_s=PATIENCE_S, what="round 2")
        cluster.nodes[0].kill()
        run.result(timeout=PATIENCE_S)
    assert digest(broken) == undisturbed
    assert all(sorted(info.replied) == sorted(SITES) for info in broken.rounds.values())
    cluster.nodes[0].start()
    cluster.nodes[0].wait()
    assert cluster.nodes[0].ctl("cluster_status", "--formatter", "json").count(cluster.nodes[0].node) > 2


@pytest.mark.usefixtures("healed")
def test_a_full_disk_of_the_cluster_is_named_by_the_node_the_hub_and_the_test(
    cluster: Cluster, federation: Federation
) -> None:
    for node in cluster.nodes:
        node.ctl("set_disk_free_limit", "1000000GB")
    try:
        wait_until(
            lambda: cluster.nodes[0].alarms().count("disk") == len(cluster.nodes),
            timeout_s=60,
            what="the alarm at every node",
        )
        with pytest.raises(AssertionError, match="answers nobody because of") as caught:
            cluster.check()
        assert all(
            f"disk resource limit alarm set on node '{node.node}'" in str(caught.value)
            for node in cluster.nodes
        )
        found = {row["check"]: row for row in json.loads(_doctor(federation, "node", "site-1"))}
        assert "docs/rabbitmq.md" in found["broker"]["found"]
        found = {row["check"]: row for row in json.loads(_doctor(federation, "hub", "hub"))}
        assert "answers no login" in found["broker"]["found"]
        assert "rabbitmq-diagnostics alarms" in found["broker"]["do"]
    finally:
        for node in cluster.nodes:
            node.ctl("set_disk_free_limit", "50MB")
    wait_until(lambda: not cluster.nodes[0].alarms(), timeout_s=60, what="the end of the alarm")
    cluster.check()


def _doctor(federation: Federation, role: str, home: str) -> str:
    return federation.cli(role, "doctor", "--json", home=federation.folder / home, expect=1).stdout


def test_a_revoked_partys_connections_are_ended(cluster: Cluster, federation: Federation) -> None:
    password = enrol(federation.url, "mallory", "researcher", keys_of("mallory")).broker_password
    with BareClient("127.0.0.1", cluster.port) as client:
        assert client.login(login("mallory", password)).code == 0
        assert _subscribe(client, "fedjob/1/all/from/+") == 0
        federation.cli("hub", "party", "revoke", "mallory", home=federation.folder / "hub")
        began = time.monotonic()
        assert _ends(client)
        assert time.monotonic() - began < 10
    with BareClient("127.0.0.1", cluster.port) as again:
        assert again.login(login("mallory", password)).code != 0
