"""Metrics in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from fedjob.common.telemetry.health import Health
from fedjob.common.telemetry.metrics import by_label, counter, exposition, gauge


def test_metrics_are_what_prometheus_reads() -> None:
    families = [
        gauge("fedjob_node_twin", "Whether there are two.", True),
        counter("fedjob_node_audit_records_total", "Records.", 41),
        by_label("counter", "fedjob_node_tasks_total", "Tasks.", "state", {"failed": 2, "completed": 7}),
        by_label("counter", "fedjob_node_none_total", "Nothing yet.", "cause", {}),
    ]
    content, type_ = exposition(families)
    assert type_.startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(content.decode())}
    assert found["fedjob_node_twin"].samples[0].value == 1
    assert found["fedjob_node_audit_records"].type == "counter"
    assert {s.labels["state"]: s.value for s in found["fedjob_node_tasks"].samples} == {
        "failed": 2,
        "completed": 7,
    }
    assert found["fedjob_node_none"].samples == []
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20


def test_health_is_ok_only_if_every_check_is() -> None:
    assert Health({"disk": True, "broker": True}).status == 200
    failing = Health({"disk": True, "broker": False})
    assert failing.status == 503
    assert failing.to_json() == b'{"status": "failing", "checks": {"broker": "failing", "disk": "ok"}}\n'
    assert failing.metric("fedjob_hub_healthy").samples == {
        (("check", "disk"),): 1.0,
        (("check", "broker"),): 0.0,
    }
