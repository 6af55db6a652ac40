"""Large files and full disks, with the hub as a process of its own."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedjob.common.errors import NoSpace
from fedjob.hub.config.limits import HubLimits
from fedjob.identity.membership import enrol
from fedjob.repository import open_repository
from fedjob.repository.directory import DirectoryRepository
from fedjob.repository.memory import MemoryRepository
from tests.hubs import HubThread, keys_of
from tests.processes import Processes

pytestmark = pytest.mark.timeout(300)

MB = 1 << 20

# Put a file, get it back, say what this process itself needed for it. Not ru_maxrss: that one remembers
# the process which forked this one.
ROUND_TRIP = """
import re, sys
from pathlib import Path
from fedjob.repository import open_repository

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

url, token, source, copy = sys.argv[1:]
with open_repository(url, token=token) as repository:
    repository.put(b"warm", job="job_1")
    before = peak()
    ref = repository.put(Path(source), job="job_1")
    repository.get(ref, Path(copy))
print(peak() - before, before)
"""


@pytest.mark.feature("FB-20")
def test_200_mb_there_and_back_in_bounded_memory(processes: Processes, tmp_path: Path) -> None:
    ready = r"^hub ready: (\S+)"
    hub = processes.start(
        *[
            "python",
            "-m",
            "fedjob.hub",
            "start",
            "--home",
            tmp_path / "hub",
            "--port",
            "0",
            "--mqtt-port",
            "0",
        ],
        ready=ready,
    )
    url = hub.wait_for(ready)[1]
    member = enrol(url, "alice", "researcher", keys_of("alice"))
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        for _ in range(50):
            file.write(os.urandom(4 * MB))
    before = psutil.Process(hub.pid).memory_info().rss
    done = processes.run("python", "-c", ROUND_TRIP, url, member.token, source, copy, timeout_s=240)
    grown, whole = (int(word) * 1024 for word in done.stdout.split())
    peak = _peak_bytes(hub.pid)
    assert filecmp.cmp(source, copy, shallow=False)
    assert grown < 40 * MB, f"the client grew by {grown / MB:.0f} MB"
    assert peak - before < 80 * MB, f"the hub grew by {(peak - before) / MB:.0f} MB"
    assert max(whole + grown, peak) < 200 * MB


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")


@pytest.mark.feature("FB-20")
def test_a_full_disk_at_the_hub_is_said_and_leaves_no_partial_object(
    small_disk: Callable[[str, int], Path], tmp_path: Path
) -> None:
    disk = small_disk("disk", 8)
    limits = HubLimits(reserve_bytes=0, party_disk_share=1.0)
    with HubThread(tmp_path / "hub", storage=disk, limits=limits) as hub:
        alice = hub.repository("alice", "researcher", part_bytes=2 * MB)
        kept = alice.put(os.urandom(3 * MB), job="job_1")
        for content in (os.urandom(7 * MB), os.urandom(20 * MB)):
            with pytest.raises(NoSpace, match=r"disk is full|no space left"):
                alice.put(content, job="job_2")
        assert not list((disk / "incoming").iterdir())
        alice.end_job("job_2")
        assert alice.get_bytes(kept, limit_bytes=3 * MB)
        assert len(_files(disk)) == 3
        alice.put(os.urandom(3 * MB), job="job_3")  # there is space again


@pytest.mark.feature("FB-20")
def test_a_full_disk_at_the_reader_is_said_and_leaves_nothing(
    small_disk: Callable[[str, int], Path], tmp_path: Path
) -> None:
    disk = small_disk("disk", 4)
    repository = MemoryRepository(part_bytes=MB)
    for size in (MB // 2, 6 * MB):
        (disk / "filler").write_bytes(bytes(4 * MB - MB // 4))
        ref = repository.put(os.urandom(size), job="job_1")
        with pytest.raises(NoSpace, match="copy: free some"):
            repository.get(ref, disk / "copy")
        assert _files(disk) == ["filler"]


def test_a_full_disk_below_a_folder_is_said_and_leaves_nothing(
    small_disk: Callable[[str, int], Path],
) -> None:
    disk = small_disk("disk", 4)
    repository = DirectoryRepository(disk, part_bytes=MB)
    with pytest.raises(NoSpace):
        repository.put(os.urandom(6 * MB), job="job_1")
    repository.end_job("job_1")
    assert _files(disk) == []
    assert repository.put(os.urandom(MB), job="job_2")


@pytest.mark.feature("FB-78")
def test_urls_and_required_fields_are_checked_under_dash_o_too() -> None:
    code = """
from fedjob.common.codec import from_plain
from fedjob.identity.party_list import Party
from fedjob.common.errors import MessageError, SpecError
from fedjob.common.http_client import check_http_url

assert False, "-O takes asserts away, and this with them"
for url in ("http://127.0.0.1:8844/f", "http://localhost:8844", "https://hub.example.org"):
    check_http_url(url)
for url in ("htp:/x", "http:/x", "x", ""):
    try:
        check_http_url(url)
    except SpecError:
        continue
    raise SystemExit(f"accepted {url!r}")
try:
    from_plain(Party, {"name": "a", "role": "node"})
except MessageError as error:
    if "key_hex" not in str(error):
        raise SystemExit(f"does not name the field: {error}")
else:
    raise SystemExit("accepted a party without a key")
"""
    subprocess.run([sys.executable, "-O", "-c", code], check=True, timeout=60)


def test_a_url_opens_the_backend_that_it_names(tmp_path: Path) -> None:
    with open_repository("memory://") as memory, open_repository(tmp_path / "folder") as folder:
        assert memory.put(b"x", job="j") == folder.put(b"x", job="j")
    assert (tmp_path / "folder" / "objects").is_dir()
