"""What is released: the wheel, its bill of materials, and the comparison with the hashes of the locks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from envs import audit, sbom
from envs.build import build, sources
from envs.lock import LOCKS, Locked, read_lock

ROOT = Path(__file__).parents[2]
DAY = 1_700_000_000


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"), DAY)


def test_a_wheel_and_a_source_archive_built_twice_are_the_same_bytes(
    built: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "somewhere" / "else"
    for path in sources(ROOT):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, other / path)
        os.utime(other / path, (1, 1))
        (other / path).chmod(0o700)
    (other / "fedjob" / "__pycache__").mkdir()
    (other / "fedjob" / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"left by a run")
    before = os.umask(0o077)
    try:
        again = build(other, tmp_path / "dist", DAY)
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in built]
    assert [sha256(path) for path in again] == [sha256(path) for path in built]


def test_a_wheel_has_all_of_the_package_and_nothing_else(built: list[Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert {member.date_time for member in wheel.infolist()} == {(2023, 11, 14, 22, 13, 20)}
    expected = {
        path.as_posix()
        for path in sources(ROOT)
        if path.suffix in (".py", ".typed", ".json") and path.parts[0] == "fedjob"
    }
    assert inside == expected


def test_a_file_with_another_hash_than_the_locked_one_is_not_installed(
    built: list[Path], tmp_path: Path
) -> None:
    offered, lock = tmp_path / "offered", tmp_path / "lock.txt"
    offered.mkdir()
    lock.write_text(f"{Locked('fedjob', '0.1.0', '', (sha256(built[0]),))}\n")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--no-index"]
    words += ["--find-links", str(offered), "--requirement", str(lock), "--target"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}

    def installs(place: str) -> subprocess.CompletedProcess[str]:
        command = [*words, str(tmp_path / place)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    shutil.copy(built[0], offered)
    with zipfile.ZipFile(offered / built[0].name, "a") as wheel:
        wheel.writestr("fedjob/not_ours.py", "print('here')\n")
    refused = installs("refused")
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "refused" / "fedjob").exists()
    shutil.copy(built[0], offered)
    assert installs("taken").returncode == 0
    assert (tmp_path / "taken" / "fedjob" / "cli.py").exists()


@pytest.fixture(scope="module")
def bill() -> dict[str, dict[str, object]]:
    """The components of the bill of materials by name, written as its schema allows."""
    names = (*sbom.ROLES, sbom.EVERYTHING)
    locks = {name: read_lock((LOCKS / f"{name}.txt").read_text(encoding="utf-8")) for name in names}
    text = sbom.written(sbom.bill(locks, DAY))
    assert text == sbom.written(sbom.bill(locks, DAY))
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    product = found["metadata"]["component"]
    return {part["name"]: {**part, "needs": _needs(found, part)} for part in [*found["components"], product]}


def _needs(found: dict[str, object], part: dict[str, object]) -> list[str]:
    edges = found["dependencies"]
    assert isinstance(edges, list)
    return next(edge.get("dependsOn", []) for edge in edges if edge["ref"] == part["bom-ref"])


def test_the_bill_of_materials_has_every_package_with_hashes_and_licence(
    bill: dict[str, dict[str, object]],
) -> None:
    locked = {
        each.name for each in read_lock((LOCKS / "demo.txt").read_text(encoding="utf-8")) if not each.marker
    }
    assert locked <= bill.keys()
    assert [name for name, part in bill.items() if not part.get("licenses")] == []
    assert [name for name, part in bill.items() if not part.get("hashes") and name != "fedjob"] == []
    assert bill["starlette"]["properties"] == [{"name": "fedjob:extra", "value": "hub"}]
    assert "starlette==" in " ".join(map(str, bill["fedjob"]["needs"]))  # type: ignore[call-overload]
    assert any(str(need).startswith("urllib3==") for need in bill["requests"]["needs"])  # type: ignore[attr-defined]


def test_a_bill_of_materials_of_other_versions_than_the_locked_ones_is_refused() -> None:
    locks = {name: [Locked("click", "0.1", "", ("0" * 64,))] for name in (*sbom.ROLES, sbom.EVERYTHING)}
    with pytest.raises(ValueError, match=r"click .* is installed, 0\.1 is locked"):
        sbom.bill(locks, DAY)


def test_a_known_weakness_is_named_with_the_version_that_mends_it() -> None:
    found = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2", "3"]}]},
            {"name": "b", "version": "1", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
            {"name": "c", "version": "1", "vulns": []},
            {"name": "d", "skip_reason": "not known"},
        ]
    }
    assert audit.verdict(found) == (
        ["a 1: PYSEC-1, mended in 2, 3", "b 1: PYSEC-2, mended in none yet"],
        ["d"],
    )
    assert audit.accepted("# why\nPYSEC-9 only on Windows\n\n") == ["PYSEC-9"]
