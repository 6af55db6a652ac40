"""The HTTP route `/v1/jobs/<id>/watch`, by which a job's owner shows its progress to other researchers.

The owner puts a small signed frame there, which names the objects that hold the job's events.
Frame and objects are held by the job `<id>.watch`, so that they outlive the job's end until
its owner deletes it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedjob.common.errors import DecodeError, NotPermitted, ObjectMissing
from fedjob.common.types import MAX_FRAME_BYTES, check_party
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.bodies import chunks
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Member
from fedjob.messaging.frame import decode_frame
from fedjob.repository.base import check_job, watch_job

if TYPE_CHECKING:
    from fedjob.hub.server.objects import Authenticate, Handler


class WatchFrames:
    """The store of one watch frame per job.

    Args:
        authenticate: returns the party that sent a request, or raises NotPermitted.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        ledger: HubDatabase,
        limits: HubLimits,
        authenticate: Authenticate,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._authenticate = authenticate
        self._clock = clock

    def routes(self, wrap: Callable[[Handler], ASGIApp]) -> list[Route]:
        """Return the routes; `wrap` turns errors into responses."""
        return [Route("/v1/jobs/{job}/watch", wrap(self.watch), methods=["PUT", "GET"])]

    async def watch(self, request: Request) -> Response:
        """Store the owner's frame, or return it to one of its readers."""
        member = self._authenticate(request)
        job = check_job(request.path_params["job"])
        if request.method == "GET":
            frame, put = self._find(job, member.party)
            age_s = max(0.0, self._clock() - put)
            return Response(
                frame, media_type="application/octet-stream", headers={"X-Fedjob-Age": f"{age_s:.3f}"}
            )
        body = chunks(request.receive, self._limits, limit_bytes=MAX_FRAME_BYTES)
        frame = b"".join([part async for part in body])
        _check_frame(frame, member)
        named = request.headers.get("x-fedjob-readers", "")
        readers = sorted({check_party(name.strip()) for name in named.split(",")}) if named else []
        await asyncio.wrap_future(
            self._ledger.submit(lambda db: self._put(db, job, member, ",".join(readers), frame))
        )
        return Response(status_code=204)

    def _find(self, job: str, party: str) -> tuple[bytes, float]:
        rows = self._ledger.read("SELECT owner, readers, frame, put FROM watches WHERE job = ?", (job,))
        if not rows:
            raise ObjectMissing("its owner shows nothing of that job")
        owner, readers, frame, put = rows[0]
        if party != owner and party not in readers.split(","):
            raise NotPermitted(f"{party} is not among the job's watchers")
        return frame, put

    def _put(self, db: sqlite3.Connection, job: str, member: Member, readers: str, frame: bytes) -> None:
        for holder in (job, watch_job(job)):
            row = db.execute("SELECT owner FROM jobs WHERE job = ?", (holder,)).fetchone()
            if row is not None and row[0] not in (None, member.party):
                raise NotPermitted(f"{job} belongs to another researcher")
        (shown,) = db.execute(
            "SELECT count(*) FROM watches WHERE owner = ? AND job != ?", (member.party, job)
        ).fetchone()
        if shown >= self._limits.party_watches:
            raise NotPermitted(
                f"{member.party} shows {shown} jobs to others, as many as it may (party_watches): delete one of them first"
            )
        now = self._clock()
        db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", (watch_job(job), member.party, now))
        db.execute(
            "INSERT OR REPLACE INTO watches VALUES (?, ?, ?, ?, ?)", (job, member.party, readers, frame, now)
        )


def _check_frame(data: bytes, member: Member) -> None:
    """Refuse a frame that its sender did not sign, because readers would refuse it too."""
    if member.role != "researcher":
        raise NotPermitted("only a researcher may show a job to others")
    frame = decode_frame(data)
    if frame.sender != member.party or not frame.signed_by(member.key):
        raise DecodeError(f"expected a frame signed by {member.party}")
