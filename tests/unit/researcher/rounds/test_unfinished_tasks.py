"""Tasks that go on over rounds: what is kept of them opens nothing, and what is sent again can be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from fedjob.common.codec import pack, to_plain
from fedjob.common.types import Ref
from fedjob.messaging.messages import Result, Task, keyless_result, work_key
from fedjob.protocols.base import Ask
from fedjob.repository.job_secrets import JobSecrets
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.federation.base import AskContext, Collected, Federation
from fedjob.researcher.rounds.unfinished_tasks import UnfinishedTasks
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"


class Nodes:
    """One node, which is slow."""

    num_rows: dict[str, int | None] = {"slow": 8}  # noqa: RUF012

    def moved(self, ref: Ref, path: Path) -> None:
        assert path.exists()


class Run:
    """One process of a job: its unfinished tasks, and a repository that encrypts by the home's secret."""

    def __init__(self, home: Path, repository: MemoryRepository) -> None:
        self.repository = repository
        repository.encrypt(JobSecrets(home / "keys"), encrypted=True)
        self.folder = JobFolder(home / JOB)
        self.folder.path.mkdir(exist_ok=True)
        federation = cast(Federation, Nodes())
        self.unfinished = UnfinishedTasks(self.folder, federation, self.publish, self.publish)

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        ref = self.repository.put(source, job=JOB)
        self.unfinished.sources[ref] = source
        return ref


def kept(run: Run, task: Task) -> Position:
    place: Any = AskContext(job=JOB, round=1, step="train", spool=run.folder.path, keep=True)
    under_way = run.unfinished.goes_on(place, {"slow": task}, Collected(busy=("slow",)), Position(state={}))
    return Position(state={}, under_way=under_way)


def test_a_breakpoint_takes_no_key_along_and_the_task_that_is_sent_again_has_it(tmp_path: Path) -> None:
    repository = MemoryRepository()
    run = Run(tmp_path, repository)
    plan, params, blob = (run.publish(word) for word in (b"plan", b"params", b"blob"))
    task = Task(dataset="d", protocol="p", plan=plan, params={"params": params}, blobs={"b": blob})
    position = kept(run, task)
    stored = pack(to_plain(dict(position.under_way)))
    assert not any(word.encode() in stored for ref in (plan, params, blob) for word in (ref.key, ref.cipher))
    waiting = run.unfinished.waited_for(Ask(step="train", late="keep"), position)
    again = run.unfinished.asked_again(waiting, {}, [plan])["slow"]
    assert work_key(job=JOB, round_=1, step="s", node="slow", task=again) == work_key(
        job=JOB, round_=1, step="s", node="slow", task=position.under_way["slow"].task
    )
    for ref, content in (
        (again.plan, b"plan"),
        (again.params["params"], b"params"),
        (again.blobs["b"], b"blob"),
    ):
        assert ref is not None
        assert repository.get_bytes(ref, limit_bytes=10) == content


def test_a_process_that_takes_the_job_up_publishes_under_the_names_of_the_one_before(tmp_path: Path) -> None:
    repository = MemoryRepository()
    run = Run(tmp_path, repository)
    plan, params = run.publish(b"plan"), run.publish(b"params")
    position = kept(run, Task(dataset="d", protocol="p", plan=plan, params={"params": params}))
    later = Run(tmp_path, repository)
    waiting = later.unfinished.waited_for(Ask(step="train", late="keep"), position)
    again = later.unfinished.asked_again(waiting, {}, [later.publish(b"plan")])["slow"]
    assert (again.params["params"].cipher, again.params["params"].key) == (params.cipher, params.key)
    assert again.plan is not None
    assert (again.plan.cipher, again.plan.key) == (plan.cipher, plan.key)


def test_an_answer_that_is_kept_names_its_content_alone() -> None:
    ref = Ref("ab" * 32, 9, cipher="cd" * 32, key="ef" * 32)
    kept_result = keyless_result(Result(of="x", key="k", ok=True, params=ref, blob=ref))
    assert kept_result.params == kept_result.blob == ref
    assert b"cd" * 32 not in pack(to_plain(kept_result))
    assert b"ef" * 32 not in pack(to_plain(kept_result))
