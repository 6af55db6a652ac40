"""The stream of what changes on a page that is open: parts of it, drawn anew by the server, as server-sent events."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import FedjobError
from fedjob.researcher.page.desk import ResearcherDesk
from fedjob.researcher.page.job_facts import look_at
from fedjob.researcher.page.views import ResearcherViews
from fedjob.researcher.storage.folder import JobFolder

MAX_STREAMS = 24
"""Streams that are open at once; further pages show what they showed when they were opened."""

STREAM_S = 30 * 60.0
"""Seconds after which a stream ends; the browser opens another one."""

LOOK_S = 1.0
LIST_LOOK_S = 2.0
STILL_S = 15.0
"""Between two signs of life."""

LIST_PARTS = ("jobs_live",)
JOB_PARTS = ("job_state", "job_now", "job_metrics", "job_times", "job_nodes", "job_events")
STATE_PARTS = ("job_state",)
LOG_PARTS = ("job_state", "log_live")

Draw = Callable[[], dict[str, str]]


class LiveStreams:
    """The open streams of one page.

    Attributes:
        is_over: returns whether the page ends: no stream may hold it up.
    """

    def __init__(
        self, desk: ResearcherDesk, views: ResearcherViews, is_open: Callable[[Request], bool]
    ) -> None:
        self._desk = desk
        self._views = views
        self._is_open = is_open
        self._num_streams = 0
        self.is_over: Callable[[], bool] = lambda: False

    def routes(self) -> list[BaseRoute]:
        """Return the addresses of the streams."""
        return [
            Route("/live", self._list, methods=["GET"]),
            Route("/jobs/{id}/live", self._job, methods=["GET"]),
            Route("/jobs/{id}/state/live", self._state, methods=["GET"]),
            Route("/jobs/{id}/log/live", self._log, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        def draw() -> dict[str, str]:
            return self._parts(request, LIST_PARTS, self._views.list_facts(request))

        return self._stream(request, draw, None, LIST_LOOK_S)

    async def _job(self, request: Request) -> Response:
        return self._of_job(
            request,
            lambda folder: self._parts(request, JOB_PARTS, self._views.job_facts(request, look_at(folder))),
        )

    async def _state(self, request: Request) -> Response:
        return self._of_job(
            request,
            lambda folder: self._parts(request, STATE_PARTS, self._views.head_facts(look_at(folder), "")),
        )

    async def _log(self, request: Request) -> Response:
        return self._of_job(
            request,
            lambda folder: self._parts(request, LOG_PARTS, self._views.log_facts(request, look_at(folder))),
        )

    def _of_job(self, request: Request, draw: Callable[[JobFolder], dict[str, str]]) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return PlainTextResponse("There is nothing at this address.\n", status_code=404)
        return self._stream(request, lambda: draw(folder), folder, LOOK_S)

    def _parts(self, request: Request, names: tuple[str, ...], about: Mapping[str, Any]) -> dict[str, str]:
        environment = self._desk.templates.environment
        csrf = request.state.session.csrf
        return {
            name: environment.get_template(f"{name}.html").render(csrf=csrf, here=request.url.path, **about)
            for name in names
        }

    def _stream(self, request: Request, draw: Draw, folder: JobFolder | None, every_s: float) -> Response:
        if self._num_streams >= MAX_STREAMS:
            return PlainTextResponse(
                "Too many pages are open.\n", status_code=429, headers={"retry-after": "30"}
            )
        body = self._changes(request, draw, folder, every_s)
        return StreamingResponse(body, media_type="text/event-stream")

    async def _changes(
        self, request: Request, draw: Draw, folder: JobFolder | None, every_s: float
    ) -> AsyncIterator[str]:
        """Yield the parts that differ from those before, until the page, the session or the time is over."""
        self._num_streams += 1
        began = sent_at = time.monotonic()
        sent: dict[str, str] = {}
        stamp: Any = ()
        try:
            yield "retry: 3000\n\n"
            while not self.is_over() and self._is_open(request) and time.monotonic() - began < STREAM_S:
                found = _stamp(folder)
                # what stands still may have lost its runner: it is looked at now and then
                if found != stamp or folder is None or time.monotonic() - sent_at >= STILL_S:
                    stamp = found
                    try:
                        drawn = await run_in_threadpool(draw)
                    except (FedjobError, OSError):  # it was deleted, or is being written: the next look tells
                        drawn = {}
                    changed = {name: text for name, text in drawn.items() if sent.get(name) != _digest(text)}
                    sent |= {name: _digest(text) for name, text in changed.items()}
                    if changed or time.monotonic() - sent_at >= STILL_S:
                        sent_at = time.monotonic()
                        yield f"event: parts\ndata: {json.dumps(changed)}\n\n"
                await asyncio.sleep(every_s)
        finally:
            self._num_streams -= 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _stamp(folder: JobFolder | None) -> Any:
    """Return what changes when a job's folder says something new."""
    if folder is None:
        return None
    found = []
    for path in (folder.events, folder.record, folder.breakpoints, folder.replies, folder.result):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_mtime_ns, stat.st_size))
    return found
