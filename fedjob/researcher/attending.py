"""What attends every run of a job besides the hooks that its researcher chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedjob.researcher.hooks.counting import Counting
from fedjob.researcher.hooks.publishing import Publishing
from fedjob.researcher.hooks.telling import Telling

if TYPE_CHECKING:
    from fedjob.researcher.connection import Connection
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.looking import Looking


def attendants(job: Looking, session: Connection | None, note: Callable[[str], object]) -> tuple[Hook, ...]:
    """Return the hooks that tell handlers, count messages, and publish to watchers.

    Args:
        session: None for a local job.
        note: adds a note to the job's events.
    """
    telling = Telling(job, note)
    if session is None:
        return (telling,)
    counting = Counting(session.endpoint.traffic)
    if not job.spec.watchers:
        return telling, counting
    return telling, counting, Publishing(session, job.spec)
