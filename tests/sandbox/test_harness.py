"""The harness sees harm where there is no sandbox: what it calls harmless was not just overlooked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fedjob.node.sandbox.enclosure import NONE
from tests.sandbox.hospital import Hospital
from tests.sandbox.trying import probes_of

KINDS = ("processes", "persistence")


@pytest.mark.timeout(300)
def test_without_a_sandbox_most_probes_do_harm_and_are_seen(tmp_path: Path) -> None:
    probes = probes_of(*KINDS)
    hospital = Hospital(tmp_path, NONE)
    try:
        found = hospital.try_all(probes)
    finally:
        hospital.close()
    harmed = Counter(probe.kind for probe in probes if found[probe.name].harm)
    # what a user may do to other processes and in folders of the machine depends on who runs the tests
    assert harmed["processes"] > 0.6 * len(probes_of("processes"))
    assert harmed["persistence"] > 0.4 * len(probes_of("persistence"))
