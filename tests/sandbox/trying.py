"""The tests that hold for every probe: no harm, a named reason, a node that serves on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.reasons import REASONS
from fedjob.node.sandbox.enclosure import NAMESPACES
from fedjob.node.sandbox.support import find_support
from tests.parts import forbidden
from tests.sandbox.corpus import PROBES
from tests.sandbox.hospital import Hospital
from tests.sandbox.probe import ALONE, Outcome, Probe


def probes_of(*kinds: str) -> list[Probe]:
    """Return the probes of these chapters."""
    return [probe for probe in PROBES if probe.kind in kinds]


def outcomes(folder: Path, probes: list[Probe], kind: str = NAMESPACES) -> Iterator[dict[str, Outcome]]:
    """Try probes on one node with that kind of sandbox, and give what came of each."""
    if find_support((kind,)).kind != kind:
        forbidden("sandbox of this kind")
    hospital = Hospital(folder, kind)
    try:
        yield hospital.try_all(probes)
    finally:
        hospital.close()


def check(probe: Probe, outcome: Outcome) -> None:
    """Fail if a probe did harm, ended its task without a named reason, or left a node that does not serve."""
    __tracebackhide__ = True
    assert not outcome.harm, f"it tried to {probe.tries}: {'; '.join(outcome.harm)}; it said {outcome.said!r}"
    assert "no child for it" not in outcome.said, "it was not tried"
    assert outcome.served, f"after it tried to {probe.tries} the node computes no other task"
    assert not outcome.reason or outcome.reason in REASONS, f"{outcome.reason!r} is no named reason"
    if probe.how == ALONE and not probe.kill:
        assert outcome.reason in (probe.ends or ("",)), (
            f"its task ended with {outcome.reason!r}: {outcome.said!r}"
        )


def parametrized(probes: list[Probe]) -> pytest.MarkDecorator:
    """Return the mark that makes one test of each probe."""
    return pytest.mark.parametrize("probe", probes, ids=[f"{probe.kind}-{probe.name}" for probe in probes])
