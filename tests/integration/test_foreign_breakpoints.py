"""Breakpoints that this home did not write run and load nothing before the researcher has seen whose they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Job
from fedjob.common.codec import pack, unpack
from fedjob.common.errors import BreakpointCorrupt, BreakpointError, BreakpointForeign, SpecError
from fedjob.identity.keys import SealKey
from fedjob.parameters.files import save_params
from tests.data import TRAINING, make_points
from tests.homes import open_to_others
from tests.plans import Tiny

SEAL_BYTES = 32 + 32 + 64
"""Digest, key and signature at the end of a manifest."""


def make_job(home: Path, data: Path) -> Job:
    about: dict[str, Any] = {"data": {"a": str(data)}, "nodes": "local", "training_args": TRAINING, "seed": 3}
    return Job(FedAvg(), training_plan=Tiny, rounds=2, name="heart", home=home, **about)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("trained")
    before = os.umask(0o022)
    try:
        job = make_job(folder / "home", make_points(folder / "points.npz", 40, 1))
        job.run(progress=False)
    finally:
        os.umask(before)
    return job


@pytest.fixture
def sent(trained: Job, tmp_path: Path) -> Path:
    """A copy of a breakpoint, as it arrives by mail."""
    return Path(shutil.copytree(trained.breakpoints[0], tmp_path / "sent"))


def rewritten(folder: Path, *, key: SealKey | None, body: Callable[[bytes], bytes] = lambda raw: raw) -> None:
    """Have the manifest fit the files again, as anybody can, and sign it with a key or with none."""
    manifest = unpack((folder / "manifest.mpk").read_bytes()[:-SEAL_BYTES])
    for name in manifest["files"]:
        raw = (folder / name).read_bytes()
        manifest["files"][name] = [len(raw), hashlib.sha256(raw).hexdigest()]
    packed = body(pack(manifest))
    seal = (
        b"" if key is None else bytes.fromhex(key.public_key_hex) + key.sign(b"fedjob breakpoint\0" + packed)
    )
    (folder / "manifest.mpk").write_bytes(packed + hashlib.sha256(packed).digest() + seal)


def planted(folder: Path, mark: Path) -> None:
    """Put a plan into a breakpoint that leaves a mark as soon as anything of it is run."""
    plan = (folder / "plan.py").read_text(encoding="utf-8")
    (folder / "plan.py").write_text(f"open({str(mark)!r}, 'w').close()\n{plan}", encoding="utf-8")
    spec = unpack((folder / "spec.mpk").read_bytes())
    spec["plan_hash"] = hashlib.sha256((folder / "plan.py").read_bytes()).hexdigest()
    (folder / "spec.mpk").write_bytes(pack(spec))


def test_a_home_goes_on_from_its_own_wherever_they_were_moved(trained: Job, sent: Path) -> None:
    home = trained.folder.parents[1]
    assert Job.resume(sent, home=home).position.round == 1
    assert Job.resume(trained.breakpoints[0]).position.round == 1  # this process made it
    moved = home.with_name("restored")
    shutil.copytree(home, moved)  # as from a backup
    assert Job.resume(sent, home=moved).position.round == 1


def test_another_homes_is_shown_and_refused_until_its_key_is_named(
    trained: Job, sent: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with pytest.raises(BreakpointForeign) as refused:
        Job.resume(sent, home=other)
    text = str(refused.value)
    key = SealKey.public_of(trained.folder.parents[1])
    plan_sha256 = hashlib.sha256((sent / "plan.py").read_bytes()).hexdigest()
    for part in ("another home", key, "heart", "Tiny", plan_sha256, str(sent / "plan.py"), f"trust={key!r}"):
        assert part in text, part
    assert not other.exists() or not any(other.rglob("*.safetensors")), "nothing was taken over"
    with pytest.raises(BreakpointForeign, match="of another one"):
        Job.resume(sent, home=other, trust="0" * 64)
    with pytest.raises(SpecError, match="trust"):
        Job.resume(sent, home=other, trust=1)  # type: ignore[arg-type]
    resumed = Job.resume(sent, home=other, trust=refused.value.trust)
    assert resumed.run(progress=False).params
    assert Job.resume(resumed.breakpoints[-1], home=other).position.round == 2, "its own from then on"


@pytest.mark.parametrize("signer", ["nobody", "a stranger"])
def test_a_forged_plan_with_a_manifest_that_fits_does_not_run(
    trained: Job, sent: Path, tmp_path: Path, signer: str
) -> None:
    """Attack M7: only the hashes were looked at, and anybody can compute those."""
    mark = tmp_path / "ran"
    planted(sent, mark)
    rewritten(sent, key=None if signer == "nobody" else SealKey(tmp_path / "stranger"))
    for home in (trained.folder.parents[1], tmp_path / "fresh"):
        with pytest.raises(BreakpointForeign):
            Job.resume(sent, home=home)
    assert not mark.exists()


@pytest.mark.parametrize("signer", ["nobody", "a stranger"])
def test_forged_weights_in_the_jobs_own_folder_are_not_loaded(
    trained: Job, tmp_path: Path, signer: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained.folder.parents[1], home)
    newest = sorted((home / "jobs" / trained.id / "breakpoints").iterdir())[-1]
    (newest / "params.safetensors").unlink()
    save_params({"w": torch.zeros(1)}, newest / "params.safetensors")
    rewritten(newest, key=None if signer == "nobody" else SealKey(tmp_path / "stranger"))
    for path in (newest, newest.parents[1]):
        with pytest.raises(BreakpointForeign):
            Job.resume(path, home=home)
    with pytest.raises(BreakpointForeign):
        Job.open(newest.parents[1]).restart(newest.name, rounds=3)


def test_a_signature_over_another_manifest_is_no_signature(trained: Job, sent: Path) -> None:
    own = (sent / "manifest.mpk").read_bytes()[-SEAL_BYTES + 32 :]
    (sent / "plan.py").write_text("raise SystemExit\n", encoding="utf-8")
    rewritten(sent, key=None)
    raw = (sent / "manifest.mpk").read_bytes()
    (sent / "manifest.mpk").write_bytes(raw + own)
    with pytest.raises(BreakpointCorrupt, match="not signed by the key"):
        Job.resume(sent, home=trained.folder.parents[1])


def test_a_whole_folder_of_a_job_that_was_sent_is_foreign(trained: Job, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "theirs" / "jobs" / trained.id))
    mark = tmp_path / "ran"
    for own in ((), ("breakpoints",)):
        for name in own:
            shutil.rmtree(folder / name)
            (folder / name).mkdir()
            planted(folder, mark)
        with pytest.raises(BreakpointForeign) as refused:
            Job.resume(folder, home=tmp_path / "mine")
        assert refused.value.trust
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b"])
def test_a_manifest_that_names_files_elsewhere_is_refused(trained: Job, sent: Path, name: str) -> None:
    def renamed(raw: bytes) -> bytes:
        manifest = unpack(raw)
        manifest["files"][name] = manifest["files"].pop("record.mpk")
        return pack(manifest)

    rewritten(sent, key=SealKey(trained.folder.parents[1]), body=renamed)
    with pytest.raises(BreakpointError, match="no file in it"):
        Job.resume(sent, home=trained.folder.parents[1])


def test_a_state_of_another_home_is_not_loaded_by_hand(trained: Job, tmp_path: Path) -> None:
    job = make_job(tmp_path / "one", make_points(tmp_path / "points.npz", 40, 1))
    job.start_nodes_training_round(1)
    job.update_parameters()
    saved = Path(job.save_state_breakpoint(tmp_path / "shared")["path"])
    job.load_state_breakpoint(saved)
    rewritten(saved, key=SealKey(tmp_path / "stranger"))
    with pytest.raises(BreakpointForeign) as refused:
        job.load_state_breakpoint(saved)
    job.load_state_breakpoint(saved, trust=refused.value.trust)
    job.close("killed")


def test_nothing_in_a_researchers_home_is_open_to_others_after_work(trained: Job) -> None:
    """The umask of a user's own process stays what it is, 022 in the fixture; the files are private all the same."""
    assert open_to_others(trained.folder.parents[1]) == []


def test_what_is_saved_elsewhere_follows_the_users_umask(trained: Job, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        result = trained.result
        paths = [result.save(tmp_path / "model.safetensors"), tmp_path / "history.csv"]
        result.history.to_csv(paths[-1])
        again = Job.resume(trained.breakpoints[0], home=trained.folder.parents[1])
        paths.append(Path(again.save_state_breakpoint(tmp_path / "shared")["path"]) / "params.safetensors")
        again.close("killed")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths} == {
        "model.safetensors": 0o640,
        "history.csv": 0o640,
        "params.safetensors": 0o640,
    }
    assert open_to_others(trained.folder.parents[1]) == []
