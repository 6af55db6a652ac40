"""Passwords in Mosquitto's format, and what a hub's settings may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.network.addresses import is_loopback
from fedjob.hub.storage.parties import check_role, hash_password, password_fits
from fedjob.hub.supervisor import HubSettings, check_broker_url


def test_a_hash_has_the_form_of_mosquittos_password_file() -> None:
    hashed = hash_password("secret", bytes(range(12)))
    kind, iterations, salt, digest = hashed.split("$")[1:]
    assert (kind, iterations, salt, len(digest)) == ("7", "101", "AAECAwQFBgcICQoL", 88)
    assert password_fits("secret", hashed)


@pytest.mark.parametrize(
    "hashed", ["", "$", "$7$101$$", "$6$101$AA==$AA==", "$7$x$AA==$AA==", "$7$101$!$!", "plain"]
)
def test_what_is_no_hash_fits_no_password(hashed: str) -> None:
    assert not password_fits("", hashed)


def test_each_hash_has_a_salt_of_its_own() -> None:
    one, two = hash_password("secret"), hash_password("secret")
    assert one != two
    assert password_fits("secret", one)
    assert not password_fits("Secret", one)


def test_roles_are_two() -> None:
    assert [check_role(role) for role in ("researcher", "node")] == ["researcher", "node"]
    with pytest.raises(SpecError, match="researcher or node"):
        check_role("admin")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("192.168.0.1", False), ("hub.example.org", False), ("", False)],
)  # fmt: skip
def test_a_hub_for_others_needs_tls_or_a_word(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        HubSettings(Path("hub"), host=host).check()
    else:
        with pytest.raises(ConfigError, match="--insecure"):
            HubSettings(Path("hub"), host=host).check()
        HubSettings(Path("hub"), host=host, insecure=True).check()


@pytest.mark.feature("PS-15")
def test_what_others_could_read_on_the_way_is_warned_of() -> None:
    home = Path("hub")
    assert HubSettings(home).warnings() == []
    assert HubSettings(home, broker_url="mqtts://b.example.org:8883").warnings() == []
    (warning,) = HubSettings(home, host="0.0.0.0", insecure=True).warnings()
    assert "listens on 0.0.0.0 without TLS" in warning
    (warning,) = HubSettings(home, broker_url="mqtt://0.0.0.0:1883").warnings()
    assert "use mqtts:// or wss://" in warning


@pytest.mark.parametrize("url", ["mqtt://127.0.0.1:1883", "mqtts://b.example.org:8883", "wss://b:443/mqtt"])
def test_brokers_that_somebody_else_runs(url: str) -> None:
    assert check_broker_url(url) == url


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1883", "http://b:1", "mqtt://", "mqtt://b", "mqtt://b:x", "mqtt://a b:1"]
)
def test_a_url_of_no_broker_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="expected a broker's URL"):
        check_broker_url(url)
