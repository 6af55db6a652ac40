"""The OpenAPI description of the hub's HTTP interface, which the hub serves at `/openapi.json`.

The paths and methods are those of the routes; a test finds a route without a description here, and the reverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from starlette.routing import BaseRoute, Route

from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.repository.store_links import DIRECT, LINK_TYPE

PATH = "/openapi.json"
_HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SEALING = {"type": "string", "pattern": "^[0-9a-f]{2432}$"}
_SIGNATURE = {"type": "string", "pattern": "^[0-9a-f]{128}$"}
_PARTY = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}
_JOB = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$",
}
_ROLE = {"type": "string", "enum": ["researcher", "node"]}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_TEXT = {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}
_ANY = {"application/json": {"schema": {"type": "object"}}}
_NUMBER = {"type": "string", "pattern": "^[0-9]{1,16}$"}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_LINK = {LINK_TYPE: {"schema": {"$ref": "#/components/schemas/Link"}}}
_REASONS = {
    400: "The request is malformed; the answer says what was expected.",
    401: "No token came with the request, or one that belongs to no party.",
    403: "That party may not do this, or has as much stored as it may.",
    404: "There is no such thing that this party may see.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    422: "The bytes of the body do not have the hash that the path names.",
    429: "Too many requests of this party or address: see Retry-After.",
    503: "The hub is busy, can't write at the moment, or can't reach the store in which its objects lie.",
    507: "The hub's disk is full.",
}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What was expected, and what was found."}},
    },
    "Hub": {
        "type": "object",
        "required": ["federation", "time", "version", "broker", "read_urls", "secret_file", "certificates"],
        "properties": {
            "federation": {"type": "string"},
            "time": {"type": "number", "description": "Seconds since 1970."},
            "version": {"type": "string"},
            "broker": {
                "type": "object",
                "required": ["url", "kind", "version"],
                "properties": {name: {"type": "string"} for name in ("url", "kind", "version")},
            },
            "read_urls": {"type": "array", "items": {"type": "string"}},
            "secret_file": {"type": "string", "description": "Whose reader may enrol without an invitation."},
            "certificates": {
                "type": "object",
                "description": "Who issues the certificates that parties show; empty where they show none.",
                "properties": {name: {"type": "string"} for name in ("from", "authority")},
            },
        },
    },
    "Party": {
        "type": "object",
        "required": ["party", "role", "key", "revoked"],
        "properties": {
            "party": _PARTY,
            "role": _ROLE,
            "key": {**_HEX64, "description": "Ed25519, to check what the party signed."},
            "sealing": {**_SEALING, "description": "To encrypt for the party: ML-KEM-768 and X25519."},
            "binding": {**_SIGNATURE, "description": "The signature of `sealing` by `key`."},
            "revoked": {"type": "boolean"},
        },
    },
    "Enrolment": {
        "type": "object",
        "required": ["party", "role", "key", "sealing", "binding"],
        "properties": {
            "party": _PARTY,
            "role": _ROLE,
            "key": _HEX64,
            "sealing": _SEALING,
            "binding": _SIGNATURE,
            "token": {**_HEX64, "description": "That the party chose, so that it can enrol twice."},
            "invite": {"type": "string", "description": "The code of an invitation."},
            "proof": {
                "type": "string",
                "description": "That the hub's secret file was read, instead of one.",
            },
        },
    },
    "Link": {
        "type": "object",
        "required": ["url", "expires_s"],
        "properties": {
            "url": {
                "type": "string",
                "description": "At the hub's store, signed for this object; needs no token.",
            },
            "expires_s": {"type": "number", "description": "Seconds for which it is good."},
        },
    },
    "CertificateRequest": {
        "type": "object",
        "required": ["csr", "csr_signature"],
        "properties": {
            "csr": {"type": "string", "description": "PKCS #10, PEM, of an elliptic-curve key."},
            "csr_signature": {
                **_SIGNATURE,
                "description": "Of the party's name and the request, by its key.",
            },
        },
    },
    "Certificate": {
        "type": "object",
        "required": ["certificate"],
        "properties": {"certificate": {"type": "string"}},
    },
    "Membership": {
        "type": "object",
        "required": ["federation", "token", "broker_user", "broker_password"],
        "properties": {
            name: {"type": "string"} for name in ("federation", "token", "broker_user", "broker_password")
        },
    },
}


def _parameter(name: str, where: str, schema: dict[str, Any], text: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema, "description": text}


_JOB_HEADER = _parameter("X-Fedjob-Job", "header", _JOB, "The job that holds the object.", required=True)
_READERS_HEADER = _parameter(
    "X-Fedjob-Readers",
    "header",
    {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}( ?, ?[a-z0-9][a-z0-9_-]{0,62}){0,20}$"},
    "Parties that may read, besides the sender.",
    required=False,
)
_RANGE_HEADER = _parameter(
    "Range",
    "header",
    {"type": "string", "pattern": "^bytes=[0-9]{1,15}-([0-9]{1,15})?$"},
    "One range of bytes; any other value is ignored.",
    required=False,
)


def _json(name: str, *, many: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
    return {"application/json": {"schema": {"type": "array", "items": schema} if many else schema}}


def _operation(
    summary: str,
    answers: dict[int, tuple[str, dict[str, Any] | None]],
    refusals: tuple[int, ...],
    *,
    needs_token: bool = True,
    parameters: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one operation.

    Args:
        answers: status -> words and content.
        refusals: other statuses, with an error in JSON.
    """
    responses: dict[str, Any] = {}
    for status, (text, content) in answers.items():
        responses[str(status)] = {"description": text} | ({} if content is None else {"content": content})
    for status in (*refusals, 429, *((401,) if needs_token else ())):
        responses[str(status)] = {"description": _REASONS[status], "content": _ERROR}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    operation["security"] = [{"token": []}] if needs_token else []
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


_DIRECT_HEADER = _parameter(
    DIRECT,
    "header",
    {"type": "string", "pattern": "^[0-9a-z]{1,8}$"},
    "Given with any value: a link to the bytes will do, where the hub keeps them in a store and lets parties read there.",
    required=False,
)
_OBJECT_ANSWERS: dict[int, tuple[str, dict[str, Any] | None]] = {
    200: ("All of its bytes.", _BYTES),
    206: ("The bytes of the range.", _BYTES),
    416: ("The object ends before the range begins.", None),
}
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (PATH, "GET"): _operation(
        "This description.",
        {200: ("OpenAPI 3.1.", {"application/json": {"schema": {"type": "object"}}})},
        (400,),
        needs_token=False,
    ),
    ("/v1/hub", "GET"): _operation(
        "Public facts about the hub: its federation, clock, version and broker.",
        {200: ("The facts.", _json("Hub"))},
        (400,),
        needs_token=False,
    ),
    ("/v1/parties", "GET"): _operation(
        "Every party of the federation, revoked ones too, or those that have changed since an earlier answer.",
        {200: ("The parties; X-Fedjob-Mark has the mark of this answer.", _json("Party", many=True))},
        (400,),
        parameters=(
            _parameter(
                "after",
                "query",
                {"type": "string", "pattern": "^[0-9a-f]{16}-[0-9]{1,16}-[0-9a-f]{64}$"},
                "The mark of an earlier answer; where it is none of this hub's, every party is answered.",
                required=False,
            ),
        ),
    ),
    ("/v1/parties", "POST"): _operation(
        "Enrol, by an invitation or, on the hub's own machine, by the proof that its secret file was read.",
        {201: ("The party is a member.", _json("Membership"))},
        (400, 403, 408, 413, 503, 507),
        needs_token=False,
        body=_json("Enrolment"),
    ),
    ("/v1/certificate", "POST"): _operation(
        "A certificate for a party, which signs the request with its key; the hub's own authority issues it.",
        {201: ("The certificate, PEM.", _json("Certificate"))},
        (400, 403, 408, 413, 503, 507),
        body=_json("CertificateRequest"),
    ),
    ("/v1/parties/keys", "POST"): _operation(
        "Follow one key of a party by another, which the first has signed.",
        {201: ("The party has the new key.", _ANY)},
        (400, 403, 408, 413, 503, 507),
        body=_BYTES,
    ),
    ("/v1/roster", "GET"): _operation(
        "The signed roster, where it is newer than the one that the client has.",
        {200: ("The roster and the parties that the hub has revoked since.", _ANY)},
        (400, 404, 503),
        parameters=tuple(
            _parameter(name, "query", _NUMBER, f"Of the {what} that the client has.", required=False)
            for name, what in (("number", "roster"), ("keys", "federation's keys"))
        ),
    ),
    ("/v1/roster", "POST"): _operation(
        "A roster, or federation's keys, that a federation's key has signed; its holder needs no token.",
        {201: ("It is in force, or is kept until enough keys have signed it.", _ANY)},
        (400, 403, 404, 408, 413, 422, 503, 507),
        parameters=(
            _parameter(
                "kind", "query", {"type": "string"}, "`keys` for the federation's keys.", required=False
            ),
        ),
        body=_BYTES,
    ),
    ("/v1/roster/candidates", "GET"): _operation(
        "What a holder of a federation's key would sign next; its holder needs no token.",
        {200: ("The parties as the hub knows them, and statements that lack signatures.", _ANY)},
        (400, 403, 404, 503),
    ),
    ("/healthz", "GET"): _operation(
        "Whether database, disk and broker are in order.",
        {200: ("They are.", _ANY), 503: ("One is not.", _ANY)},
        (400,),
        needs_token=False,
    ),
    ("/metrics", "GET"): _operation(
        "Metrics for Prometheus, by the hub's metrics token, which is none of a party.",
        {
            200: ("Text of Prometheus, or of OpenMetrics.", _TEXT),
            401: ("Another token came, or none.", _TEXT),
            501: ("The hub lacks the package for it.", _TEXT),
        },
        (400,),
        needs_token=False,
    ),
    ("/v1/broker/{secret}/{question}", "POST"): _operation(
        "The rights of a party at a RabbitMQ, which asks as its plugin rabbitmq_auth_backend_http does.",
        {
            200: (
                "`allow` or `deny`.",
                {"text/plain": {"schema": {"type": "string", "enum": ["allow", "deny"]}}},
            )
        },
        (400, 401, 408, 413),
        needs_token=False,
        body={"application/x-www-form-urlencoded": {"schema": {"type": "object"}}},
    ),
    ("/v1/objects", "POST"): _operation(
        "Store bytes that are followed by the 32 bytes of their SHA-256, under it, for a job and its readers.",
        {201: ("Stored, durably.", None)},
        (400, 403, 404, 408, 413, 422, 503, 507),
        parameters=(_JOB_HEADER, _READERS_HEADER),
        body=_BYTES,
    ),
    ("/v1/objects/{sha256}", "PUT"): _operation(
        "Store bytes under their SHA-256, for a job and its readers. Storing an object again repairs it.",
        {201: ("Stored, durably.", None)},
        (400, 403, 404, 408, 413, 422, 503, 507),
        parameters=(_JOB_HEADER, _READERS_HEADER),
        body=_BYTES,
    ),
    ("/v1/objects/{sha256}", "POST"): _operation(
        "Hold an object that is there for one more job, without sending it.",
        {204: ("Held.", None)},
        (400, 403, 404, 503, 507),
        parameters=(_JOB_HEADER, _READERS_HEADER),
    ),
    ("/v1/objects/{sha256}", "GET"): _operation(
        "The bytes of an object, or one range of them; or a link to them in the hub's store.",
        _OBJECT_ANSWERS | {200: ("All of its bytes, or a link to them.", _BYTES | _LINK)},
        (400, 404, 503),
        parameters=(_RANGE_HEADER, _DIRECT_HEADER),
    ),
    ("/v1/objects/{sha256}", "HEAD"): _operation(
        "The size of an object, without its bytes.",
        {status: (text, None) for status, (text, _) in _OBJECT_ANSWERS.items()},
        (400, 404, 503),
        parameters=(_RANGE_HEADER,),
    ),
    ("/v1/objects/{sha256}", "DELETE"): _operation(
        "Release what this party holds of an object for a job.",
        {204: ("Released.", None)},
        (400, 404, 503, 507),
        parameters=(_JOB_HEADER,),
    ),
    ("/v1/jobs/{job}", "DELETE"): _operation(
        "End a job: its objects are released, by its owner for every party.",
        {204: ("Ended; X-Fedjob-Ended has the number of holds.", None)},
        (400, 403, 503, 507),
    ),
    ("/v1/jobs/{job}/watch", "PUT"): _operation(
        f"Show a job's progress to others: a frame of at most {MAX_FRAME_BYTES} bytes that its owner signed.",
        {204: ("Shown.", None)},
        (400, 403, 408, 413, 503, 507),
        parameters=(_READERS_HEADER,),
        body=_BYTES,
    ),
    ("/v1/jobs/{job}/watch", "GET"): _operation(
        "The latest frame of a job that is shown to this party; X-Fedjob-Age has its age in seconds.",
        {200: ("The frame.", _BYTES)},
        (400, 403, 404),
    ),
}
_PATH_PARAMETERS = {
    "sha256": _parameter("sha256", "path", _HEX64, "The SHA-256 of the object's bytes.", required=True),
    "job": _parameter("job", "path", _JOB, "The job's id.", required=True),
    "secret": _parameter("secret", "path", _HEX64, "That the hub and its broker share.", required=True),
    "question": _parameter(
        "question",
        "path",
        {"type": "string", "enum": ["user", "vhost", "resource", "topic"]},
        "What is asked.",
        required=True,
    ),
}


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the description of these routes; the WebSocket at `/mqtt` is none that OpenAPI could describe."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not isinstance(route, Route):
            continue
        for method in sorted(route.methods or ()):
            if described := OPERATIONS.get((route.path, method)):
                paths.setdefault(route.path, _path(route))[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fedjob hub",
            "version": version("fedjob"),
            "description": "The repository, the parties and the enrolment of a federation. The broker is reached at /mqtt, "
            "as MQTT over WebSocket with the sub-protocol mqtt.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "From the enrolment."}
            },
        },
    }


def differences(routes: Iterable[BaseRoute]) -> tuple[list[str], list[str]]:
    """Return the operations of these routes that are not described, and those that are described and not there."""
    there = {
        (route.path, method) for route in routes if isinstance(route, Route) for method in route.methods or ()
    }
    # Starlette adds HEAD to each GET.
    missing = {(path, method) for path, method in there - set(OPERATIONS) if method != "HEAD"}
    spare = set(OPERATIONS) - there
    return sorted(f"{m} {path}" for path, m in missing), sorted(f"{m} {path}" for path, m in spare)


def _path(route: Route) -> dict[str, Any]:
    named = [_PATH_PARAMETERS[name] for name in route.param_convertors]
    return {"parameters": named} if named else {}
