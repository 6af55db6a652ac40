"""The hub's HTTP application: enrolment, the list of parties, and the repository."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedjob.common.errors import (
    DecodeError,
    FedjobError,
    NoSpace,
    NotPermitted,
    ObjectCorrupt,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    SpecError,
)
from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.server.bodies import ClientGone, TooSlow, chunks, drain
from fedjob.hub.server.broker_relay import BrokerRelay
from fedjob.hub.server.connection_limits import ABORT
from fedjob.hub.server.objects import Handler, Objects
from fedjob.hub.server.watches import WatchFrames
from fedjob.hub.storage.objects import ObjectStore
from fedjob.hub.storage.parties import Member, Parties
from fedjob.identity.loopback import proof_of
from fedjob.identity.membership import BROKER_PATH, broker_password

MAX_ENROLMENT_BYTES = 16 << 10
NUM_THREADS = 8
UNKNOWN_BODY_BYTES = 1 << 20
"""Bytes read of an unknown sender's body before the response; of a party's body, a whole object is read."""

_STATUS: tuple[tuple[type[FedjobError], int], ...] = (
    (ObjectMissing, 404),
    (ObjectTooLarge, 413),
    (ObjectCorrupt, 422),
    (NoSpace, 507),
    (NotPermitted, 403),
    (TooSlow, 408),
    (SpecError, 400),
    (DecodeError, 400),
    (RepositoryError, 503),
    (FedjobError, 400),
)
_log = logging.getLogger("fedjob.hub")


class Unknown(NotPermitted):
    """The request carries no token, or one that belongs to no party."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker's address, for `GET /v1/hub`; its URL is empty where the hub's own port is the only way to it."""

    url: str
    kind: str
    version: str = ""


class HubApp:
    """The hub's HTTP application.

    Args:
        federation: the federation's name.
        broker: returns the broker's present address.
        admit: called after an enrolment; returns once the broker accepts the new party.
        loopback: the secret by which the hub's own user enrols without an invitation, and its file; None to enrol
            nobody without one.
        read_urls: URLs of other servers of the same objects.
        broker_port: the broker on this machine to which `/mqtt` leads; None for none.
        direct: parties fetch objects from the bucket where they lie, by a signed URL.
    """

    def __init__(
        self,
        federation: str,
        parties: Parties,
        store: ObjectStore,
        *,
        broker: Callable[[], Broker],
        admit: Callable[[str, str], Awaitable[None]] | None = None,
        loopback: tuple[str, Path] | None = None,
        read_urls: tuple[str, ...] = (),
        broker_port: BrokerPort | None = None,
        direct: bool = False,
    ) -> None:
        self._direct = direct
        self._relay = None if broker_port is None else BrokerRelay(broker_port, store.limits.num_sessions)
        self._federation = federation
        self._parties = parties
        self._store = store
        self._broker = broker
        self._admit = admit
        self._loopback = loopback
        self._read_urls = read_urls
        self._listed: tuple[list[Member], bytes] = ([], b"[]")
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="fedjob-hub")

    def app(self) -> Starlette:
        """Return the ASGI application."""
        objects = Objects(self._store, self._authenticate, self._pool, direct=self._direct)
        watching = WatchFrames(self._store.ledger, self._store.limits, self._authenticate)
        relay = [] if self._relay is None else [WebSocketRoute(BROKER_PATH, self._relay.carry)]
        return Starlette(
            routes=[
                *relay,
                Route("/v1/hub", self._wrap(self._hub), methods=["GET"]),
                Route("/v1/parties", self._wrap(self._list), methods=["GET"]),
                Route("/v1/parties", self._wrap(self._enrol), methods=["POST"]),
                *objects.routes(self._wrap),
                *watching.routes(self._wrap),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def _hub(self, request: Request) -> Response:
        broker = self._broker()
        return JSONResponse(
            {
                "federation": self._federation,
                "time": time.time(),
                "version": version("fedjob"),
                "broker": {"url": broker.url, "kind": broker.kind, "version": broker.version},
                "read_urls": list(self._read_urls),
                "secret_file": "" if self._loopback is None else str(self._loopback[1]),
            }
        )

    async def _list(self, request: Request) -> Response:
        self._authenticate(request)
        members, body = self._listed
        if (found := self._parties.all()) is not members:
            rows = [{"party": m.party, "role": m.role, "key": m.key, "revoked": m.revoked} for m in found]
            body = json.dumps(rows, separators=(",", ":")).encode()
            self._listed = found, body
        return Response(body, media_type="application/json")

    async def _enrol(self, request: Request) -> Response:
        parts = chunks(request.receive, self._store.limits, limit_bytes=MAX_ENROLMENT_BYTES)
        party, role, key, token, code, proof = _wanted(b"".join([part async for part in parts]))
        if "origin" in request.headers:
            raise NotPermitted("a page in a browser enrols nobody")
        own = self._loopback is not None and hmac.compare_digest(
            proof, proof_of(self._loopback[0], party, role, key, token)
        )
        invited_only = not own
        await asyncio.get_running_loop().run_in_executor(
            self._pool,
            lambda: self._parties.enrol(party, role, key, token, code=code, invited_only=invited_only),
        )
        if self._admit is not None:
            await self._admit(party, token)
        answer = {
            "federation": self._federation,
            "token": token,
            "broker_user": party,
            "broker_password": broker_password(token),
        }
        return JSONResponse(answer, status_code=201)

    def _authenticate(self, request: Request) -> Member:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        member = self._parties.by_token(token) if kind.lower() == "bearer" and token else None
        if member is None:
            raise Unknown("expected the token of a party of this federation: enrol, or ask the hub's owner")
        return member

    def _wrap(self, handler: Handler) -> ASGIApp:
        return _Answers(handler, self._store)


class _Body:
    """A request's body that records its end: a read after it would wait for the connection to close."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body", False)
        return message


class _Answers:
    """A handler whose errors become responses, and which reads the rest of a body before it responds."""

    def __init__(self, handler: Handler, store: ObjectStore) -> None:
        self._handler = handler
        self._limits = store.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive)
        request = Request(scope, body.receive)
        try:
            response = await self._handler(request)
        except ClientGone:
            return
        except FedjobError as error:
            status = (
                401 if isinstance(error, Unknown) else next(s for k, s in _STATUS if isinstance(error, k))
            )
            response = await self._refuse(body, status, str(error))
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            response = await self._refuse(body, 500, "the hub failed; see its log")
        try:
            await response(scope, receive, send)
        except ClientGone:
            if (abort := scope.get(ABORT)) is not None:
                abort()

    async def _refuse(self, body: _Body, status: int, message: str) -> Response:
        if not body.ended and status != 408:
            known = self._limits.object_bytes if status != 401 else UNKNOWN_BODY_BYTES
            await drain(body.receive, self._limits, limit_bytes=known)
        headers = {} if body.ended else {"Connection": "close"}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": message}, status_code=status, headers=headers)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return JSONResponse({"error": "the hub has no such path"}, status_code=status)


def _wanted(body: bytes) -> tuple[str, str, str, str, str | None, str]:
    try:
        wanted: Any = json.loads(body)
    except (ValueError, RecursionError):
        wanted = None
    match wanted:
        case {"party": str(party), "role": str(role), "key": str(key), **more}:
            token, code = more.get("token", secrets.token_hex(32)), more.get("invite")
            proof = more.get("proof", "")
            if isinstance(token, str) and (code is None or isinstance(code, str)) and _is_ascii(proof):
                return party, role, key, token, code, proof
    raise SpecError("expected JSON with party, role, key and perhaps invite and token")


def _is_ascii(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isascii()
