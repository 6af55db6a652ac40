"""What the repository costs: one large file against copying it, memory of both sides, small objects.

    python benchmarks/repository.py [--size-mb 1024] [--repeat 3]

Client and hub are processes of their own on this machine. A copy reads the file and
writes another one in blocks of 1 MiB; the hub fsyncs, so a copy with fsync stands beside.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedjob.identity.keys import Identity
from fedjob.identity.membership import enrol
from fedjob.repository import open_repository

MB = 1 << 20


def peak_mb(pid: int | str) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copy(source: Path, target: Path, *, sync: bool) -> None:
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while block := read.read(MB):
            write.write(block)
        if sync:
            os.fsync(write.fileno())


def sha256(path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "fedjob.hub", "start", "--home", str(folder / "hub")]
        hub = subprocess.Popen(
            [*command, "--port", "0", "--mqtt-port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert hub.stdout is not None
            line = hub.stdout.readline()
            measure(line.split()[2], hub.pid, folder, options.size_mb, options.repeat)
        finally:
            hub.terminate()
            hub.wait(20)


def measure(url: str, hub_pid: int, folder: Path, size_mb: int, repeat: int) -> None:
    member = enrol(url, "alice", "researcher", Identity.generate("alice").public_keys)
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        for _ in range(size_mb):
            file.write(os.urandom(MB))
    with open_repository(url, token=member.token) as repository:
        repository.put(b"warm", job="warm")
        before, hub_before = peak_mb("self"), peak_mb(hub_pid)
        rows: dict[str, list[float]] = {"copy": [], "copy+fsync": [], "sha256": [], "put": [], "get": []}
        for number in range(repeat):
            rows["copy"].append(seconds(lambda: copy(source, target, sync=False)))
            rows["copy+fsync"].append(seconds(lambda: copy(source, target, sync=True)))
            rows["sha256"].append(seconds(lambda: sha256(source)))
            target.unlink()
            job = f"job_{number}"
            rows["put"].append(seconds(lambda job=job: repository.put(source, job=job)))  # type: ignore[misc]
            ref = repository.put(source, job=job)  # not sent again: its parts are there
            rows["get"].append(seconds(lambda ref=ref: repository.get(ref, target)))  # type: ignore[misc]
            target.unlink()
            repository.end_job(job)
        plain = statistics.median(rows["copy"])
        synced = statistics.median(rows["copy+fsync"])
        print(f"{size_mb} MB, median of {repeat}")
        for name, times in rows.items():
            median = statistics.median(times)
            print(
                f"  {name:<11} {median:7.2f} s  {size_mb / median:7.0f} MB/s"
                f"  {median / plain:5.2f} x copy  {median / synced:5.2f} x copy+fsync"
            )
        print(
            f"  memory: client {before:.0f} -> {peak_mb('self'):.0f} MB, hub {hub_before:.0f} -> {peak_mb(hub_pid):.0f} MB"
        )
        small(repository.put, repository.get_bytes)


def small(put: Callable[..., object], get: Callable[..., bytes], count: int = 200) -> None:
    print(f"{count} objects of 40 kB, one after the other")
    contents = [os.urandom(40_000) for _ in range(count)]
    refs: list[object] = []
    puts = [seconds(lambda c=c: refs.append(put(c, job="small"))) for c in contents]  # type: ignore[misc]
    gets = [seconds(lambda r=r: get(r, limit_bytes=40_000)) for r in refs]  # type: ignore[misc]
    for name, times in (("put", puts), ("get", gets)):
        print(f"  {name} median {statistics.median(times) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
