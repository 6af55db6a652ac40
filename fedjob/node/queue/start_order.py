"""The order in which a node's tasks start: the queue of each step, for slots and resources that are free. Pure.

Tasks start in the order of arrival. Where several researchers wait, who has the
fewest tasks running goes first, then who was served longest ago. A task whose job
is at its limit, or whose resources are held by others, is passed over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fedjob.common.lifecycle import ACTIVE, State
from fedjob.node.queue import task_events as events
from fedjob.node.queue.allocation import need_of
from fedjob.node.queue.book import TaskRow, failed_input, inputs_ready
from fedjob.node.queue.draft import BookDraft


def schedule(draft: BookDraft) -> None:
    """Start what fits; see the module for the order."""
    _settle_children(draft)
    active = [row for row in draft.tasks.values() if row.state in ACTIVE and not row.waits]
    free = draft.book.slots - len(active)
    waiting = sorted((row for row in draft.tasks.values() if row.waits), key=lambda row: row.seq)
    for row in waiting:
        child = draft.tasks.get(row.waits)
        if free > 0 and row.computing and (child is None or child.finished):
            draft.put(replace(row, waits=""))
            draft.commands.append(events.SendOutcome(row.key, row.waits))
            active.append(row)
            free -= 1
    if free <= 0 or not draft.book.is_open:
        return
    ready = (r for r in draft.tasks.values() if r.state == State.QUEUED and inputs_ready(draft.tasks, r))
    queue = sorted(ready, key=lambda r: r.seq)
    if not queue:
        return
    per_job = Counter(row.job for row in active if not row.parent)
    per_place = Counter(_place(draft, row) for row in active)
    running = Counter(row.researcher for row in active)
    while free > 0:
        queue.sort(key=lambda r: (running[r.researcher], draft.turns.get(r.researcher, 0), r.seq))
        for row in queue:
            if (row.parent or per_job[row.job] < draft.book.per_job) and _starts(draft, row, per_place):
                break
        else:
            return
        queue.remove(row)
        counted = [(per_place, _place(draft, row)), (running, row.researcher)]
        for counter, name in counted if row.parent else [(per_job, row.job), *counted]:
            counter[name] += 1
        draft.turns[row.researcher] = 1 + max(draft.turns.values(), default=0)
        free -= 1


def _settle_children(draft: BookDraft) -> None:
    """End children that wait for a sibling in vain."""
    while True:
        lost = [
            (row, failed)
            for row in draft.tasks.values()
            if row.state == State.QUEUED and (failed := failed_input(draft.tasks, row)) is not None
        ]
        if not lost:
            return
        for row, failed in lost:
            draft.finish(row, State.CANCELLED, failed.reason or "not_needed", failed.detail)


def _place(draft: BookDraft, row: TaskRow) -> str:
    pool = row.resources.get("pool", "")
    return draft.ledger.capacity.place(pool) if isinstance(pool, str) else ""


def _starts(draft: BookDraft, row: TaskRow, per_place: Counter[str]) -> bool:
    """Start a task if its pool has a free worker and what it needs is free or held for it."""
    pools, place = draft.ledger.capacity.pools, _place(draft, row)
    limit = pools[place].workers if place else None
    if not place and pools:
        limit = draft.book.slots - sum(part.workers or 0 for part in pools.values())
    if limit is not None and per_place[place] >= limit:
        return False
    ledger = draft.ledger.take(row.job, row.researcher, need_of(row.resources))
    if ledger is None:
        return False
    draft.ledger = ledger
    draft.move(row, State.STARTING)
    draft.commands.append(events.Start(row.key))
    return True
