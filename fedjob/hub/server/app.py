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
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
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
from fedjob.hub.broker.gate import BrokerGate
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Refusals
from fedjob.hub.server import broker_rights, openapi
from fedjob.hub.server.bodies import TooSlow, chunks, drain
from fedjob.hub.server.broker_relay import BrokerRelay
from fedjob.hub.server.client_certificates import CERTIFICATE, ClientCertificates
from fedjob.hub.server.connection_limits import ABORT, PROTECT, ClientGone
from fedjob.hub.server.monitoring import Monitoring, MonitoringSources
from fedjob.hub.server.objects import Handler, Objects
from fedjob.hub.server.party_rows import PartyRows
from fedjob.hub.server.query import query_of
from fedjob.hub.server.request_limits import RequestLimits, TooMany, address_of, check_once
from fedjob.hub.server.rosters import RosterRoutes
from fedjob.hub.server.running_requests import RunningRequests
from fedjob.hub.server.watches import WatchFrames
from fedjob.hub.storage.objects import ObjectStore
from fedjob.hub.storage.parties import Member, Parties
from fedjob.hub.storage.rosters import RosterBook
from fedjob.identity.keys import PublicKeys
from fedjob.identity.loopback import proof_of
from fedjob.identity.membership import BROKER_PATH, broker_password
from fedjob.identity.party_list import MARK, check_mark

MAX_ENROLMENT_BYTES = 16 << 10
NUM_THREADS = 8
UNKNOWN_BODY_BYTES = 1 << 20
"""Bytes read of an unknown sender's body before the response; of a party's body, a whole object is read."""

UNKNOWN_BODY_S = 5.0
"""For those bytes to come: an unknown sender holds a connection no longer than that."""

_MEMBER = "fedjob.member"
"""Key in a request's ASGI scope: the party that sent it, or None."""

_WHY = "fedjob.why"
"""Key in a request's ASGI scope: why its sender is a stranger."""

_UNKNOWN = "expected the token of a party of this federation: enrol, or ask the hub's owner"

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
    """The request carries no token, or one that belongs to no party, or not the certificate that goes with it."""


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
        gate: of the broker to which `/mqtt` leads; None for none.
        certificates: that parties show besides their tokens; None to ask for none.
        refusals: the counts of what is refused.
        proxies: addresses of web servers before the hub, whose X-Forwarded-For is believed.
        monitoring: what health and metrics look at beside the store.
        broker_key: by which a RabbitMQ asks for the rights of parties; None where none does.
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
        gate: BrokerGate | None = None,
        certificates: ClientCertificates | None = None,
        refusals: Refusals | None = None,
        proxies: tuple[str, ...] = (),
        monitoring: MonitoringSources | None = None,
        broker_key: broker_rights.BrokerKey | None = None,
        direct: bool = False,
    ) -> None:
        self._direct = direct
        self._limits = RequestLimits(store.limits, refusals or Refusals())
        self._proxies = proxies
        self._running = RunningRequests()
        self._relay = None if gate is None else BrokerRelay(gate, self._address_of)
        self._certificates = certificates
        self._broker_key = broker_key
        self._federation = federation
        self._parties = parties
        self._store = store
        self._book = RosterBook(store.ledger)
        self._broker = broker
        self._admit = admit
        self._loopback = loopback
        self._read_urls = read_urls
        self._description: dict[str, Any] = {}
        self._rows = PartyRows(parties)
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="fedjob-hub")
        self._monitoring = Monitoring(store, monitoring or MonitoringSources(), self._pool)

    def app(self) -> ASGIApp:
        """Return the ASGI application."""
        routes = self.routes()
        self._description = openapi.document(routes)
        starlette = Starlette(
            routes=routes,
            exception_handlers={404: self._not_found, 405: self._not_found},
        )
        return self._monitoring.counted(starlette, [getattr(route, "path", "") for route in routes])

    def routes(self) -> list[BaseRoute]:
        """Return what the application has."""
        objects = Objects(self._store, self._authenticate, self._pool, direct=self._direct)
        rosters = RosterRoutes(self._book, self._parties, self._store.limits, self._authenticate, self._pool)
        watching = WatchFrames(self._store.ledger, self._store.limits, self._authenticate)
        rights = broker_rights.BrokerRights(
            self._parties, self._store.limits, self._broker_key, self._wrap(self._no_broker)
        )
        relay = [] if self._relay is None else [WebSocketRoute(BROKER_PATH, self._relay.carry)]
        return [
            *relay,
            Route(openapi.PATH, self._wrap(self._openapi), methods=["GET"]),
            Route("/v1/hub", self._wrap(self._hub), methods=["GET"]),
            Route("/v1/parties", self._wrap(self._list), methods=["GET"]),
            Route("/v1/parties", self._wrap(self._enrol), methods=["POST"]),
            Route("/v1/certificate", self._wrap(self._certify), methods=["POST"]),
            Route(broker_rights.PATH, rights, methods=["POST"]),
            *rosters.routes(self._wrap),
            *objects.routes(self._wrap),
            *watching.routes(self._wrap),
            *self._monitoring.routes(self._wrap),
        ]

    async def end_revoked(self) -> None:
        """End the transfers of those who are no members any more, or enrolled anew."""
        members = await asyncio.get_running_loop().run_in_executor(self._pool, self._parties.all)
        self._running.end_revoked(members)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def _not_found(self, request: Request, error: Exception) -> Response:
        try:
            async with self._limits.turn(self._member(request), self._address_of(request), 0):
                status = getattr(error, "status_code", 404)
                allowed = getattr(error, "headers", None)
                return JSONResponse(
                    {"error": "the hub has no such path"}, status_code=status, headers=allowed
                )
        except TooMany as refused:
            return _too_many(refused)

    async def _hub(self, request: Request) -> Response:
        broker = self._broker()
        keys = self._book.first_keys
        return JSONResponse(
            {
                "federation": self._federation,
                "time": time.time(),
                "version": version("fedjob"),
                "broker": {"url": broker.url, "kind": broker.kind, "version": broker.version},
                "read_urls": list(self._read_urls),
                "keys": None if keys is None else keys.to_plain(),
                "secret_file": "" if self._loopback is None else str(self._loopback[1]),
                "certificates": {} if self._certificates is None else self._certificates.facts,
            }
        )

    async def _list(self, request: Request) -> Response:
        self._authenticate(request)
        mark, body = self._rows.answer(check_mark(query_of(request, "after").get("after")))
        return Response(body, media_type="application/json", headers={MARK: mark})

    async def _enrol(self, request: Request) -> Response:
        parts = chunks(request.receive, self._store.limits, limit_bytes=MAX_ENROLMENT_BYTES)
        party, role, keys, token, code, proof = _wanted(b"".join([part async for part in parts]))
        if "origin" in request.headers:
            raise NotPermitted("a page in a browser enrols nobody")
        own = self._loopback is not None and hmac.compare_digest(
            proof, proof_of(self._loopback[0], party, role, keys.signing, token)
        )
        if self._certificates is not None and not self._certificates.authority.is_own:
            self._certificates.check_named(request.scope.get(CERTIFICATE), party)
        invited_only = not own
        await asyncio.get_running_loop().run_in_executor(
            self._pool,
            lambda: self._parties.enrol(party, role, keys, token, code=code, invited_only=invited_only),
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

    async def _certify(self, request: Request) -> Response:
        member = self._by_token(request)
        if self._certificates is None:
            raise SpecError("this hub issues no certificates: it has no TLS, so that no party could show one")
        parts = chunks(request.receive, self._store.limits, limit_bytes=MAX_ENROLMENT_BYTES)
        try:
            wanted: Any = json.loads(b"".join([part async for part in parts]))
        except (ValueError, RecursionError):
            wanted = None
        pem, key_hash = self._certificates.issue(wanted, member.party, member.key)

        def note() -> None:
            self._book.check_certificate(member, key_hash)
            self._parties.certified(member.party, member.key, key_hash)

        await asyncio.get_running_loop().run_in_executor(self._pool, note)
        return JSONResponse({"certificate": pem}, status_code=201)

    async def _no_broker(self, request: Request) -> Response:
        raise Unknown(broker_rights.WRONG_SECRET)

    def _authenticate(self, request: Request) -> Member:
        member: Member | None = request.scope[_MEMBER]
        if member is None:
            raise Unknown(request.scope[_WHY])
        return member

    def _by_token(self, request: Request) -> Member:
        """Return the party whose token came, with its certificate or without: it may be about to get one."""
        member = self._member(request, with_certificate=False)
        if member is None:
            raise Unknown(request.scope[_WHY])
        return member

    def _member(self, request: Request, *, with_certificate: bool = True) -> Member | None:
        """Return the party that sent a request; None, and why in its scope, for a stranger."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        member = self._parties.by_token(token) if kind.lower() == "bearer" and token else None
        request.scope[_WHY] = _UNKNOWN if member is not None or not token else self._why_unknown(token)
        if member is not None and with_certificate and self._certificates is not None:
            try:
                self._certificates.check(request, member)
            except NotPermitted as error:
                request.scope[_WHY] = str(error)
                return None
        return member

    def _address_of(self, connection: HTTPConnection) -> str:
        return address_of(connection, self._proxies)

    def _why_unknown(self, token: str) -> str:
        if not (party := self._parties.revoked_by_token(token)):
            return _UNKNOWN
        pin = self._book.pin()
        signer = "" if pin is None else f"{pin.keys.signer}, and "
        return f"{party} was revoked: ask {signer}the hub's owner for `fedjob hub invite {party}`"

    def _wrap(self, handler: Handler) -> ASGIApp:
        return _Answers(
            handler, self._store.limits, self._limits, self._member, self._address_of, self._running
        )


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

    def __init__(
        self,
        handler: Handler,
        limits: HubLimits,
        request_limits: RequestLimits,
        member_of: Callable[[Request], Member | None],
        address_of: Callable[[HTTPConnection], str],
        running: RunningRequests,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._request_limits = request_limits
        self._member_of = member_of
        self._address_of = address_of
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive)
        request = Request(scope, body.receive)
        member = scope[_MEMBER] = self._member_of(request)
        if member is not None and (protect := scope.get(PROTECT)) is not None:
            protect()
        num_readers = request.headers.get("x-fedjob-readers", "").count(",")
        address = self._address_of(request)
        try:
            with self._running.of(member, scope.get(ABORT)):
                async with self._request_limits.turn(member, address, num_readers):
                    response = await self._response(request, body, member, address)
                    await response(scope, receive, send)
        except TooMany as refused:
            response = await self._refuse(body, 429, str(refused), is_known=member is not None)
            response.headers["Retry-After"] = str(refused.after_s)
            await response(scope, receive, send)
        except ClientGone:
            if (abort := scope.get(ABORT)) is not None:
                abort()
                await asyncio.sleep(
                    0
                )  # the connection is known to be lost before this ends without an answer

    async def _response(
        self, request: Request, body: _Body, member: Member | None, address: str
    ) -> Response | ASGIApp:
        try:
            check_once(request)
            return await self._handler(request)
        except (ClientGone, TooMany):
            raise
        except FedjobError as error:
            status = (
                401 if isinstance(error, Unknown) else next(s for k, s in _STATUS if isinstance(error, k))
            )
            if member is None and status in (401, 403):
                self._request_limits.wrong(address, "token" if status == 401 else "enrolment")
            return await self._refuse(body, status, str(error), is_known=member is not None)
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            return await self._refuse(body, 500, "the hub failed; see its log", is_known=member is not None)

    async def _refuse(self, body: _Body, status: int, message: str, *, is_known: bool) -> Response:
        """Return a refusal, after the rest of the body: many clients read it only after they have sent all."""
        if not body.ended and status != 408:
            limit_bytes = self._limits.object_bytes if is_known else UNKNOWN_BODY_BYTES
            with suppress(TimeoutError):
                async with asyncio.timeout(None if is_known else UNKNOWN_BODY_S):
                    await drain(body.receive, self._limits, limit_bytes=limit_bytes)
        headers = {} if body.ended else {"Connection": "close"}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": message}, status_code=status, headers=headers)


def _too_many(refused: TooMany) -> Response:
    after = {"Retry-After": str(refused.after_s)}
    return JSONResponse({"error": str(refused)}, status_code=429, headers=after)


def _wanted(body: bytes) -> tuple[str, str, PublicKeys, str, str | None, str]:
    try:
        wanted: Any = json.loads(body)
    except (ValueError, RecursionError):
        wanted = None
    match wanted:
        case {
            "party": str(party),
            "role": str(role),
            "key": str(key),
            "sealing": str(sealing),
            "binding": str(binding),
            **more,
        }:
            token, code = more.get("token", secrets.token_hex(32)), more.get("invite")
            proof = more.get("proof", "")
            if isinstance(token, str) and (code is None or isinstance(code, str)) and _is_ascii(proof):
                return party, role, PublicKeys(key, sealing, binding), token, code, proof
    raise SpecError("expected JSON with party, role, key, sealing, binding and perhaps invite and token")


def _is_ascii(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isascii()
