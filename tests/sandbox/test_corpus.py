"""The corpus itself: what is tried has a name of its own, compiles as a plan, and is what the page says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from fedjob.common.reasons import REASONS
from tests.sandbox.corpus import CHAPTERS, PROBES
from tests.sandbox.hospital import ALONE_ENTRY
from tests.sandbox.plan import plan_text

PAGE = Path(__file__).parents[2] / "docs" / "sandbox.md"


def test_every_probe_has_a_name_of_its_own_and_says_what_it_tries() -> None:
    assert [name for name, count in Counter(probe.name for probe in PROBES).items() if count > 1] == []
    assert [
        probe.name for probe in PROBES if not probe.tries or not re.fullmatch("[a-z0-9_]+", probe.name)
    ] == []
    assert [
        probe.name
        for probe in PROBES
        if not {*probe.ends, *([""] if not probe.ends else [])} <= {*REASONS, ""}
    ] == []


def test_every_probe_compiles_as_a_plan() -> None:
    for probe in PROBES:
        for code in filter(None, (probe.code, probe.seek)):
            compile(plan_text([("probe-0001", code)], ALONE_ENTRY), probe.name, "exec")


def test_the_page_says_how_many_were_tried() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"holds {len(PROBES)} pieces of plan code" in text
    rows = [
        int(found) for found in re.findall(r"^\| [^|]+ \| (\d+) \| \d+ \| \d+ \| \d+ \|$", text, re.MULTILINE)
    ]
    assert rows == [len(chapter.probes) for chapter in CHAPTERS]
