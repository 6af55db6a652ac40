"""Probes of resources, survival and persistence, on one node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sandbox.probe import Outcome, Probe
from tests.sandbox.trying import check, outcomes, parametrized, probes_of

PROBES = probes_of("resources", "survival", "persistence")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    yield from outcomes(tmp_path_factory.mktemp("hospital"), PROBES)


@parametrized(PROBES)
def test_a_probe_does_no_harm_and_the_node_serves_on(probe: Probe, tried: dict[str, Outcome]) -> None:
    check(probe, tried[probe.name])
