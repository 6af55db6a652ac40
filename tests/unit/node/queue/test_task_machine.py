from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.errors import MessageError
from fedjob.common.lifecycle import ACTIVE
from fedjob.node.config.capacity import Capacity, CapacityPart
from fedjob.node.queue.allocation import Allocation
from fedjob.node.queue.book import Book, JobRow, TaskRow
from fedjob.node.queue.draft import MAX_JOBS, reply_id
from fedjob.node.queue.task_events import (
    Began,
    Cancel,
    Command,
    DeleteJob,
    DeleteTask,
    Died,
    EndArrived,
    EndJob,
    Event,
    Finished,
    Forgotten,
    Gone,
    Granted,
    Kill,
    NodeStops,
    OrphanTimeout,
    Overdue,
    PutJob,
    PutTask,
    Refuse,
    Refused,
    ReleaseSpool,
    ReplyGivenUp,
    ReplyReceipted,
    ReportState,
    Reserve,
    Restarted,
    SendReply,
    Start,
    TaskArrived,
    TimePassed,
    Unreply,
)
from fedjob.node.queue.task_machine import step


def task(key: str = "k1", **changes: object) -> TaskArrived:
    made = TaskArrived(
        key=key, job="j", researcher="alice", dataset="d", round=1, step="train", epoch=1, attempt=1,
        reply_to="alice/s1", message=f"ask-{key}", order=b"order",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


class Node:
    """A book, what is persisted of it, and the acts of the last event."""

    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book()
        self.tasks: dict[str, TaskRow] = {}
        self.jobs: dict[str, JobRow] = {}
        self.said: list[tuple[str, str]] = []

    def on(self, event: Event) -> list[Command]:
        """Take an event; return the commands that are not about rows."""
        self.book, commands = step(self.book, event)
        for command in commands:
            match command:
                case PutTask(row):
                    self.tasks[row.key] = row
                case DeleteTask(row):
                    del self.tasks[row.key]
                case ReportState(row):
                    self.said.append((row.key, str(row.state)))
                case PutJob(job):
                    self.jobs[job.job] = job
                case DeleteJob(name):
                    del self.jobs[name]
        assert (self.tasks, self.jobs) == (self.book.tasks, self.book.jobs), "rows and book differ"
        return [
            c for c in commands if not isinstance(c, PutTask | DeleteTask | PutJob | DeleteJob | ReportState)
        ]

    def state(self, key: str = "k1") -> str:
        return str(self.book.tasks[key].state)

    def finish(self, key: str = "k1") -> list[Command]:
        return self.on(Finished(key, True, b"result"))


def kinds(commands: list[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def test_a_task_is_accepted_run_answered_acknowledged_and_released_by_the_next_round() -> None:
    node = Node()
    assert node.on(task()) == [Start("k1")]
    assert node.state() == "starting"
    node.on(Began("k1", 4711))
    assert (node.state(), node.book.tasks["k1"].worker) == ("running", 4711)
    (reply,) = node.finish()
    assert node.said == [("k1", "starting"), ("k1", "running"), ("k1", "completed")]
    assert isinstance(reply, SendReply)
    assert (reply.row.reply_to, reply.row.message, reply.row.result) == ("alice/s1", "ask-k1", b"result")
    assert reply.reply == reply_id("k1", "ask-k1")
    assert node.on(ReplyReceipted(reply.reply)) == []
    assert node.book.tasks["k1"].acknowledged
    assert node.on(task("k2", round=2)) == [ReleaseSpool("k1"), Start("k2")]
    assert list(node.book.tasks) == ["k2"]


def test_the_same_work_is_answered_from_the_spool_and_never_done_again() -> None:
    node = Node()
    node.on(task())
    assert node.on(task(message="ask-again")) == []
    (first,) = node.finish()
    assert isinstance(first, SendReply)
    assert first.row.message == "ask-again"
    commands = node.on(task(message="third", epoch=2, reply_to="alice/s2"))
    assert kinds(commands)[-1] is SendReply
    assert Unreply(first.reply) in commands
    last = commands[-1]
    assert isinstance(last, SendReply)
    assert (last.row.reply_to, last.row.result, last.row.epoch) == ("alice/s2", b"result", 2)


def test_a_node_that_was_killed_starts_again_what_ran_and_only_that() -> None:
    node = Node(Book(slots=2, per_job=2))
    node.on(task("k1"))
    node.on(task("k2", dataset="e"))
    node.on(task("k3", dataset="f"))
    node.finish("k2")
    rows = {key: TaskRow.from_plain(row.to_plain()) for key, row in node.tasks.items()}
    jobs = {name: JobRow.from_plain(row.to_plain()) for name, row in node.jobs.items()}
    again = Node(Book(rows, jobs, slots=2, per_job=2))
    again.tasks, again.jobs = dict(rows), dict(jobs)
    assert again.on(Finished("k1", True, b"from the spool"))[0] == SendReply(again.book.tasks["k1"])
    assert again.on(Restarted()) == [Start("k3")]
    assert again.state("k2") == again.state("k1") == "completed"


def test_tasks_start_in_the_order_of_arrival_and_one_of_a_job_at_a_time() -> None:
    node = Node(Book(slots=2))
    assert node.on(task("a1", job="a")) == [Start("a1")]
    assert node.on(task("a2", job="a", dataset="e")) == []
    assert node.on(task("b1", job="b")) == [Start("b1")]
    assert node.on(task("c1", job="c")) == []
    assert Start("c1") in node.finish("b1")
    assert Start("a2") in node.finish("a1")


def test_an_older_epoch_is_refused_and_a_newer_one_takes_over() -> None:
    node = Node()
    node.on(task("k1"))
    node.on(task("k2", dataset="e"))
    commands = node.on(task("k3", epoch=2, dataset="f", reply_to="alice/s2"))
    assert ReleaseSpool("k2") in commands, "it was not begun and nobody asks for it any more"
    assert node.state("k1") == "starting"
    (refused,) = node.on(task("k4", epoch=1))
    assert isinstance(refused, Refuse)
    assert (refused.reason, refused.task.reply_to) == ("stale_epoch", "alice/s1")
    assert node.finish("k1") == [Start("k3")], "who asked for k1 is gone: it is kept, not sent"
    commands = node.on(task("k1", epoch=2, message="m", reply_to="alice/s2"))
    assert kinds(commands) == [SendReply]


def test_a_new_runner_stops_what_only_the_old_one_wanted() -> None:
    node = Node()
    node.on(task("k1", round=8))
    assert node.on(task("k0", round=5, epoch=2)) == [Kill("k1")]
    assert node.on(Gone("k1")) == [ReleaseSpool("k1"), Start("k0")]


def test_another_researcher_cannot_enter_or_end_a_job() -> None:
    node = Node()
    node.on(task())
    (refused,) = node.on(task("k2", researcher="bob", epoch=9))
    assert isinstance(refused, Refuse)
    assert refused.reason == "not_permitted"
    assert node.on(EndArrived("j", "bob", 9)) == []
    assert node.state() == "starting"


def test_end_kills_releases_and_fences_off_what_comes_late() -> None:
    node = Node()
    node.on(task("k1"))
    node.on(task("k2", dataset="e"))
    node.on(Began("k1"))
    node.said.clear()
    assert node.on(EndArrived("j", "alice", 1, "killed")) == [Kill("k1"), ReleaseSpool("k2"), EndJob("j")]
    assert node.book.unfinished() == [], "nobody waits for it"
    assert node.on(Gone("k1")) == [ReleaseSpool("k1")]
    assert node.said == [("k1", "stopping"), ("k2", "cancelled"), ("k1", "killed")]
    (refused,) = node.on(task("k1"))
    assert isinstance(refused, Refuse)
    assert refused.reason == "ended"
    assert node.on(task("k1", epoch=2)) == [Start("k1")], "a restarted job goes on"


def test_work_that_is_wanted_again_while_it_is_stopped_is_begun_anew_when_its_worker_is_gone() -> None:
    node = Node()
    node.on(task("k1"))
    node.on(EndArrived("j", "alice", 1, "killed"))
    assert node.on(task("k1", epoch=2, message="again")) == []
    assert node.state() == "stopping"
    assert node.on(Gone("k1")) == [Start("k1")]
    assert node.book.tasks["k1"].message == "again"


def test_a_node_that_is_stopped_takes_its_work_up_at_the_next_start() -> None:
    node = Node()
    node.on(task("k1"))
    node.on(Began("k1", 7))
    node.said.clear()
    assert node.on(NodeStops()) == []
    assert node.said == [("k1", "stopping")]
    assert node.on(Restarted()) == [Start("k1")]
    assert (node.state(), node.book.tasks["k1"].worker, node.book.tasks["k1"].deaths) == ("starting", 0, 0)


def test_after_a_crash_what_was_stopping_is_ended() -> None:
    node = Node(Book(slots=2, per_job=2))
    node.on(task("k1"))
    node.on(task("k2", job="i"))
    node.on(Cancel("k1", "killed_by_owner"))
    node.on(EndArrived("i", "alice", 1))
    commands = node.on(Restarted())
    assert kinds(commands) == [SendReply, ReleaseSpool]
    assert node.state("k1") == "killed"
    assert list(node.book.tasks) == ["k1"]


def test_end_before_the_task_it_overtook() -> None:
    node = Node()
    assert node.on(EndArrived("j", "alice", 1)) == [EndJob("j")]
    (refused,) = node.on(task())
    assert isinstance(refused, Refuse)


def test_a_task_of_a_past_round_is_refused() -> None:
    node = Node()
    node.on(task("k2", round=2))
    (refused,) = node.on(task("k1", round=1))
    assert isinstance(refused, Refuse)
    assert refused.reason == "stale_round"


def test_work_that_is_late_is_stopped_by_the_next_round_on_its_dataset() -> None:
    node = Node()
    node.on(task("k1"))
    assert node.on(task("k2", round=2)) == [Kill("k1")], "one worker of a job at a time"
    assert node.finish("k1") == []
    assert node.on(Gone("k1")) == [ReleaseSpool("k1"), Start("k2")]


def test_a_finished_reply_is_delivered_even_when_it_is_late() -> None:
    node = Node()
    node.on(task("k1"))
    (reply,) = node.finish("k1")
    assert isinstance(reply, SendReply)
    assert node.on(task("k2", round=2)) == [Start("k2")]
    assert node.on(ReplyReceipted(reply.reply)) == [ReleaseSpool("k1")]


def test_a_reply_that_expired_leaves_the_result_for_who_asks_again() -> None:
    node = Node()
    node.on(task())
    (reply,) = node.finish()
    assert isinstance(reply, SendReply)
    assert node.on(ReplyGivenUp(reply.reply)) == []
    assert kinds(node.on(task(message="again"))) == [SendReply]


def test_a_worker_that_dies_is_tried_again_and_then_given_up() -> None:
    node = Node(Book(max_deaths=3))
    node.on(task())
    assert node.on(Died("k1")) == [Start("k1")]
    assert node.on(Died("k1")) == [Start("k1")]
    (reply,) = node.on(Died("k1", "signal 9"))
    assert isinstance(reply, SendReply)
    assert (reply.row.state, reply.row.reason, reply.row.detail) == ("failed", "worker_died", "signal 9")


def test_failed_work_is_tried_again_by_a_new_attempt_and_answered_to_the_same_one() -> None:
    node = Node()
    node.on(task())
    node.on(Finished("k1", False, b"", "exception", "ValueError"))
    assert kinds(node.on(task(message="again"))) == [Unreply, SendReply]
    assert Start("k1") in node.on(task(message="new", attempt=2))
    assert (node.state(), node.book.tasks["k1"].reason) == ("starting", "")


def test_a_task_waits_for_its_grant() -> None:
    node = Node()
    assert node.on(task(granted=False)) == []
    assert node.state() == "waiting"
    assert [row.key for row in node.book.unfinished()] == ["k1"]
    assert node.on(Granted("k1")) == [Start("k1")]
    node.on(task("k2", job="i", granted=False))
    (reply,) = node.on(Refused("k2", "rejected", "not on this data"))
    assert isinstance(reply, SendReply)
    assert (reply.row.state, reply.row.reason) == ("rejected", "rejected")


def test_the_owner_can_end_a_task_and_the_researcher_hears_of_it() -> None:
    node = Node()
    node.on(task())
    assert kinds(node.on(Cancel("k1", "killed_by_owner"))) == [Kill]
    assert node.state() == "stopping"
    assert node.finish() == []
    assert node.on(Cancel("k1", "killed_by_owner")) == []
    (reply,) = node.on(Gone("k1"))
    assert isinstance(reply, SendReply)
    assert (reply.row.state, reply.row.reason) == ("killed", "killed_by_owner")
    node.on(task("k2", job="i"))
    node.on(task("k3", job="h"))
    assert kinds(node.on(Cancel("k3", "killed_by_owner"))) == [SendReply]
    assert node.state("k3") == "cancelled", "it had not begun"


def test_work_over_its_limit_has_failed() -> None:
    node = Node()
    node.on(task())
    assert kinds(node.on(Overdue("k1"))) == [Kill, SendReply]
    assert (node.state(), node.book.tasks["k1"].reason) == ("failed", "timeout")
    assert node.on(Gone("k1")) == []


def test_an_orphaned_job_makes_room_and_may_come_back() -> None:
    node = Node()
    node.on(task())
    node.finish()
    node.on(task("k2", dataset="e"))
    node.on(task("k3", dataset="f"))
    node.said.clear()
    assert node.on(OrphanTimeout("j")) == [Kill("k2"), ReleaseSpool("k3")]
    assert node.on(Gone("k2")) == [ReleaseSpool("k2")]
    assert node.said == [("k2", "stopping"), ("k3", "cancelled"), ("k2", "lost")]
    assert list(node.book.tasks) == ["k1"], "what is finished stays for whoever comes back"
    assert node.on(task("k2", dataset="e")) == [Start("k2")]
    node.on(Forgotten("j"))
    assert node.on(Gone("k2")) == [ReleaseSpool("k2")]
    assert not node.book.tasks


def test_researchers_take_turns_and_each_is_served_in_order() -> None:
    node = Node()
    order = []
    for number in range(3):
        node.on(task(f"a{number}", job=f"a{number}", researcher="alice"))
    for number in range(2):
        node.on(task(f"b{number}", job=f"b{number}", researcher="bob"))
    while running := [key for key, row in node.book.tasks.items() if row.state == "starting"]:
        order += running
        node.finish(running[0])
    assert order == ["a0", "b0", "a1", "b1", "a2"]


def test_resources_are_reserved_for_a_while_taken_by_a_task_and_freed_by_the_end() -> None:
    capacity = Capacity(whole=CapacityPart(cpus=4, gpus=(0, 1)))
    node = Node(Book(slots=4, ledger=Allocation(capacity)))
    two = {"gpus": 2}
    node.on(Reserve("j", "alice", two, until=30.0))
    assert node.on(task("b1", job="b", researcher="bob", resources={"gpus": 1})) == []
    node.on(TimePassed(29.0))
    assert node.state("b1") == "queued"
    assert node.on(TimePassed(31.0)) == [Start("b1")], "the lease ended"
    assert node.on(task("k1", resources=two)) == []
    assert node.on(EndArrived("b", "bob", 1)) == [Kill("b1"), EndJob("b")]
    assert node.state("k1") == "queued", "the device is in use until its worker is gone"
    assert node.on(Gone("b1")) == [ReleaseSpool("b1"), Start("k1")]
    assert node.book.ledger.gpus_of("j") == (0, 1)
    node.on(Reserve("j", "alice", two, until=1.0))
    node.on(TimePassed(99.0))
    assert node.book.ledger.gpus_of("j") == (0, 1), "what a task took is no lease"


def test_a_pool_has_its_own_workers_and_the_rest_is_for_the_others() -> None:
    capacity = Capacity(pools={"gpu": CapacityPart(workers=1)})
    node = Node(Book(slots=2, ledger=Allocation(capacity)))
    pool = {"pool": "gpu"}
    assert node.on(task("k1", job="a", resources=pool)) == [Start("k1")]
    assert node.on(task("k2", job="b", resources=pool)) == []
    assert node.on(task("k3", job="c")) == [Start("k3")]
    assert node.on(task("k4", job="d")) == []
    assert Start("k2") in node.finish("k1")


def test_outside_its_hours_a_node_begins_nothing() -> None:
    node = Node(Book(is_open=False))
    assert node.on(task()) == []
    node.book = replace(node.book, is_open=True)
    assert node.on(TimePassed()) == [Start("k1")]


def test_several_tasks_of_a_job_run_at_once_where_the_owner_allows_it() -> None:
    node = Node(Book(slots=3, per_job=2))
    assert node.on(task("k1")) == [Start("k1")]
    assert node.on(task("k2", dataset="e")) == [Start("k2")]
    assert node.on(task("k3", dataset="f")) == []


def test_the_memory_of_jobs_is_bounded_and_keeps_those_at_work() -> None:
    node = Node()
    node.on(task(job="busy"))
    for number in range(MAX_JOBS + 50):
        node.on(EndArrived(f"j{number}", "alice", 1))
    assert len(node.book.jobs) == MAX_JOBS
    assert "busy" in node.book.jobs
    assert "j0" not in node.book.jobs


def test_a_book_is_never_changed_in_place() -> None:
    book, _ = step(Book(), task())
    before = (dict(book.tasks), dict(book.jobs))
    step(book, Finished("k1", True, b""))
    step(book, EndArrived("j", "alice", 1))
    assert (dict(book.tasks), dict(book.jobs)) == before


def test_a_row_that_is_none_is_refused() -> None:
    with pytest.raises(MessageError, match="key"):
        TaskRow.from_plain({"job": "j"})


KEYS = st.sampled_from(["k1", "k2", "k3"])
EVENTS = st.one_of(
    st.builds(
        lambda key, job, round_, epoch, attempt, message, granted: task(
            f"{job}{key}{round_}", job=job, round=round_, epoch=epoch, attempt=attempt, message=message,
            granted=granted, reply_to=f"alice/s{epoch}",
        ),
        KEYS, st.sampled_from("ab"), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
        st.uuids().map(str), st.booleans(),
    ),
    st.builds(EndArrived, st.sampled_from("ab"), st.sampled_from(["alice", "bob"]), st.integers(1, 3)),
    st.builds(OrphanTimeout, st.sampled_from("ab")),
    st.builds(Forgotten, st.sampled_from("ab")),
    st.builds(Reserve, st.sampled_from("ab"), st.just("alice"), st.just({"gpus": 1}), st.floats(0, 9)),
    st.builds(TimePassed, st.floats(0, 9)),
    st.just(Restarted()),
    st.just(NodeStops()),
    st.tuples(st.sampled_from(["finish", "fail", "die", "grant", "refuse", "cancel", "receipt", "expire",
                               "begin", "gone", "overdue"]),
              st.integers(0, 20)),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=40), st.integers(1, 3))
def test_whatever_happens_slots_hold_finished_work_stays_and_rows_equal_the_book(
    script: list[Event | tuple[str, int]], slots: int
) -> None:
    node = Node(Book(slots=slots))
    done: set[str] = set()
    for item in script:
        if isinstance(item, tuple):
            what, index = item
            rows = list(node.book.tasks.values())
            if not rows:
                continue
            row = rows[index % len(rows)]
            item = {
                "finish": Finished(row.key, True, b"r"), "fail": Finished(row.key, False, b"", "exception"),
                "die": Died(row.key), "grant": Granted(row.key), "refuse": Refused(row.key, "no"),
                "cancel": Cancel(row.key, "killed"), "receipt": ReplyReceipted(row.reply),
                "expire": ReplyGivenUp(row.reply), "begin": Began(row.key, 1), "gone": Gone(row.key),
                "overdue": Overdue(row.key),
            }[what]  # fmt: skip
        commands = node.on(item)
        for command in commands:
            if isinstance(command, Start):
                assert command.key not in done, "finished work was started again"
            if isinstance(command, SendReply):
                assert command.row.reply == reply_id(command.row.key, command.row.message)
        done = {key for key, row in node.book.tasks.items() if row.state == "completed"}
        active = [row for row in node.book.tasks.values() if row.state in ACTIVE]
        assert len(active) <= slots
        assert len({row.job for row in active}) == len(active)
        assert all(bool(row.after) == (row.state == "stopping") for row in node.book.tasks.values())
        if len(active) < slots and not isinstance(item, NodeStops):  # nothing that could run waits
            busy = {row.job for row in active}
            assert all(r.job in busy for r in node.book.tasks.values() if r.state == "queued")
