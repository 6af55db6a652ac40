"""Probes of files and other processes, where Landlock stands in for namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedjob.node.sandbox.enclosure import LANDLOCK
from tests.sandbox.probe import Outcome, Probe
from tests.sandbox.trying import check, outcomes, parametrized, probes_of

SEEN = {"asks_whether_a_key_exists", "sees_others"}
"""What Landlock leaves to be seen: that files and processes are there; see docs/sandbox.md."""

PROBES = [p for p in probes_of("files", "processes") if p.name not in SEEN]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    yield from outcomes(tmp_path_factory.mktemp("hospital"), PROBES, LANDLOCK)


@parametrized(PROBES)
def test_a_probe_does_no_harm_and_the_node_serves_on(probe: Probe, tried: dict[str, Outcome]) -> None:
    check(probe, tried[probe.name])
