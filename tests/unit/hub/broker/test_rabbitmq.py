"""The hub's answers to what a RabbitMQ asks about parties."""

from __future__ import annotations

import pytest

from fedjob.hub.broker.rabbitmq import QUESTIONS, allows, allows_hub, settings, topic_of
from fedjob.hub.storage.parties import Member, hash_password

MEMBER = Member("site-1", "node", "ab" * 32, False, hash_password("its password"))
CONTEXT = {"username": "site-1", "vhost": "/"}
QUEUE = CONTEXT | {"resource": "queue", "name": "mqtt-subscription-site-1:ab12qos1", "permission": "write"}
EXCHANGE = CONTEXT | {"resource": "exchange", "name": "amq.topic", "permission": "write"}
TOPIC = CONTEXT | {"resource": "topic", "name": "amq.topic", "variable_map.client_id": "site-1:ab12"}
WRITE = TOPIC | {"permission": "write", "routing_key": "fedjob.1.to.ann.s1.from.site-1"}
READ = TOPIC | {"permission": "read", "routing_key": "fedjob.1.to.site-1.#"}
LOGIN = {"username": "site-1", "password": "its password", "vhost": "/", "client_id": "site-1:ab12"}


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("user", LOGIN),
        ("vhost", CONTEXT | {"ip": "10.0.0.1", "tags": ""}),
        ("resource", QUEUE),
        ("resource", QUEUE | {"permission": "configure"}),
        ("resource", EXCHANGE),
        ("resource", EXCHANGE | {"permission": "read"}),
        ("topic", WRITE),
        ("topic", WRITE | {"routing_key": "fedjob.1.all.from.site-1"}),
        ("topic", READ),
        ("topic", READ | {"routing_key": "fedjob.1.presence.*"}),
    ],
)
def test_a_party_has_the_rights_that_it_has_at_every_broker(question: str, fields: dict[str, str]) -> None:
    assert allows(question, fields, MEMBER)
    assert not allows(question, fields, None)  # a stranger, or revoked


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("user", LOGIN | {"password": "another"}),
        ("user", LOGIN | {"password": ""}),
        ("user", {"username": "site-1"}),
        ("user", LOGIN | {"client_id": "site-2:ab12"}),
        ("user", LOGIN | {"client_id": "site-11:ab12"}),
        ("user", LOGIN | {"client_id": "site-1"}),
        ("vhost", CONTEXT | {"vhost": "other"}),
        ("vhost", {"username": "site-1"}),
        ("resource", QUEUE | {"name": "mqtt-subscription-site-2:ab12qos1"}),
        ("resource", QUEUE | {"name": "mqtt-subscription-site-11:ab12qos1"}),
        ("resource", QUEUE | {"name": "site-1:"}),
        ("resource", QUEUE | {"vhost": "other"}),
        ("resource", EXCHANGE | {"permission": "configure"}),
        ("resource", EXCHANGE | {"name": "amq.direct"}),
        ("resource", EXCHANGE | {"name": ""}),
        ("resource", EXCHANGE | {"resource": "user"}),
        ("topic", WRITE | {"routing_key": "fedjob.1.to.ann.s1.from.site-2"}),
        ("topic", WRITE | {"routing_key": "fedjob.1.to.#.from.site-1"}),
        ("topic", WRITE | {"routing_key": "fedjob.1.to.*.s1.from.site-1"}),
        ("topic", WRITE | {"routing_key": ""}),
        ("topic", WRITE | {"name": "amq.direct"}),
        ("topic", WRITE | {"permission": "configure"}),
        ("topic", WRITE | {"variable_map.client_id": "site-2:ab12"}),
        ("topic", READ | {"routing_key": "#"}),
        ("topic", READ | {"routing_key": "fedjob.1.to.*.#"}),
        ("topic", READ | {"routing_key": "fedjob.1.to.site-2.#"}),
        ("topic", READ | {"routing_key": "fedjob.1.presence.#"}),
        ("topic", READ | {"routing_key": "fedjob.1.#.site-1.#"}),
        ("everything", CONTEXT),
    ],
)
def test_and_no_other(question: str, fields: dict[str, str]) -> None:
    assert not allows(question, fields, MEMBER)


def test_the_hub_itself_may_use_the_http_api_and_no_messages() -> None:
    known = {"username": "_hub", "password": "secret"}
    assert allows_hub("user", known, "secret")
    assert not allows_hub("user", known | {"password": "other"}, "secret")
    assert [allows_hub(question, known, "") for question in QUESTIONS] == [False, True, False, False]


def test_topics_are_what_rabbitmq_takes_them_for() -> None:
    assert topic_of("fedjob.1.to.*.#") == "fedjob/1/to/+/#"


def test_the_settings_name_every_question_with_the_secret() -> None:
    lines = [line for line in settings("https://hub.example.org:8844", "ab12").splitlines() if line[0] != "#"]
    assert lines == [
        "auth_http.http_method = post",
        *(
            f"auth_http.{each}_path = https://hub.example.org:8844/v1/broker/ab12/{each}"
            for each in ("user", "vhost", "resource", "topic")
        ),
    ]
