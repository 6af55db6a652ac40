"""The hub's answers to a RabbitMQ that asks for the rights of parties."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fedjob.common.errors import FedjobError, ObjectTooLarge, SpecError
from fedjob.hub.broker.access import HUB_USER
from fedjob.hub.broker.rabbitmq import HUB_TAG, QUESTIONS, SECRET_NAME, allows, allows_hub
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.bodies import TooSlow, chunks
from fedjob.hub.server.connection_limits import ABORT, PROTECT, ClientGone
from fedjob.hub.storage.parties import Parties

PATH = "/v1/broker/{secret}/{question}"
WRONG_SECRET = (
    "expected the secret of the federation's broker in the path: it lies in the home of a hub that was started with "
    f"--broker, in broker/{SECRET_NAME}"
)
MAX_QUESTION_BYTES = 16 << 10
MAX_FIELDS = 40


@dataclass(frozen=True, slots=True)
class BrokerKey:
    """The secrets between the hub and a broker that asks it.

    Args:
        secret: that each question bears.
        hub_password: of the hub's own user at the broker.
    """

    secret: str
    hub_password: str


class BrokerRights:
    """The ASGI application to which a broker brings its questions.

    A broker asks several times for each session of each party, all from one address: who knows the secret is held to no
    rate. Everybody else is a stranger.

    Args:
        key: how a broker and the hub know each other; None where none may ask.
        refused: the application for who does not know it.
    """

    def __init__(self, parties: Parties, limits: HubLimits, key: BrokerKey | None, refused: ASGIApp) -> None:
        self._parties = parties
        self._limits = limits
        self._key = key
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        secret: str = scope["path_params"]["secret"]
        if self._key is None or not hmac.compare_digest(secret.encode(), self._key.secret.encode()):
            await self._refused(scope, receive, send)
            return
        if (protect := scope.get(PROTECT)) is not None:
            protect()
        try:
            response = await self._answer(Request(scope, receive), self._key)
            await response(scope, receive, send)
        except ClientGone:
            if (abort := scope.get(ABORT)) is not None:
                abort()

    async def _answer(self, request: Request, key: BrokerKey) -> Response:
        question = request.path_params["question"]
        try:
            parts = chunks(request.receive, self._limits, limit_bytes=MAX_QUESTION_BYTES)
            fields = _fields(b"".join([part async for part in parts]))
            if question not in QUESTIONS:
                raise SpecError(
                    f"expected one of the questions {', '.join(QUESTIONS)}, found {question[:40]!r}"
                )
        except (ObjectTooLarge, TooSlow, SpecError) as error:
            return _wrong(error)
        if fields.get("username") == HUB_USER:
            allowed = allows_hub(question, fields, key.hub_password)
            tag = f" {HUB_TAG}" if allowed and question == "user" else ""
            return PlainTextResponse(_word(allowed) + tag)
        member = self._parties.by_name(fields.get("username", ""))
        return PlainTextResponse(_word(allows(question, fields, member)))


def _word(allowed: bool) -> str:
    return "allow" if allowed else "deny"


def _wrong(error: FedjobError) -> Response:
    status = {ObjectTooLarge: 413, TooSlow: 408}.get(type(error), 400)
    return JSONResponse({"error": str(error)}, status, {"Connection": "close"})


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise SpecError(f"expected a form in UTF-8 of at most {MAX_FIELDS} fields") from error
