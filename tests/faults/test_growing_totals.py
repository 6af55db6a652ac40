"""A total that is sent while it is added, through everything that may happen meanwhile.

Whatever it is, it ends in the bytes of an undisturbed run or in an error with a name; at the hub nothing stays that no job
has, on neither side a file that nobody finishes, and no thread.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedjob.common.errors import JobStopped, NoSpace, NotPermitted, RepositoryUnreachable, SpecError
from fedjob.hub.config.limits import HubLimits
from fedjob.parameters.files import FileParams
from tests.faults.growing_totals import NUM_STRETCHES, PART_BYTES, Researcher, Totals
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.script import Fault, Script
from tests.faults.serving import LoopThread
from tests.hubs import HubThread
from tests.processes import Processes, wait_until

pytestmark = pytest.mark.timeout(240)

IDLE_S = 3.0
LIMITS = HubLimits(reserve_bytes=0, party_disk_share=1.0, idle_s=IDLE_S)
HUB_READY = r"^hub ready: (\S+)"
CUT_AT = 7
"""The stretch before which something happens: of four parts the first is at the hub, and the third has begun."""

both = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])


class Place:
    """A hub, and a researcher whose objects go there over a line."""

    def __init__(self, hub: HubThread, line: FaultyLine, folder: Path) -> None:
        self.hub, self.line, self.folder = hub, line, folder

    def researcher(self, *, encrypted: bool = False) -> Researcher:
        return Researcher(self.folder / "lab", self.hub.url, way=self.line.url, encrypted=encrypted)

    def strike(self, *faults: Fault, **properties: float) -> Script:
        script = Script(faults, seed=3)
        self.line.become(LineProperties(**properties), script)
        return script

    def used_bytes(self) -> int:
        """Return what the researcher's share of the hub is charged with."""
        found = self.hub.ledger.read("SELECT size_bytes FROM usage WHERE party = 'lab'")
        return int(found[0][0]) if found else 0

    def has_nothing(self) -> None:
        """Check that nothing of an upload has stayed, neither at the hub nor as a thread of the researcher's."""
        no_threads()
        wait_until(lambda: not self.stored(), timeout_s=6 * IDLE_S, what="the hub to have nothing left")
        assert self.used_bytes() == 0
        assert self.hub.ledger.read("SELECT count(*) FROM leases")[0][0] == 0

    def stored(self) -> list[Path]:
        """Return the files of objects and of uploads at the hub."""
        return [path for path in (self.hub.folder / "storage").rglob("*") if path.is_file()]


def no_threads() -> None:
    """Wait for the threads that send to end."""

    def sending() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return [name for name in names if name.startswith(("fedjob-publish", "fedjob-parts"))]

    wait_until(lambda: not sending(), timeout_s=60, what="the threads of an upload to end")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with LoopThread() as loop, HubThread(tmp_path / "hub", limits=LIMITS) as hub:
        yield Place(hub, FaultyLine(loop, int(hub.url.rpartition(":")[2])), tmp_path)


def at(number: int, act: Callable[[], object]) -> Callable[[int], None]:
    """Return what acts at one stretch."""

    def act_then(now: int) -> None:
        if now == number:
            act()

    return act_then


def until_first_part(place: Place) -> None:
    """Wait until the hub has a part."""
    wait_until(lambda: place.used_bytes() > 0, timeout_s=30, what="the first part to be stored")


def check_whole(job: Totals, params: FileParams, path: Path) -> None:
    """Check that a total is that of an undisturbed run, here and at the hub, and goes without a trace."""
    expected = job.undisturbed(path.with_name("undisturbed"))
    assert params.path.read_bytes() == expected
    assert params.ref is not None
    repository = job.federation._connection.repository
    assert repository.get_bytes(params.ref, limit_bytes=len(expected)) == expected
    assert params.ref == repository.put(params.path, job=job.spec.id)
    job.federation.forget([params.ref])


@both
@pytest.mark.parametrize("kind", ["cut", "reset", "half_close", "blackhole", "flip_bytes"])
def test_a_total_goes_through_a_line_with_faults(
    place: Place, kind: str, encrypted: bool, tmp_path: Path
) -> None:
    script = place.strike(Fault(kind=kind, num=PART_BYTES // 2, most=2))
    with place.researcher(encrypted=encrypted) as researcher:
        job = researcher.job()
        params = job.computed(tmp_path / "total", lambda number: time.sleep(0.02))
        assert script.done[kind] >= 2  # three parts travel at a time
        place.strike()
        check_whole(job, params, tmp_path / "total")
    place.has_nothing()


@both
def test_a_total_whose_upload_has_failed_is_sent_once_it_is_whole(
    place: Place, encrypted: bool, tmp_path: Path
) -> None:
    """The line is away for longer than the upload is tried again, and comes back before the last number is added."""
    with place.researcher(encrypted=encrypted) as researcher:
        job = researcher.job()

        def act(number: int) -> None:
            if number == CUT_AT:
                until_first_part(place)
                place.strike(Fault(kind="refuse"), Fault(kind="reset"))
            if number == NUM_STRETCHES - 1:
                until_given_up(place)
                place.strike()

        check_whole(job, job.computed(tmp_path / "total", act), tmp_path / "total")
    place.has_nothing()


def until_given_up(place: Place) -> None:
    """Wait until no part is tried again."""
    last = place.line.num_connections, time.monotonic()

    def is_quiet() -> bool:
        nonlocal last
        if place.line.num_connections != last[0]:
            last = place.line.num_connections, time.monotonic()
        return time.monotonic() - last[1] > 5

    wait_until(is_quiet, timeout_s=120, what="the upload to fail")


@both
def test_of_a_total_that_can_not_be_computed_nothing_stays(
    place: Place, encrypted: bool, tmp_path: Path
) -> None:
    with place.researcher(encrypted=encrypted) as researcher:
        job = researcher.job()

        def fail() -> None:
            until_first_part(place)
            raise SpecError("of these numbers there is no mean")

        with pytest.raises(SpecError, match="no mean"):
            job.computed(tmp_path / "total", at(CUT_AT, fail))
        assert not (tmp_path / "total").exists()
        place.has_nothing()
        check_whole(job, job.computed(tmp_path / "total"), tmp_path / "total")
    place.has_nothing()


def test_of_a_total_that_can_not_be_computed_nothing_stays_though_its_upload_had_failed_before(
    place: Place, tmp_path: Path
) -> None:
    with place.researcher() as researcher:
        job = researcher.job()

        def act(number: int) -> None:
            if number == CUT_AT:
                until_first_part(place)
                place.strike(Fault(kind="refuse"), Fault(kind="reset"))
            if number == NUM_STRETCHES - 1:
                until_given_up(place)
                place.strike()
                raise SpecError("of these numbers there is no mean")

        with pytest.raises(SpecError, match="no mean"):
            job.computed(tmp_path / "total", act)
        assert not (tmp_path / "total").exists()
        place.has_nothing()


@both
def test_a_total_that_does_not_count_after_all_is_taken_back(
    place: Place, encrypted: bool, tmp_path: Path
) -> None:
    """As one that is not finite: it is at the hub as a whole, and no node was told of it."""
    with place.researcher(encrypted=encrypted) as researcher:
        job = researcher.job()
        place.strike(Fault(kind="reset", num=PART_BYTES // 2, most=2))
        params = job.computed(tmp_path / "total")
        assert place.used_bytes() > NUM_STRETCHES << 20
        assert params.ref is not None
        job.tasks.take_back(params.ref)
        assert job.tasks.take_published() == []
        place.has_nothing()


def test_a_job_that_is_ended_while_its_total_is_sent_ends_soon(place: Place, tmp_path: Path) -> None:
    """The line would take minutes for it."""
    with place.researcher() as researcher:
        job = researcher.job()
        began: list[float] = []

        def check() -> None:
            began.append(time.monotonic())
            if began[-1] - began[0] > 2:
                raise JobStopped("kill")

        job.federation._channel.check = check
        place.strike(bits_per_s=2e6)
        with pytest.raises(JobStopped):
            job.computed(tmp_path / "total")
        assert time.monotonic() - began[-1] < 30
        place.strike()
        place.has_nothing()


def test_a_line_that_is_silent_for_good_is_waited_for_until_the_job_is_ended(
    place: Place, tmp_path: Path
) -> None:
    with place.researcher() as researcher:
        job = researcher.job()
        ends = time.monotonic() + 25

        def check() -> None:
            if time.monotonic() > ends:
                raise JobStopped("kill")

        job.federation._channel.check = check
        place.strike(Fault(kind="blackhole", num=PART_BYTES // 2))
        with pytest.raises((JobStopped, RepositoryUnreachable)):
            job.computed(tmp_path / "total")
        assert time.monotonic() < ends + 60
        place.strike()
        no_threads()
        job.federation.end("killed", {})
    place.has_nothing()


def test_a_researcher_whose_disk_is_full_says_so_and_nothing_of_the_total_stays(
    place: Place, small_disk: Callable[[str, int], Path], tmp_path: Path
) -> None:
    disk = small_disk("disk", 8)
    with place.researcher() as researcher:
        job = researcher.job()
        with pytest.raises(NoSpace, match=r"no space left to write .*total: free some"):
            job.computed(disk / "total", at(CUT_AT, lambda: until_first_part(place)))
        assert list(disk.iterdir()) == []
        place.has_nothing()


@both
def test_a_hub_whose_disk_is_full_says_so_and_has_room_again_after_the_job(
    small_disk: Callable[[str, int], Path], encrypted: bool, tmp_path: Path
) -> None:
    disk = small_disk("disk", 9)
    with (
        HubThread(tmp_path / "hub", limits=LIMITS, storage=disk) as hub,
        Researcher(tmp_path / "lab", hub.url, encrypted=encrypted) as researcher,
    ):
        job = researcher.job()
        with pytest.raises(NoSpace, match=r"no space left at the hub|disk is full"):
            job.computed(tmp_path / "total")
        no_threads()
        assert not list((disk / "incoming").iterdir())
        job.federation.end("failed", {})
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        small = researcher.connection.repository.put(os.urandom(3 << 20), job="another")
        assert researcher.connection.repository.exists(small)


def test_a_researcher_who_is_revoked_meanwhile_is_refused_by_name(place: Place, tmp_path: Path) -> None:
    with place.researcher() as researcher:
        job = researcher.job()

        def revoke() -> None:
            until_first_part(place)
            place.hub.parties.revoke("lab")
            place.hub.end_revoked()

        with pytest.raises(NotPermitted):
            job.computed(tmp_path / "total", at(CUT_AT, revoke))
        no_threads()
        incoming = place.hub.folder / "storage" / "incoming"
        wait_until(lambda: not list(incoming.iterdir()), timeout_s=30, what="uploads to end")


@both
def test_two_jobs_at_once_do_not_disturb_each_others_total(
    place: Place, encrypted: bool, tmp_path: Path
) -> None:
    """They have the same bytes; one of them can't be computed, and what the other has stays."""
    with place.researcher(encrypted=encrypted) as researcher, ThreadPoolExecutor(2) as pool:
        good, bad = researcher.job(), researcher.job()

        def fail() -> None:
            until_first_part(place)
            raise SpecError("of these numbers there is no mean")

        kept = pool.submit(good.computed, tmp_path / "good", lambda number: time.sleep(0.05))
        lost = pool.submit(bad.computed, tmp_path / "bad", at(CUT_AT, fail))
        assert isinstance(lost.exception(120), SpecError)
        params = kept.result(120)
        again = bad.computed(tmp_path / "bad")
        assert again.ref is not None
        bad.tasks.take_back(again.ref)
        check_whole(good, params, tmp_path / "good")
    place.has_nothing()


@both
def test_a_hub_that_is_killed_meanwhile_has_the_total_in_the_end(
    processes: Processes, encrypted: bool, tmp_path: Path
) -> None:
    home = tmp_path / "hub"
    command = ["python", "-m", "fedjob.hub", "start", "--home", home, "--mqtt-port", "0", "--port"]
    hub = processes.start(*command, "0", ready=HUB_READY)
    url = hub.wait_for(HUB_READY)[1]
    with Researcher(tmp_path / "lab", url, encrypted=encrypted) as researcher:
        job = researcher.job()
        stored = home / "storage"

        def objects() -> list[Path]:
            return [path for path in (stored / "objects").rglob("*") if path.is_file()]

        def kill() -> None:
            wait_until(objects, timeout_s=60, what="the first part to be stored")
            hub.kill()

        def act(number: int) -> None:
            at(CUT_AT, kill)(number)
            time.sleep(0.02)

        with ThreadPoolExecutor(1) as pool:
            computed = pool.submit(job.computed, tmp_path / "total", act)
            wait_until(lambda: not hub.alive, timeout_s=120, what="the hub to be killed")
            restarted = processes.start(*command, url.rpartition(":")[2], ready=HUB_READY)
            params = computed.result(150)
        check_whole(job, params, tmp_path / "total")
        no_threads()
        assert objects() == []
        assert list((stored / "incoming").iterdir()) == []
        assert restarted.alive


def test_a_researcher_who_is_killed_meanwhile_sends_the_total_again(
    place: Place, processes: Processes, tmp_path: Path
) -> None:
    with place.researcher() as researcher:
        job = researcher.job()
        order = {
            "folder": str(researcher.folder),
            "hub": place.hub.url,
            "job": job.spec.id,
            "total": str(tmp_path / "total"),
        }
        killed = processes.start("python", "-m", "tests.faults.growing_totals", json.dumps(order))
        assert killed.wait(timeout_s=120) == -signal.SIGKILL, killed.log()
        incoming = place.hub.folder / "storage" / "incoming"
        wait_until(lambda: not list(incoming.iterdir()), timeout_s=30, what="the broken uploads to end")
        (tmp_path / "total").unlink()  # as the round does that is begun again
        check_whole(job, job.computed(tmp_path / "total"), tmp_path / "total")
    place.has_nothing()
