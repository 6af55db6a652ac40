from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import DecodeError, ObjectTooLarge
from fedjob.execution.orders import WorkResult
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.spool import PARAMS_NAME, SMALL_NAME, SmallOutput, Spool, write_small
from fedjob.repository.memory import MemoryRepository

AA, BB, CC, DD = (letters * 32 for letters in ("aa", "bb", "cc", "dd"))


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def spool(home: NodeHome) -> Spool:
    return Spool(home, MemoryRepository())


def write(folder: Path, key: str, *, with_params: bool = True) -> None:
    result = WorkResult(key=key, ok=True, params_path="params.safetensors", num_examples=3)
    if with_params:
        (folder / "params.safetensors").write_bytes(b"numbers")
    (folder / "result.mpk").write_bytes(pack(to_plain(result)))


def test_a_complete_output_that_a_kill_left_becomes_the_result(home: NodeHome, spool: Spool) -> None:
    write(spool.begin(AA), AA)
    spool.begin(AA)
    write(spool.begin(BB), BB, with_params=False)
    write(spool.begin(CC), CC)
    (spool.begin(DD) / "result.mpk").write_bytes(b"torn")
    spool.recover({AA, BB, DD}, set(), set())
    assert [path.name for path in home.results.iterdir()] == [AA]
    assert list(home.tasks.iterdir()) == []
    assert spool.result(AA).num_examples == 3


def test_a_small_output_that_a_kill_left_is_taken_once_where_its_task_is_not_done(
    home: NodeHome, spool: Spool
) -> None:
    small = SmallOutput(WorkResult(key=AA, ok=True, num_examples=3), b"numbers")
    for key in (AA, AA, BB, CC, DD):
        write_small(small, spool.begin(key))
    (torn,) = home.tasks.glob(f"{DD}.*")
    (torn / SMALL_NAME).write_bytes((torn / SMALL_NAME).read_bytes()[:-1])
    spool.recover({AA, BB, DD}, {BB}, set())
    (left,) = home.tasks.iterdir()
    assert [*home.results.iterdir()] == []
    assert spool.take_left(AA) == (left, small)
    assert [spool.take_left(key) for key in (AA, BB, CC, DD)] == [None] * 4
    spool.discard_small(left)
    assert [*home.tasks.iterdir()] == []
    folder = spool.begin(BB)
    write_small(small, folder)
    (folder / "inbox").mkdir()
    spool.discard_small(folder)
    assert [*home.tasks.iterdir()] == [], "whatever else is in it"


def test_results_without_a_task_go_and_finished_ones_stay(home: NodeHome, spool: Spool) -> None:
    for key in (AA, BB):
        folder = spool.begin(key)
        write(folder, key)
        spool.finish(key, folder)
    (home.results / AA / "result.mpk").unlink()
    spool.recover({AA}, {AA}, set())
    assert [path.name for path in home.results.iterdir()] == [AA]
    spool.release(AA)
    assert not spool.has_result(AA)


def test_a_masked_vector_that_a_kill_left_goes_at_the_start_and_the_result_stays(
    home: NodeHome, spool: Spool
) -> None:
    folder = spool.begin(AA)
    write(folder, AA)
    spool.finish(AA, folder)
    folder = home.result_of(AA)
    for name in ("masked.0123abcd", "masked.notes", PARAMS_NAME):
        (folder / name).write_bytes(b"x")
    spool.recover({AA}, {AA}, set())
    assert not (folder / "masked.0123abcd").exists()
    assert {"masked.notes", PARAMS_NAME} <= {path.name for path in folder.iterdir()}


def test_an_object_is_fetched_once_and_goes_when_nobody_wants_it(home: NodeHome) -> None:
    repository = MemoryRepository()
    spool = Spool(home, repository)
    ref = repository.put(b"parameters", job="job", readers=[])
    path = spool.fetch(ref)
    repository.delete(ref, job="job")
    assert spool.fetch(ref).read_bytes() == b"parameters"
    spool.keep_objects({ref.sha256})
    assert path.exists()
    spool.keep_objects(set())
    assert not path.exists()


def test_a_release_with_nothing_to_remove_is_known_as_one(home: NodeHome) -> None:
    repository = MemoryRepository()
    spool = Spool(home, repository)
    assert not spool.has_kept([AA], set())
    ref = repository.put(b"parameters", job="job", readers=[])
    spool.fetch(ref)
    assert not spool.has_kept([AA], {ref.sha256})
    assert spool.has_kept([], set())
    folder = spool.begin(AA)
    write(folder, AA)
    spool.finish(AA, folder)
    assert spool.has_kept([BB, AA], {ref.sha256})
    spool.tidy([AA], set())
    assert not spool.has_kept([AA, BB], set())


def test_parameters_are_a_regular_file_of_bounded_size(home: NodeHome, spool: Spool, tmp_path: Path) -> None:
    folder = spool.begin(AA)
    write(folder, AA)
    spool.finish(AA, folder)
    assert spool.params_of(AA, limit_bytes=7).read_bytes() == b"numbers"
    with pytest.raises(ObjectTooLarge):
        spool.params_of(AA, limit_bytes=6)
    params = home.results / AA / "params.safetensors"
    params.unlink()
    params.symlink_to(tmp_path / "secret")
    with pytest.raises(DecodeError, match="no regular file"):
        spool.params_of(AA, limit_bytes=7)


def test_states_that_no_row_names_go_at_the_start(home: NodeHome, spool: Spool) -> None:
    for key in (AA, BB):
        folder = spool.begin(key)
        (folder / "state.safetensors").write_bytes(key.encode())
        spool.finish(key, folder)
        spool.keep_state(key, "job_1", key)
        spool.keep_state(key, "job_1", key)
    spool.recover(set(), set(), {("job_1", BB)})
    assert [path.name for path in home.states_of("job_1").iterdir()] == [f"{BB}.safetensors"]
    spool.drop_states("job_1", [BB])
    assert not home.states_of("job_1").exists()


def test_what_lies_in_a_home_beside_the_spools_own_is_left_alone(home: NodeHome, spool: Spool) -> None:
    strange = [
        home.state / "thesis" / "chapter.tex",
        home.state / "job_1" / "notes.txt",
        home.objects / "picture.png",
        home.scratch / "mine" / "file",
        home.results / "figures" / "a.png",
        home.tasks / "todo" / "list",
    ]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (home.state / "job_1" / "gone.safetensors").write_text("of a job that is over")
    (home.objects / ("ab" * 32)).write_text("fetched")
    (home.scratch / "worker_12-3").mkdir()
    spool.recover(set(), set(), set())
    assert [path.read_text() for path in strange] == ["mine"] * len(strange)
    assert not (home.state / "job_1" / "gone.safetensors").exists()
    assert list(home.objects.iterdir()) == [home.objects / "picture.png"]
    assert not (home.scratch / "worker_12-3").exists()
