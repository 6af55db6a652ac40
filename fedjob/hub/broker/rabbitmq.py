"""The rights of parties at a RabbitMQ: what its plugin rabbitmq_auth_backend_http asks, and the settings by which it asks the hub.

RabbitMQ 3.10 keeps MQTT topics as routing keys of an exchange and each session's messages in queues that bear its client id. It asks
four questions: who logs in (`user`), with which virtual host (`vhost`), with which exchange or queue (`resource`), and
with which topics (`topic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest

from fedjob.hub.broker.access import may_read, may_write
from fedjob.hub.storage.parties import Member, password_fits
from fedjob.identity.membership import CLIENT_ID_SEPARATOR

QUESTIONS = ("user", "vhost", "resource", "topic")
SECRET_NAME = "rights-secret"
SETTINGS_NAME = "rabbitmq-rights.conf"
VHOST = "/"
HUB_TAG = "administrator"
"""The only tag with which RabbitMQ 3.10 lets the hub end the connections of others."""

EXCHANGE = "amq.topic"
_QUEUE = "mqtt-subscription-"
_NOBODY = "$7$101$AAAAAAAAAAAAAAAA$AAAA"
_TO_TOPIC = str.maketrans({".": "/", "*": "+"})


def rights_url(hub_url: str, secret: str, question: str) -> str:
    """Return where a question is asked; whoever knows this secret may ask, and learns nothing but the answer."""
    return f"{hub_url}/v1/broker/{secret}/{question}"


def settings(hub_url: str, secret: str) -> str:
    """Return the part of rabbitmq.conf by which RabbitMQ asks the hub."""
    lines = [
        "# Written by the hub: by these addresses RabbitMQ asks it for the rights of parties. Whoever reads them could try",
        "# passwords without limit, so that they belong to the broker's user alone (mode 0600). Put the hub's name as the",
        "# broker's machines reach it in the place of this machine's.",
        "auth_http.http_method = post",
        *(f"auth_http.{question}_path = {rights_url(hub_url, secret, question)}" for question in QUESTIONS),
    ]
    return "\n".join(lines) + "\n"


def topic_of(routing_key: str) -> str:
    """Return the MQTT topic or filter that RabbitMQ keeps as this routing key.

    RabbitMQ takes a `.` in a topic for `/` and a `*` for `+`, and so does this.
    """
    return routing_key.translate(_TO_TOPIC)


def allows_hub(question: str, fields: Mapping[str, str], password: str) -> bool:
    """Return the answer to a question about the hub itself, which uses the HTTP API and no messages."""
    if question == "user":
        return compare_digest(fields.get("password", "").encode(), password.encode())
    return question == "vhost"


def allows(question: str, fields: Mapping[str, str], member: Member | None) -> bool:
    """Return the answer to a question of RabbitMQ.

    Args:
        fields: of the question's form; what is missing counts as empty.
        member: the party that `fields` names as `username`; None for a stranger and a party that was revoked.
    """
    if question == "user":
        fits = password_fits(fields.get("password", ""), _NOBODY if member is None else member.broker_hash)
        return fits and member is not None and _is_own(member.party, fields, "client_id")
    if member is None or fields.get("vhost") != VHOST:
        return False
    if question == "vhost":
        return True
    if question == "resource":
        return _may_use(member.party, fields)
    return question == "topic" and _may_use_topic(member.party, fields)


def _is_own(party: str, fields: Mapping[str, str], name: str) -> bool:
    """Return whether a client id is the party's; some versions name none with every question."""
    return name not in fields or fields[name].startswith(f"{party}{CLIENT_ID_SEPARATOR}")


def _may_use(party: str, fields: Mapping[str, str]) -> bool:
    name, permission = fields.get("name", ""), fields.get("permission")
    if fields.get("resource") == "exchange":
        return name == EXCHANGE and permission in ("read", "write")
    # The queues of another party's session hold what is addressed to it.
    return fields.get("resource") == "queue" and name.startswith(f"{_QUEUE}{party}{CLIENT_ID_SEPARATOR}")


def _may_use_topic(party: str, fields: Mapping[str, str]) -> bool:
    if fields.get("name") != EXCHANGE or not _is_own(party, fields, "variable_map.client_id"):
        return False
    topic = topic_of(fields.get("routing_key", ""))
    if fields.get("permission") == "write":
        return not {"+", "#"} & set(topic) and may_write(party, topic)
    return fields.get("permission") == "read" and may_read(party, topic)
