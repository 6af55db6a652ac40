"""What every test may use: free ports, a real Mosquitto, real processes, homes of its own."""

from __future__ import annotations

import atexit
import gc
import getpass
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import preloaded
from tests.distribution import Distribution, num_workers, rank
from tests.features import claims, rows
from tests.given_back import differences, process_state
from tests.parts import missing, program
from tests.processes import Processes, end_processes_of, give_children_default_signals, wait_until

# tests run beside each other on few cores, where torch's threads wait for one another longer than they compute
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

give_children_default_signals()

atexit.register(gc.freeze)  # what the tests have imported goes with the process: freeing it takes a second

# a machine that stalls for a moment is no fault of what is tested
settings.register_profile("fedjob", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedjob")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Say how many workers `-n auto` means; `-n logical` stays one for each core."""
    return num_workers() if config.option.numprocesses == "auto" else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution | None:
    """Distribute the tests as `tests.distribution` says, if nothing else is asked for."""
    return Distribution(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start the server of preloaded processes, one for all workers, while these look for the tests."""
    preloaded.server()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the server of preloaded processes, and what it has forked."""
    preloaded.close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is imported, neither meanwhile nor later: that takes as long as a third of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse claims of rows that do not exist; begin with what takes long."""
    items.sort(key=rank)
    known = rows()
    unknown = sorted(f"{test} claims {row}" for row, test in claims(items) if row not in known)
    if unknown:
        raise pytest.UsageError("not in tests/features.txt: " + "; ".join(unknown))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a test that failed, the end of what its processes said."""
    report = yield
    if report.failed:
        for value in list(getattr(item, "funcargs", {}).values()):
            if isinstance(value, Processes):
                for running in value.started:
                    report.sections.append((f"log of {running.name}", running.log()[-4000:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the settings and the homes of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith("FEDJOB_")]:
        del os.environ[name]
    os.environ["FEDJOB_HOME"] = str(tmp_path_factory.mktemp("default-home"))


def _warns_of_garbage(node: pytest.Item | pytest.Collector) -> bool:
    """Whether a test or a file has a filter of its own for what is said when garbage is collected."""
    filters = [mark for mark in node.own_markers if mark.name == "filterwarnings"]
    return any("Unraisable" in str(mark.args) for mark in filters)


@pytest.fixture(scope="module", autouse=True)
def _own_garbage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect the garbage of a file that warns of it while the file's own filters hold: a test of another would fail."""
    yield
    if _warns_of_garbage(request.node):
        gc.collect()


@pytest.fixture(autouse=True)
def _process_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves the process otherwise than it found it; the next one, in any order, begins there."""
    before = process_state()
    yield
    if _warns_of_garbage(request.node):
        gc.collect()
    if left := differences(before, process_state()):
        pytest.fail("the test has to give back what it changed: " + "; ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test leaves running in its folder before the next one begins."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is not None and "unit" not in request.node.path.parts:
        end_processes_of(folder)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that names a free TCP port of 127.0.0.1, another one at each call.

    None that the system gives to outgoing connections, so that none takes it before the test does.
    """
    given: set[int] = set()

    def pick() -> int:
        while True:
            port = 10_000 + secrets.randbelow(20_000)  # `random` is seeded alike in all workers
            if port not in given:
                given.add(port)
                with suppress(OSError), socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
                    return port

    return pick


@pytest.fixture
def home(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that gives each name a home folder of its own, not yet made."""
    return lambda name: tmp_path / "homes" / name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that makes a file system of some MB, and of so many files at most."""
    if os.geteuid() != 0:
        missing("the right to mount a small disk, which root has,")
    mounted: list[Path] = []

    def mount(name: str, size_mb: int, num_files: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={size_mb}m,nr_inodes={num_files},mode=700",
                "tmpfs",
                folder,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            missing(f"the right to mount a small disk ({done.stderr.strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Start console commands; they are ended after the test, their logs shown if it failed."""
    with Processes(tmp_path / "logs") as started:
        yield started


@dataclass(frozen=True)
class Mosquitto:
    """A Mosquitto of this test's own, open to everybody on 127.0.0.1."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"


@pytest.fixture
def mosquitto(processes: Processes, free_port: Callable[[], int], tmp_path: Path) -> Mosquitto:
    """Start a real Mosquitto on a free port."""
    broker = Mosquitto("127.0.0.1", free_port())
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(
        f"listener {broker.port} {broker.host}\n"
        "allow_anonymous true\n"
        "set_tcp_nodelay true\n"
        "persistence false\n"
        "max_queued_messages 100000\n"
        f"user {getpass.getuser()}\n"  # started by root it would change to a user who can't read this folder
    )
    processes.start(
        program("mosquitto"), "-c", settings, ready="mosquitto version .* running", name="mosquitto"
    )
    wait_until(lambda: _answers(broker.port), timeout_s=10, what=f"Mosquitto on port {broker.port}")
    return broker


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
