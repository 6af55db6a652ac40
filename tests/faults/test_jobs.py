"""Jobs of 20 rounds through an inspecting proxy and through faults of every level: none of them notices.

`make links` runs the whole matrix, one kind of fault at a time and on lines of every kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob import connect
from fedjob.common.errors import FedjobError
from tests import preloaded
from tests.faults.authority import NAME, Authority
from tests.faults.federation import FederationBehindLines, Ways, assert_undisturbed
from tests.faults.line import LineProperties
from tests.faults.script import HTTP_FAULTS, MQTT_FAULTS, Fault
from tests.parts import program

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

RARE = ("garble", "disconnect")


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationBehindLines]:
    """Return two hospitals and a researcher, all behind proxies that look inside TLS, and a hub with one port."""
    program("mosquitto")
    folder = tmp_path_factory.mktemp("inspected")
    with (
        preloaded.interpreter(preloaded.server().python),
        FederationBehindLines(folder, broker="ws", tls=True, inspection=Authority(folder)) as made,
    ):
        yield made


def test_a_job_goes_through_proxies_that_look_inside_tls(inspected: FederationBehindLines) -> None:
    assert_undisturbed(inspected, inspected.run_job())
    for proxy in inspected.proxies.values():
        assert any(line.startswith("GET /mqtt ") for line in proxy.inspected)
        assert any("/v1/objects/" in line for line in proxy.inspected)


def test_a_proxy_that_looks_inside_tls_is_named_with_its_authority_where_that_is_not_known(
    inspected: FederationBehindLines, tmp_path: Path
) -> None:
    way = inspected.way_of("lab")
    for known in (None, inspected.authority_of_hub):  # the latter, as it is right without the proxy
        began = time.monotonic()
        with pytest.raises(FedjobError) as caught:
            connect(
                hub=inspected.url, home=tmp_path / f"lab-{known is None}", id="eve", proxy=way, tls_ca=known
            )
        text = str(caught.value)
        assert f"issued by 'CN={NAME}'" in text
        assert f"the proxy {way}" in text
        assert "looks inside TLS" in text
        assert "ask your IT for it" in text
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("level", ["HTTP", "MQTT"])
def test_a_job_of_20_rounds_notices_no_fault_of_a_level(level: str, inspected: FederationBehindLines) -> None:
    kinds = HTTP_FAULTS if level == "HTTP" else MQTT_FAULTS
    faults = tuple(
        Fault(kind=kind, rate=0.005 if kind in RARE else 0.02, num=503 * (kind == "status"), seconds=0.5)
        for kind in kinds
    )
    outcome = inspected.run_job(Ways(faults=faults))
    assert_undisturbed(inspected, outcome)
    assert sum(outcome.faults.values()) >= 10
    assert len(outcome.faults) >= 4


def test_a_job_notices_neither_cut_connections_nor_outages(inspected: FederationBehindLines) -> None:
    faults = tuple(Fault(kind=kind, rate=0.9, num=30_000, most=2) for kind in ("cut", "reset", "flip_bytes"))
    line = LineProperties(delay_s=0.01, jitter_s=0.01, outage_s=1.0, every_s=3.0, until_outage_s=1.0)
    outcome = inspected.run_job(Ways(line=line, faults=faults))
    assert_undisturbed(inspected, outcome)
    assert sum(outcome.faults.values()) >= 2
    assert sum(way.num_delayed_by_outages for way in inspected.lines.values()) >= 1
