"""The addresses that a hub may name: with TLS none without it, whatever the hub says."""

from __future__ import annotations

import pytest

from fedjob.common.errors import NotPermitted
from fedjob.common.types import Address
from fedjob.identity.membership import Membership, check_broker_for, check_repository_for
from fedjob.messaging.transport.mqtt import transport_of

HUB = "https://hub.example.org"
PLAIN = (
    "mqtt://hub.example.org:1883",
    "ws://hub.example.org/mqtt",
    "mqtt://127.0.0.1:1883",
    "MQTT://hub.example.org:1883",
    "tcp://hub.example.org:1883",
    "",
    "hub.example.org:1883",
)


def member(broker_url: str, hub_url: str = HUB) -> Membership:
    return Membership(hub_url, "fed", "clinic", "node", "00" * 32, broker_url, "password")


@pytest.mark.parametrize("url", PLAIN)
def test_a_party_of_a_hub_with_tls_uses_no_broker_without_it(url: str) -> None:
    with pytest.raises(NotPermitted, match="has none: it is not used"):
        check_broker_for(HUB, url)
    with pytest.raises(NotPermitted):
        transport_of(member(url), Address("clinic"))
    if url:
        with pytest.raises(NotPermitted):
            transport_of(member("mqtts://hub.example.org:8883"), Address("clinic"), url)


@pytest.mark.parametrize("url", ["mqtts://hub.example.org:8883", "wss://hub.example.org/mqtt"])
def test_a_broker_with_tls_is_used_and_so_is_the_way_through_the_hub(url: str) -> None:
    transport = transport_of(member(url), Address("clinic"))
    assert {way.scheme for way in transport._ways} <= {"mqtts", "wss"}


def test_the_other_way_to_the_broker_has_tls_where_the_hub_has() -> None:
    assert member("mqtts://hub.example.org:8883").broker_at_hub == "wss://hub.example.org/mqtt"


def test_a_repository_without_tls_gets_no_token_of_a_hub_with_it() -> None:
    with pytest.raises(NotPermitted):
        check_repository_for(HUB, "http://hub.example.org")
    for url in (HUB, "memory://", "/srv/objects"):
        assert check_repository_for(HUB, url) == url
