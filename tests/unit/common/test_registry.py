"""Components by name: a read-only map that installed plug-ins add to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fedjob
from fedjob import FedAvg
from fedjob.common.errors import SpecError
from fedjob.protocols import PROTOCOLS

MODULE = """\
from dataclasses import dataclass
from typing import ClassVar

from fedjob import FedAvg


@dataclass(frozen=True, slots=True)
class Ours(FedAvg):
    name: ClassVar[str] = "ours"
"""


def install(folder: Path, entry_points: str) -> None:
    """Lay out a package as an installer does."""
    (folder / "ours_package.py").write_text(MODULE)
    about = folder / "ours_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entry_points)


@pytest.mark.feature("BF-02")
def test_what_there_is_to_run_is_a_map_that_nobody_can_write_to() -> None:
    plans: Any = fedjob.plans
    assert plans["fedavg"] is FedAvg
    assert "fedavg" in plans
    assert "no such" not in plans
    assert list(plans) == sorted(plans)
    assert len(plans) == len(list(plans))
    with pytest.raises(TypeError, match="item assignment"):
        plans["fedavg"] = FedAvg
    with pytest.raises(TypeError, match="item deletion"):
        del plans["fedavg"]
    with pytest.raises(KeyError):
        plans["fedavgg"]
    with pytest.raises(SpecError, match=re.escape("did you mean 'fedavg'?")):
        plans.find("fedavgg")


def test_what_is_no_component_is_answered_by_the_classes_that_there_are() -> None:
    with pytest.raises(SpecError, match=r"a protocol is an instance of .*FedAvg.*; found 0\.1$"):
        PROTOCOLS.config_of(0.1)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"found the class FedAvg: write FedAvg\(...\)$"):
        PROTOCOLS.config_of(FedAvg)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"there is no protocol 'zzzz'\. Known: "):
        PROTOCOLS.find("zzzz")


@pytest.mark.feature("BF-02")
def test_an_installed_plug_in_is_listed_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[fedjob.plans]\nours = ours_package:Ours\n")
    assert "ours" not in fedjob.plans
    monkeypatch.syspath_prepend(tmp_path)
    assert "ours" in list(fedjob.plans)
    assert fedjob.plans["ours"].name == "ours"
    assert "ours" in repr(fedjob.plans)
