"""The route by which a RabbitMQ asks the hub, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from fedjob.hub.broker.rabbitmq import rights_url
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.broker_rights import BrokerKey
from tests.hubs import HubThread

KEY = BrokerKey("ab" * 32, "the hub's password")
LIMITS = HubLimits(reserve_bytes=0, stranger_requests_at_once=20, stranger_requests_per_s=0.1)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubThread]:
    with HubThread(tmp_path_factory.mktemp("hub"), limits=LIMITS, broker_key=KEY) as made:
        yield made


def _ask(
    hub: HubThread, question: str, fields: dict[str, str], secret: str = KEY.secret
) -> requests.Response:
    return requests.post(rights_url(hub.url, secret, question), data=fields, timeout=20)


def test_a_broker_may_ask_as_often_as_it_likes_and_hears_what_holds_now(hub: HubThread) -> None:
    password = hub.join("site-1").broker_password
    login = {"username": "site-1", "password": password, "vhost": "/", "client_id": "site-1:ab12"}
    for _ in range(60):
        answer = _ask(hub, "user", login)
        assert (answer.status_code, answer.text) == (200, "allow")
    assert _ask(hub, "user", login | {"password": "x"}).text == "deny"
    assert _ask(hub, "vhost", {"username": "site-1", "vhost": "/"}).text == "allow"
    hub.parties.revoke("site-1")
    assert _ask(hub, "user", login).text == "deny"
    assert _ask(hub, "vhost", {"username": "site-1", "vhost": "/"}).text == "deny"


def test_the_hub_s_own_user_is_known_by_its_password(hub: HubThread) -> None:
    assert _ask(hub, "user", {"username": "_hub", "password": KEY.hub_password}).text == "allow administrator"
    assert _ask(hub, "user", {"username": "_hub", "password": ""}).text == "deny"
    assert _ask(hub, "topic", {"username": "_hub", "vhost": "/", "permission": "read"}).text == "deny"


def test_what_is_no_question_is_refused_by_name(hub: HubThread) -> None:
    assert "user, vhost, resource, topic" in _ask(hub, "everything", {}).json()["error"]
    many = {f"field-{number}": "x" for number in range(100)}
    assert _ask(hub, "user", many).status_code == 400
    assert _ask(hub, "user", {"username": "x" * 20_000}).status_code == 413


def test_without_the_secret_a_broker_is_a_stranger(hub: HubThread, tmp_path: Path) -> None:
    statuses = {
        _ask(hub, "vhost", {"username": "site-1", "vhost": "/"}, "cd" * 32).status_code for _ in range(60)
    }
    assert statuses == {401, 429}
    with HubThread(tmp_path / "hub") as other:  # has a broker of its own
        for secret in ("ab" * 32, "0", "%20"):
            assert _ask(other, "user", {}, secret).status_code == 401
