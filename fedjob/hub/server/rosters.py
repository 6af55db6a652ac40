"""The hub's paths for the signed roster: parties fetch it, signers bring it, a party brings its new keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedjob.common.errors import NotPermitted, SpecError
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.bodies import chunks
from fedjob.hub.server.objects import Handler
from fedjob.hub.server.query import query_of
from fedjob.hub.storage.parties import Member, Parties
from fedjob.hub.storage.rosters import RosterBook
from fedjob.identity.statements.federation_keys import KEYS_KIND
from fedjob.identity.statements.request_proof import SCHEME, check_proof
from fedjob.identity.statements.roster_statement import ROSTER_KIND
from fedjob.identity.statements.signed import MAX_STATEMENT_BYTES

_MAX_SUCCESSION_BYTES = 64 << 10


class RosterRoutes:
    """The handlers of the roster.

    Args:
        authenticate: returns the party that a request comes from, or raises.
        pool: on which the ledger is used.
    """

    def __init__(
        self,
        book: RosterBook,
        parties: Parties,
        limits: HubLimits,
        authenticate: Callable[[Request], Member],
        pool: Executor,
    ) -> None:
        self._book = book
        self._parties = parties
        self._limits = limits
        self._authenticate = authenticate
        self._pool = pool

    def routes(self, wrap: Callable[[Handler], ASGIApp]) -> list[Route]:
        """Return the routes.

        Args:
            wrap: turns a handler's errors into responses.
        """
        return [
            Route("/v1/roster", wrap(self._get), methods=["GET"]),
            Route("/v1/roster", wrap(self._put), methods=["POST"]),
            Route("/v1/roster/candidates", wrap(self._candidates), methods=["GET"]),
            Route("/v1/parties/keys", wrap(self._succeed), methods=["POST"]),
        ]

    async def _get(self, request: Request) -> Response:
        self._authenticate(request)
        asked = query_of(request, "number", "keys")
        number, keys = (_whole(asked.get(name, "0")) for name in ("number", "keys"))
        revoked = [member.party for member in self._parties.all() if member.revoked]
        return JSONResponse(await self._on_pool(lambda: self._book.answer(number, keys, revoked)))

    async def _candidates(self, request: Request) -> Response:
        self._authenticate_signer(request)
        return JSONResponse(await self._on_pool(lambda: self._book.candidates(self._parties.all())))

    async def _put(self, request: Request) -> Response:
        self._authenticate_signer(request)
        parts = chunks(request.receive, self._limits, limit_bytes=MAX_STATEMENT_BYTES)
        data = b"".join([part async for part in parts])
        kind = KEYS_KIND if query_of(request, "kind").get("kind") == "keys" else ROSTER_KIND
        return JSONResponse(await self._on_pool(lambda: self._book.put(kind, data)), status_code=201)

    async def _succeed(self, request: Request) -> Response:
        member = self._authenticate(request)
        parts = chunks(request.receive, self._limits, limit_bytes=_MAX_SUCCESSION_BYTES)
        data = b"".join([part async for part in parts])
        await self._on_pool(lambda: self._book.succeed(member, data))
        return JSONResponse({}, status_code=201)

    def _authenticate_signer(self, request: Request) -> None:
        """Let in a party, or who proves that one of the federation's keys is theirs."""
        scheme, _, proof = request.headers.get("authorization", "").partition(" ")
        if scheme != SCHEME:
            self._authenticate(request)
            return
        pin = self._book.pin()
        if pin is None or not check_proof(proof, pin.keys, request.method, request.url.path, time.time()):
            raise NotPermitted("expected the proof of one of the federation's keys, and clocks that agree")

    async def _on_pool(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise SpecError(f"expected a whole number, found {text[:40]!r}")
    return int(text)
