"""The owner's hooks are told what happens to tasks, on a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.files import make_folder
from fedjob.common.lifecycle import State
from fedjob.node.config.config import NodeConfig
from fedjob.node.hooks import build_hooks
from fedjob.node.hooks.base import NodeEvent, NodeHook, TaskHandle
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import unpacked_result

MAX_QUEUED = 10_000
STOP_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class HookCalls:
    """Hands events to the hooks; the daemon never waits for them.

    Args:
        folder: for what hooks write.
        count: called with the name of a counter: `hook_events_lost`, `hooks_failed`.
    """

    def __init__(self, node: str, folder: Path, config: NodeConfig, count: Callable[[str], None]) -> None:
        self._node = node
        self._folder = folder
        self._count = count
        self._hooks: list[NodeHook] = []
        self._queue: queue.Queue[tuple[NodeEvent, TaskHandle] | None] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None
        self.configure(config)

    def configure(self, config: NodeConfig) -> None:
        """Tell the hooks that the owner has set from now on.

        Raises:
            ConfigError: the setting does not hold together; it goes on as before.
        """
        self._hooks = build_hooks(config.hooks, config.hook_options)
        if self._hooks and self._thread is None:
            make_folder(self._folder)
            self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._thread.start()

    def states(self, rows: list[TaskRow]) -> None:
        """Tell the states that tasks have just reached."""
        for row in rows if self._hooks else ():
            body: dict[str, Any] = {"state": str(row.state), "reason": row.reason, "worker": row.worker}
            if row.state == State.COMPLETED:
                body["num_examples"] = unpacked_result(row).num_examples
            self.event(row, "state", body)

    def event(self, row: TaskRow, type_: str, body: Mapping[str, Any]) -> None:
        """Tell what a task said."""
        if not self._hooks:
            return
        task = TaskHandle(
            key=row.key,
            job=row.job,
            job_name=row.job_name,
            project=row.project,
            researcher=row.researcher,
            dataset=row.dataset,
            round=row.round,
            step=row.step,
            state=str(row.state),
            node=self._node,
            folder=self._folder,
            parent=row.parent,
        )
        try:
            self._queue.put_nowait((NodeEvent(type=type_, time=time.time(), body=dict(body)), task))
        except queue.Full:
            self._count("hook_events_lost")

    def stop(self) -> None:
        """Let the hooks see what is there, for a while, and end."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._queue.put(None, timeout=STOP_WITHIN_S)
            self._thread.join(STOP_WITHIN_S)

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            for hook in self._hooks:
                try:
                    hook.event(*call)
                except Exception:  # hooks are the owner's code; tasks go on
                    log.exception("the hook %s failed", hook.name)
                    self._count("hooks_failed")
