"""The federation of remote nodes: tasks over MQTT, bytes over the repository."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from fedjob.common.errors import FedjobError, RepositoryError
from fedjob.common.quorum import Quorum
from fedjob.common.types import Ref, party_of
from fedjob.messaging.attachments import is_attachable
from fedjob.messaging.messages import End, Result, Task
from fedjob.protocols.base import Buffered
from fedjob.repository.growing_file import GrowingFile
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.end_messages import EndMessage, release
from fedjob.researcher.federation.admission import Admission
from fedjob.researcher.federation.base import (
    Accept,
    AskContext,
    Collected,
    Federation,
    Gates,
    PostponedWork,
    Write,
)
from fedjob.researcher.federation.channel import Channel
from fedjob.researcher.federation.collector import Collector
from fedjob.researcher.federation.outages import LOOK_S
from fedjob.researcher.storage.breakpoints import states_at
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

NUM_FETCHES = 4
"""Contributions that are fetched at the same time."""

ABANDONED_S = 5.0
"""For which the end of an upload is waited that nobody wants any more: it stops at the next block, or the next try."""


class RemoteFederation(Federation):
    """Nodes behind the hub.

    Args:
        epoch: of this runner; nodes refuse tasks of an older one.
    """

    def __init__(
        self,
        connection: Connection,
        spec: JobSpec,
        folder: JobFolder,
        events: EventLog,
        *,
        epoch: int,
        attempt: int,
    ) -> None:
        self.num_rows = {node: info.get("num_rows") for node, info in spec.datasets.items()}
        self._channel = Channel(connection, spec, folder, events, epoch=epoch, attempt=attempt)
        self._connection = connection
        self._spec = spec
        self._events = events
        self._epoch = epoch
        self._nodes = tuple(sorted(spec.datasets))
        self._round = 0, 0.0
        self._away: frozenset[str] = frozenset()
        self._postponed = PostponedWork()
        self._before: tuple[Collector, Future[None]] | None = None
        self._pool = ThreadPoolExecutor(NUM_FETCHES, thread_name_prefix="fedjob-fetch")

    # -- before the first round -----------------------------------------------

    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None:
        self._channel.check = gates.check
        admitted = Admission(self._channel, code, gates).run()
        self.num_rows = {
            node: admitted.answers[node].num_rows or self.num_rows[node] for node in admitted.included
        }

    # -- bytes ------------------------------------------------------------------

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        return self._channel.publish(source, node)

    def attach(self, path: Path, node: str | None = None) -> Ref:
        copies = len(self._nodes) if node is None else 1
        ref = self._channel.attachments.add(path, node, copies)
        return self.publish(path, node) if ref is None else ref

    def attach_growing(self, path: Path, size_bytes: int, write: Write) -> Ref:
        if is_attachable(size_bytes, len(self._nodes)):
            return super().attach_growing(path, size_bytes, write)
        file = GrowingFile(path, size_bytes)
        sender = ThreadPoolExecutor(1, thread_name_prefix="fedjob-publish")
        sent = sender.submit(self._channel.put, file)
        sender.shutdown(wait=False)  # it does what it has begun
        try:
            write(file.grew)
            while not wait([sent], timeout=LOOK_S).done:
                self._channel.check()
        except BaseException:
            file.give_up()
            self._abandon(sent)
            raise
        if isinstance(sent.exception(), FedjobError):  # it is whole: sent as others are, through outages
            return self.publish(path)
        self._channel.count("out", ref := sent.result())
        return ref

    def _abandon(self, sent: Future[Ref]) -> None:
        """Have nothing stay of an upload that nobody wants any more."""

        def remove(ended: Future[Ref]) -> None:
            if ended.exception() is None:
                with suppress(RepositoryError):  # the job's end removes it too
                    self._connection.repository.delete(ended.result(), job=self._spec.id)

        if wait([sent], timeout=ABANDONED_S).done:
            remove(sent)
        else:
            sent.add_done_callback(remove)

    def is_published(self, ref: Ref) -> bool:
        return ref not in self._channel.attachments

    def moved(self, ref: Ref, path: Path) -> None:
        self._channel.attachments.move(ref, path)

    def forget(self, refs: Iterable[Ref]) -> None:
        """Delete published objects that no node will ask for again."""
        for ref in self._channel.attachments.take_back(refs):
            try:
                self._connection.repository.delete(ref, job=self._spec.id)
            except RepositoryError as error:  # `end_job` and the time to live remove it later
                self._events.add("note", text=f"object {ref.sha256[:12]} could not be deleted: {error}")

    # -- a round ----------------------------------------------------------------

    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        if self._round[0] != place.round:
            self._round = place.round, self._channel.now()
        limit_s = self._spec.round_timeout_s
        ends_at = None if limit_s is None else self._round[1] + limit_s
        with self._connection.lock:
            self._confirm()
            collector = Collector(
                self._channel, tasks, place, quorum, until, accept, self._pool, ends_at, self._away
            )
            collector.meanwhile = self._postponed.do
            try:
                collected = collector.run()
            except BaseException:
                collector.close()
                raise
            # the next ask confirms them: until then the disk has them, and a breakpoint what came of them
            self._before = collector, self._pool.submit(_make_durable, collector)
        self._away = (self._away - tasks.keys()) | collected.away
        return collected

    def when_asked(self, work: Callable[[], None]) -> None:
        self._postponed.add(work)

    def _confirm(self) -> None:
        """Confirm the answers of the ask before, once they are on the disk."""
        before, self._before = self._before, None
        if before is None:
            return
        collector, on_the_way = before
        if on_the_way.cancel():  # all threads fetch contributions
            _make_durable(collector)
        else:
            on_the_way.result()
        self._channel.settle(collector.unconfirmed)

    def rest(self, seconds: float) -> None:
        self._postponed.do()
        with self._connection.lock:
            self._confirm()
            late = [m for m in self._channel.receive(seconds) if isinstance(m.body, Result)]
            self._channel.settle(late)

    # -- after the last ---------------------------------------------------------

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        self._postponed.do()
        # what can't be synced is not confirmed, and goes with the job
        with self._connection.lock, suppress(OSError):
            self._confirm()
        self._pool.shutdown(wait=False, cancel_futures=True)
        release(
            self._connection,
            {
                party: EndMessage(
                    self._spec.id,
                    End(outcome=outcome, keep_states=states_at(keep_states, party)),
                    self._epoch,
                )
                for party in {party_of(node) for node in self._nodes}
            },
        )
        self._connection.repository.forget_keys(self._spec.id)
        if not self._spec.keep:
            try:
                self._connection.repository.end_job(self._spec.id)
            except RepositoryError as error:
                self._events.add("note", text=f"the hub keeps the job's objects until they expire: {error}")


def _make_durable(collector: Collector) -> None:
    """Bring the last answers of an ask to the disk, on a thread of the pool."""
    try:
        if collector.unconfirmed:
            collector.make_durable()
    finally:
        collector.close()
