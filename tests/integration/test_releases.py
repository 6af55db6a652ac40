"""What is released: the wheel, its bill of materials, and the comparison with the hashes of the locks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from envs import audit, sbom
from envs.build import SIGNATURE, SUMS, NotReleased, build, sign, sources, verify, write_sums
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
        if path.suffix in (".py", ".typed", ".json", ".html", ".css", ".js", ".mplstyle")
        and path.parts[0] == "fedjob"
    }
    assert inside == expected


@dataclass(frozen=True)
class Release:
    """A folder with what was built and signed, and the two keys."""

    folder: Path
    private: Path
    public: Path


@pytest.fixture
def release(built: list[Path], tmp_path: Path) -> Release:
    folder = tmp_path / "dist"
    folder.mkdir()
    files = [Path(shutil.copyfile(path, folder / path.name)) for path in built]
    write_sums(folder, files)
    made = Release(folder, tmp_path / "release.key", tmp_path / "release.pub")
    key = Ed25519PrivateKey.generate()
    made.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.private.chmod(0o600)
    made.public.write_bytes(public_pem(key))
    sign(folder, made.private)
    return made


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_what_was_signed_is_verified_here_and_by_openssl_and_sha256sum(release: Release) -> None:
    names = sorted(path.name for path in release.folder.iterdir() if path.name.startswith("fedjob-"))
    assert verify(release.folder, release.public) == names
    assert len(names) == 2
    verifying = (
        f"openssl pkeyutl -verify -pubin -inkey {release.public} -rawin -in {SUMS} -sigfile {SIGNATURE}"
    )
    for words in (verifying.split(), ["sha256sum", "--check", "--strict", SUMS]):
        if shutil.which(words[0]) is not None:
            subprocess.run(words, cwd=release.folder, check=True, capture_output=True, timeout=30)
    command = [sys.executable, ROOT / "envs" / "build.py", release.folder, "--verify", release.public]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.count(": signed")) == (0, 2)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wheel", "another hash than was signed"),
        ("sums", "was not signed with the key"),
        ("signature", "was not signed with the key"),
        ("other key", "was not signed with the key"),
        ("missing", "was signed and is missing"),
        ("more", "nobody signed fedjob-9-py3-none-any.whl"),
        ("unsigned", "SHA256SUMS.sig can't be read"),
        ("no key", "expected a public key"),
    ],
)
def test_what_is_not_as_it_was_signed_is_named(release: Release, fault: str, words: str) -> None:
    wheel = next(release.folder.glob("*.whl"))
    match fault:
        case "wheel":
            wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
        case "sums":
            wheel.write_bytes(b"bad")
            before = (release.folder / SIGNATURE).read_bytes()
            write_sums(release.folder, [wheel])
            (release.folder / SIGNATURE).write_bytes(before)
        case "signature":
            (release.folder / SIGNATURE).write_bytes(bytes(64))
        case "other key":
            release.public.write_bytes(public_pem(Ed25519PrivateKey.generate()))
        case "missing":
            wheel.unlink()
        case "more":
            (release.folder / "fedjob-9-py3-none-any.whl").write_bytes(b"of somebody")
        case "unsigned":
            write_sums(release.folder, [wheel])
        case "no key":
            release.public.write_text("no key")
    with pytest.raises(NotReleased, match=words):
        verify(release.folder, release.public)
    if fault == "wheel":
        command = [sys.executable, ROOT / "envs" / "build.py", release.folder, "--verify", release.public]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_key_that_others_may_read_or_that_is_none_signs_nothing(release: Release, tmp_path: Path) -> None:
    release.private.chmod(0o644)
    with pytest.raises(NotReleased, match="chmod 600"):
        sign(release.folder, release.private)
    other = tmp_path / "other.key"
    other.write_text("no key")
    other.chmod(0o600)
    with pytest.raises(NotReleased, match="openssl genpkey -algorithm ed25519"):
        sign(release.folder, other)
    with pytest.raises(NotReleased, match="can't be read"):
        sign(release.folder, tmp_path / "none.key")


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
