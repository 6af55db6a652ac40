"""The hub's health and metrics, as a monitoring system reads them over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.monitoring import MonitoringSources, takes_connection
from tests.hubs import HubThread
from tests.pages import ROOT
from tests.processes import wait_until

TOKEN = "ab" * 32
CANARIES = ("canary-party", "canary-job")


class Broker:
    """Whether the broker answers, as a test says."""

    def __init__(self) -> None:
        self.is_up = True

    async def answers(self) -> bool:
        return self.is_up


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def hub(tmp_path: Path, broker: Broker) -> Iterator[HubThread]:
    sources = MonitoringSources(token=TOKEN, broker_answers=broker.answers, broker_restarts=lambda: 3)
    with HubThread(tmp_path / "hub", limits=HubLimits(reserve_bytes=0), monitoring=sources) as hub:
        yield hub


def health(hub: HubThread) -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"{hub.url}/healthz", timeout=10)
    return answer.status_code, answer.json()


def metrics(hub: HubThread) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = requests.get(f"{hub.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert not [canary for canary in (*CANARIES, TOKEN) if canary in answer.text]
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_health_names_broker_database_and_disk_to_anybody(hub: HubThread, broker: Broker) -> None:
    checks = {"broker": "ok", "database": "ok", "disk": "ok"}
    assert health(hub) == (200, {"status": "ok", "checks": checks})
    broker.is_up = False
    wait_until(lambda: health(hub)[0] == 503, timeout_s=30, what="a failing check of health")
    assert health(hub)[1] == {"status": "failing", "checks": {**checks, "broker": "failing"}}


def test_health_sees_a_database_that_was_removed_and_a_disk_that_is_full(tmp_path: Path) -> None:
    with HubThread(tmp_path / "full", limits=HubLimits(reserve_bytes=1 << 60)) as hub:
        (tmp_path / "full" / "hub.sqlite").rename(tmp_path / "elsewhere")
        assert health(hub) == (
            503,
            {"status": "failing", "checks": {"database": "failing", "disk": "failing"}},
        )


def test_metrics_count_what_the_hub_holds_and_does_and_name_nobody(hub: HubThread) -> None:
    repository = hub.repository("canary-party", "researcher")
    ref = repository.put(b"x" * 1000, job="canary-job", readers=["canary-party"])
    assert repository.get_bytes(ref, limit_bytes=1 << 20) == b"x" * 1000
    found = metrics(hub)
    assert found["fedjob_hub_parties", (("role", "researcher"),)] == 1
    assert found["fedjob_hub_parties", (("role", "node"),)] == 0
    assert found["fedjob_hub_objects", ()] == 1
    assert found["fedjob_hub_objects_bytes", ()] == 1000
    assert found["fedjob_hub_jobs", ()] == 1
    assert found["fedjob_hub_broker_restarts_total", ()] == 3
    assert found["fedjob_hub_healthy", (("check", "broker"),)] == 1
    assert found["fedjob_hub_disk_free_bytes", ()] > 0
    assert found["fedjob_hub_http_received_bytes_total", ()] >= 1000
    assert found["fedjob_hub_http_sent_bytes_total", ()] >= 1000
    assert found["process_resident_memory_bytes", ()] > 0
    enrolments = (
        "fedjob_hub_http_requests_total",
        (("method", "POST"), ("path", "/v1/parties"), ("status", "2xx")),
    )
    assert found[enrolments] == 1


def documented(role: str) -> set[str]:
    """Return the metrics of a role that the page on monitoring lists."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith(f"| `fedjob_{role}_")]
    return {name for row in rows for name in re.findall(rf"fedjob_{role}_\w+", row)}


def test_the_page_on_monitoring_lists_every_metric_of_a_hub(hub: HubThread) -> None:
    metrics(hub)
    shown = {name for name, _ in metrics(hub) if name.startswith("fedjob_")}
    assert documented("hub") - shown == {"fedjob_hub_certificate_expiry_timestamp_seconds"}
    assert shown <= documented("hub")


def test_whatever_strangers_ask_for_adds_no_label(hub: HubThread) -> None:
    metrics(hub)
    for number in range(30):
        requests.request(f"ODD{number}", f"{hub.url}/v1/{secrets.token_hex(4)}", timeout=10)
        requests.get(f"{hub.url}/v1/objects/{secrets.token_hex(32)}", timeout=10)
    names = [name for name in metrics(hub) if name[0] == "fedjob_hub_http_requests_total"]
    assert len(names) <= 5
    paths = {dict(labels)["path"] for _, labels in names}
    assert paths <= {"other", "/metrics", "/v1/objects"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}c"},
        {"Authorization": f"Basic {TOKEN}"},
    ],
)
def test_metrics_are_for_whoever_has_the_metrics_token(hub: HubThread, headers: dict[str, str]) -> None:
    answer = requests.get(f"{hub.url}/metrics", headers=headers, timeout=10)
    assert answer.status_code == 401
    assert "metrics_token" in answer.text


def test_a_party_s_own_token_reads_no_metrics(hub: HubThread) -> None:
    token = hub.join("node1").token
    answer = requests.get(f"{hub.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 401


def test_a_hub_without_a_metrics_token_shows_metrics_to_nobody(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub") as hub:
        for word in ("", "Bearer", "Bearer "):
            answer = requests.get(f"{hub.url}/metrics", headers={"Authorization": word}, timeout=10)
            assert answer.status_code == 401


def test_a_broker_that_hangs_or_refuses_does_not_answer() -> None:
    async def hangs() -> Any:
        await asyncio.Event().wait()

    async def refuses() -> Any:
        raise ConnectionRefusedError

    async def look(connect: Callable[[], Any]) -> bool:
        return await takes_connection(connect)

    assert asyncio.run(look(refuses)) is False
    assert asyncio.run(look(hangs)) is False


def test_json_of_health_is_one_line(hub: HubThread) -> None:
    text = requests.get(f"{hub.url}/healthz", timeout=10).text
    assert text.count("\n") == 1
    assert json.loads(text)["status"] == "ok"
