"""The health and metrics of a node, read over loopback beside a daemon at work."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from fedjob.common.errors import ConfigError
from fedjob.node.config.config import NodeConfig
from fedjob.node.monitoring.measurements import STANDSTILL_S, Measurements
from fedjob.node.monitoring.pages import NodePages
from fedjob.node.startup import served
from tests.integration.nodes import ADD_ONE, Federation, Node
from tests.integration.repository.test_hub_monitoring import documented
from tests.processes import wait_until

CHECKS = ("broker", "database", "disk", "loop", "settings")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node("node1").start()


@pytest.fixture
def pages(node: Node) -> Iterator[NodePages]:
    assert node.daemon is not None
    with NodePages(Measurements(node.home, node.daemon.pulse), 0) as pages:
        yield pages


def get(pages: NodePages, path: str, **more: Any) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{pages.port}{path}", timeout=10, **more)


def metrics(pages: NodePages) -> dict[tuple[str, str], float]:
    answer = get(pages, "/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_node_at_work_is_healthy_and_counts_its_work_without_a_name_of_it(
    federation: Federation, node: Node, pages: NodePages
) -> None:
    wait_until(lambda: get(pages, "/healthz").status_code == 200, timeout_s=30, what="a healthy node")
    assert get(pages, "/healthz").json() == {"status": "ok", "checks": dict.fromkeys(CHECKS, "ok")}
    ann = federation.ann
    result = ann.result("node1", ann.task(ADD_ONE, "AddOne"))
    assert result.ok
    wait_until(
        lambda: metrics(pages)["fedjob_node_tasks_total", "completed"] == 1,
        timeout_s=30,
        what="a counted task",
    )
    found = metrics(pages)
    assert result.audit is not None
    assert found["fedjob_node_audit_records_total", ""] >= result.audit.seq
    assert found["fedjob_node_datasets", ""] == 1
    assert found["fedjob_node_connected", ""] == 1
    assert found["fedjob_node_workers", ""] == 1
    assert found["fedjob_node_last_task_timestamp_seconds", ""] > 1e9
    without_samples = {"fedjob_node_messages_dropped_total"}
    assert (
        documented("node") - without_samples
        <= {name for name, _ in found}
        <= documented("node") | {name for name, _ in found if not name.startswith("fedjob_")}
    )
    text = get(pages, "/metrics").text
    assert not [
        name for name in ("toy", "ann", "node1", ann.job, result.key, str(node.home.root)) if name in text
    ]


def test_a_database_that_was_removed_is_seen(node: Node, pages: NodePages) -> None:
    assert node.daemon is not None
    wait_until(lambda: get(pages, "/healthz").status_code == 200, timeout_s=30, what="a healthy node")
    node.home.database.rename(node.home.root / "elsewhere.sqlite")
    answer = get(pages, "/healthz")
    assert (answer.status_code, answer.json()["checks"]["database"]) == (503, "failing")
    assert get(pages, "/metrics").status_code == 200
    (node.home.root / "elsewhere.sqlite").rename(node.home.database)
    assert get(pages, "/healthz").status_code == 200


def test_a_standing_loop_is_a_failing_check(node: Node) -> None:
    assert node.daemon is not None
    pulse = node.daemon.pulse
    node.stop()
    pulse.beaten_at -= STANDSTILL_S
    assert Measurements(node.home, pulse).health().checks["loop"] is False


@pytest.mark.parametrize(
    "headers",
    [{"Host": "clinic.example:9464"}, {"Host": "10.0.0.7"}, {"Origin": "http://evil.example"}, {"Host": ""}],
)
def test_a_page_in_a_browser_and_other_names_of_the_machine_are_refused(
    pages: NodePages, headers: dict[str, str]
) -> None:
    for path in ("/metrics", "/healthz"):
        assert get(pages, path, headers=headers).status_code == 403


def test_other_paths_and_methods_are_refused(pages: NodePages) -> None:
    assert get(pages, "/").status_code == 404
    assert get(pages, "/metrics?name=x").status_code == 404
    assert requests.post(f"http://127.0.0.1:{pages.port}/metrics", timeout=10).status_code == 501
    head = requests.head(f"http://127.0.0.1:{pages.port}/metrics", timeout=10)
    assert (head.status_code, head.content) == (200, b"")


def test_silent_connections_keep_nobody_from_the_pages_for_long(pages: NodePages) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", pages.port))))

        def answers() -> bool:
            try:
                return get(pages, "/healthz").status_code in (200, 503)
            except requests.ConnectionError:
                return False

        wait_until(answers, timeout_s=30, what="an answer beside silent connections")


def test_a_port_that_is_in_use_is_named_and_ends_no_node(node: Node, pages: NodePages) -> None:
    assert node.daemon is not None
    with pytest.raises(ConfigError, match="metrics_port"):
        NodePages(Measurements(node.home, node.daemon.pulse), pages.port)
    with served(node.home, NodeConfig(metrics_port=pages.port), node.daemon.pulse) as unserved:
        assert f"port {pages.port}" in unserved
    with served(node.home, NodeConfig(), node.daemon.pulse) as unserved:
        assert unserved == ""
