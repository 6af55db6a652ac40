"""The hub's health and metrics: `GET /healthz` for everybody, `GET /metrics` for whoever has the hub's metrics token.

The token is a file in the hub's home, because a hub behind a proxy sees everybody come from
loopback. Health names checks and whether they pass; metrics count, and name no party, job or object.
"""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedjob._version import __version__
from fedjob.common.errors import MissingPackage
from fedjob.common.telemetry.health import Health, free_bytes
from fedjob.common.telemetry.metrics import MetricFamily, by_label, counter, exposition, gauge
from fedjob.hub.server.connection_limits import RECEIVED_BYTES, SENT_BYTES
from fedjob.hub.storage.objects import ObjectStore

TOKEN_NAME = "metrics_token"
"""File in the hub's home with the token by which metrics are read."""

HEALTH_EVERY_S = 1.0
"""Health is looked at once in this time, however often it is asked for."""

BROKER_S = 2.0
"""For the broker to take a connection."""

_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
_OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSources:
    """What monitoring looks at beside the store.

    Args:
        token: by which metrics are read; empty: nobody reads them.
        broker_answers: whether the broker takes a connection.
        broker_restarts: how often the broker had to be started again.
        certificate: of the hub, a PEM file; None without TLS.
    """

    token: str = field(default="", repr=False)
    broker_answers: Callable[[], Awaitable[bool]] | None = None
    broker_restarts: Callable[[], int] = lambda: 0
    certificate: Path | None = None


async def takes_connection(connect: Callable[[], Awaitable[tuple[object, asyncio.StreamWriter]]]) -> bool:
    """Tell whether a connection can be made; it is closed at once."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(BROKER_S):
            _, writer = await connect()
        writer.close()
        return True
    return False


class RequestCounter:
    """Requests of an application by method, path and status; the paths are those of its routes.

    Args:
        paths: that have a count of their own.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str]) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.received_bytes = self.sent_bytes = self.num_websockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            self.num_websockets += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self.num_websockets -= 1
            return
        status, began = 0, time.monotonic()

        async def counted_receive() -> Message:
            message = await receive()
            self.received_bytes += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            self.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            self.sent_bytes += scope.get(SENT_BYTES, 0)
            self.received_bytes += scope.get(RECEIVED_BYTES, 0)
            path = first_part(str(scope.get("path", "")))
            path = path if path in self._paths else _OTHER
            method = scope.get("method", "")
            kind = f"{status // 100}xx" if status else "none"
            self.requests[method if method in _METHODS else _OTHER, path, kind] += 1
            self.seconds[path] += time.monotonic() - began

    def families(self) -> Iterator[MetricFamily]:
        """Yield what was counted."""
        yield MetricFamily(
            "fedjob_hub_http_requests_total",
            "counter",
            "Requests by method, beginning of the path, and status.",
            {(("method", m), ("path", p), ("status", s)): n for (m, p, s), n in self.requests.items()},
        )
        yield by_label(
            "counter",
            "fedjob_hub_http_request_seconds_total",
            "Seconds that requests took, by beginning of the path.",
            "path",
            self.seconds,
        )
        for direction, count in (("received", self.received_bytes), ("sent", self.sent_bytes)):
            yield counter(
                f"fedjob_hub_http_{direction}_bytes_total", f"Bytes of bodies that were {direction}.", count
            )
        yield gauge(
            "fedjob_hub_broker_sessions",
            "Connections to the broker through the hub's own port.",
            self.num_websockets,
        )


def first_part(path: str) -> str:
    """Return the part of a path that requests are counted by: `/v1/objects` of `/v1/objects/ab12`."""
    return "/".join(path.split("/")[:3])


class Monitoring:
    """The two pages of one hub."""

    def __init__(self, store: ObjectStore, sources: MonitoringSources, pool: Executor) -> None:
        self._store = store
        self._sources = sources
        self._pool = pool
        self._looked_at = 0.0
        self._health = Health({})
        self._looking = asyncio.Lock()
        self._requests: RequestCounter | None = None

    def routes(self, wrap: Callable[[Callable[[Request], Awaitable[Response]]], ASGIApp]) -> list[Route]:
        """Return both routes."""
        return [
            Route("/healthz", wrap(self._healthz), methods=["GET"]),
            Route("/metrics", wrap(self._metrics), methods=["GET"]),
        ]

    def counted(self, app: ASGIApp, paths: Iterable[str]) -> ASGIApp:
        """Return an application whose requests are counted."""
        self._requests = RequestCounter(app, {first_part(path) for path in paths})
        return self._requests

    async def health(self) -> Health:
        """Return the outcome of the checks, at most `HEALTH_EVERY_S` old."""
        async with self._looking:
            if time.monotonic() - self._looked_at > HEALTH_EVERY_S:
                checks = await asyncio.get_running_loop().run_in_executor(self._pool, self._checks)
                if self._sources.broker_answers is not None:
                    checks["broker"] = await self._sources.broker_answers()
                self._health, self._looked_at = Health(checks), time.monotonic()
            return self._health

    def _checks(self) -> dict[str, bool]:
        database = False
        with suppress(sqlite3.Error):
            self._store.ledger.read("SELECT count(*) FROM facts")
            database = self._store.ledger.is_there
        free = free_bytes(self._store.folder)
        return {"database": database, "disk": free > 0 and free >= self._store.limits.reserve_bytes}

    async def _healthz(self, request: Request) -> Response:
        health = await self.health()
        return Response(health.to_json(), health.status, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        expected = self._sources.token
        if (
            not expected
            or kind.lower() != "bearer"
            or not hmac.compare_digest(token.encode(), expected.encode())
        ):
            text = f"expected the hub's metrics token, which lies in its home in {TOKEN_NAME}\n"
            return Response(text, 401, {"WWW-Authenticate": "Bearer"}, media_type="text/plain")
        health = await self.health()
        counted = [] if self._requests is None else list(self._requests.families())
        loop = asyncio.get_running_loop()
        try:
            content, type_ = await loop.run_in_executor(
                self._pool, lambda: exposition([*self._families(health), *counted])
            )
        except MissingPackage as error:
            return Response(f"{error}\n", 501, media_type="text/plain")
        return Response(content, headers={"Content-Type": type_})

    def _families(self, health: Health) -> Iterator[MetricFamily]:
        ledger, sources = self._store.ledger, self._sources
        yield MetricFamily(
            "fedjob_hub_info",
            "gauge",
            "The hub's version; its value is 1.",
            {(("version", __version__),): 1.0},
        )
        yield health.metric("fedjob_hub_healthy")
        roles = ledger.read("SELECT role, count(*) FROM parties WHERE NOT revoked GROUP BY role")
        enrolled = {"node": 0.0, "researcher": 0.0} | {str(role): float(count) for role, count in roles}
        yield by_label(
            "gauge", "fedjob_hub_parties", "Parties that are enrolled and not revoked.", "role", enrolled
        )
        count, size = self._store.totals()
        yield gauge("fedjob_hub_objects", "Objects that are stored.", count)
        yield gauge("fedjob_hub_objects_bytes", "Bytes of the objects that are stored.", size)
        jobs = ledger.read("SELECT count(DISTINCT job) FROM leases")[0][0]
        yield gauge("fedjob_hub_jobs", "Jobs that hold objects.", jobs)
        yield gauge(
            "fedjob_hub_disk_free_bytes",
            "Free bytes of the disk of the objects.",
            free_bytes(self._store.folder),
        )
        yield counter(
            "fedjob_hub_broker_restarts_total",
            "Times that the broker was started again.",
            sources.broker_restarts(),
        )
        if sources.certificate is not None and (ends := _expiry(sources.certificate)) is not None:
            yield gauge(
                "fedjob_hub_certificate_expiry_timestamp_seconds",
                "When the hub's certificate expires, seconds since 1970.",
                ends.timestamp(),
            )


def _expiry(certificate: Path) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
