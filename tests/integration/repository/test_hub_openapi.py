"""The hub's OpenAPI description is true: whatever it lets a client send is answered as it says, and never with a 5xx."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.routing import Route

from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server import openapi
from tests.hubs import HubThread

EXAMPLES = int(os.environ.get("FEDJOB_SCHEMATHESIS", "10"))
"""Requests for each operation; `make soak` sets more."""

LIMITS = HubLimits(reserve_bytes=0, requests_per_s=1e6, requests_at_once=1e6, stranger_requests_per_s=1e6,
                   stranger_requests_at_once=1e6, refusals_per_s=1e6, refusals_at_once=1e6)  # fmt: skip
JUDGED = {
    ("/v1/broker/{secret}/{question}", "POST"),
    ("/v1/certificate", "POST"),
    ("/v1/jobs/{job}/watch", "PUT"),
    ("/v1/objects", "POST"),
    ("/v1/objects/{sha256}", "PUT"),
    ("/v1/parties", "POST"),
    ("/v1/parties/keys", "POST"),
    ("/v1/roster", "GET"),
    ("/v1/roster", "POST"),
    ("/v1/roster/candidates", "GET"),
}
"""Operations of which no schema can say when they succeed: with a right signature or hash, at a hub with a roster."""

OPERATIONS = sorted(openapi.OPERATIONS)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubThread]:
    with HubThread(tmp_path_factory.mktemp("hub"), limits=LIMITS) as made:
        yield made


@pytest.fixture(scope="module")
def schema(hub: HubThread) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schemathesis.openapi.from_url(f"{hub.url}{openapi.PATH}")


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_is_answered_as_described(
    hub: HubThread, schema: Any, path: str, method: str
) -> None:
    token = hub.join("alice", "researcher").token
    operation = schema[path][method]
    strategies = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    judged = [] if (path, method) not in JUDGED else [positive_data_acceptance]

    def send(case: Any) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}"}, timeout=20, excluded_checks=judged
        )

    for strategy in strategies:
        bounded = settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), derandomize=True,
        )  # fmt: skip
        with suppress(Unsatisfiable):  # what has neither parameters nor a body can't be sent wrongly
            bounded(given(case=strategy)(send))()


@pytest.mark.parametrize(
    ("path", "method"), [each for each in OPERATIONS if openapi.OPERATIONS[each]["security"]]
)
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", f"Bearer {'0' * 64}", "bearer 0 0"]
)
def test_every_operation_that_says_so_wants_a_partys_token(
    hub: HubThread, path: str, method: str, header: str
) -> None:
    url = hub.url + path.format(sha256="0" * 64, job="job_1")
    headers = {"Authorization": header} if header else {}
    answer = requests.request(method, url, headers=headers, data=b"{}", timeout=20)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_object_goes_there_and_back_as_the_description_says(hub: HubThread, schema: Any) -> None:
    content = secrets.token_bytes(1000)
    name = sha256(content).hexdigest()
    headers = {"Authorization": f"Bearer {hub.join('alice', 'researcher').token}"}
    path = {"sha256": name}
    operations = schema["/v1/objects/{sha256}"]
    for method, more, sent, status in (
        ("PUT", {"X-Fedjob-Job": "job_1", "X-Fedjob-Readers": "node-a, node-b"}, content, 201),
        ("POST", {"X-Fedjob-Job": "job_2"}, None, 204),
        ("HEAD", {}, None, 200),
        ("GET", {}, None, 200),
        ("GET", {"Range": "bytes=10-19"}, None, 206),
        ("GET", {"Range": "bytes=1000-"}, None, 416),
        ("DELETE", {"X-Fedjob-Job": "job_1"}, None, 204),
        ("GET", {}, None, 200),  # the other job has it still
        ("DELETE", {"X-Fedjob-Job": "job_2"}, None, 204),
        ("GET", {}, None, 404),
    ):
        answer = requests.request(
            method, f"{hub.url}/v1/objects/{name}", headers=headers | more, data=sent, timeout=20
        )
        assert answer.status_code == status
        operations[method].Case(path_parameters=path).validate_response(
            answer, excluded_checks=[ignored_auth]
        )
    assert (
        requests.get(hub.url + openapi.PATH, timeout=20).json()["paths"].keys()
        == schema.raw_schema["paths"].keys()
    )


def test_every_route_is_described_and_every_description_has_its_route(hub: HubThread) -> None:
    routes = hub.routes()
    assert openapi.differences(routes) == ([], [])
    described = requests.get(hub.url + openapi.PATH, timeout=20).json()["paths"]
    assert {
        (path, method.upper())
        for path, each in described.items()
        for method in each
        if method != "parameters"
    } == set(openapi.OPERATIONS)
    new = Route("/v1/new", lambda request: None, methods=["POST"])
    assert openapi.differences([*routes, new]) == (["POST /v1/new"], [])
    assert openapi.differences([new])[1]
