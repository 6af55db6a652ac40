"""The settings with which a hub starts: what parties show, and no broker without TLS beside a hub with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.supervisor import HubSettings
from tests.authorities import Authority


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> HubSettings:
    folder = tmp_path_factory.mktemp("hub")
    pair = Authority(folder).server()
    return HubSettings(home=folder, tls=TlsFiles(pair.cert, pair.key))


PLAIN = ("mqtt://broker.example.org:1883", "ws://broker.example.org:80", "mqtt://10.0.0.5:1883")


@pytest.mark.parametrize("url", PLAIN)
@pytest.mark.parametrize("setting", ["broker_url", "public_broker"])
@pytest.mark.parametrize("guard", ["tls", "tls_in_front"])
def test_a_hub_with_tls_names_no_broker_without_it(
    secure: HubSettings, url: str, setting: str, guard: str
) -> None:
    hub = secure if guard == "tls" else HubSettings(home=secure.home, tls_in_front=True)
    with pytest.raises(ConfigError, match="names no broker without it"):
        replace(hub, **{setting: url}).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["mqtt://127.0.0.1:1883", "mqtt://localhost:1883"])
def test_a_plain_broker_on_the_hubs_machine_is_carried_by_the_hub_and_never_named(
    secure: HubSettings, url: str
) -> None:
    replace(secure, broker_url=url).check()
    with pytest.raises(ConfigError):
        replace(secure, public_broker=url).check()


@pytest.mark.parametrize("url", ["mqtts://broker.example.org:8883", "wss://broker.example.org:443"])
def test_a_broker_with_tls_may_be_named(secure: HubSettings, url: str) -> None:
    replace(secure, broker_url=url, public_broker=url).check()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls": None, "host": "0.0.0.0"}, "--tls-cert and --tls-key, or --insecure"),
        ({"tls": None, "host": "192.0.2.1"}, "--tls-cert and --tls-key, or --insecure"),
        ({"tls": None, "only_certificates": True}, "need --tls-cert"),
        ({"tls": None, "client_ca": Path("x.pem")}, "need --tls-cert"),
        ({"tls_in_front": True}, "TLS ends in one place"),
        ({"tls": None, "tls_in_front": True, "mqtt_port": 1883}, "through the web server"),
        ({"client_ca": Path("/nowhere/ca.pem")}, "expected the certificate of the authority of the parties"),
        ({"client_ca": Path(__file__)}, "expected the certificate of the authority of the parties"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    secure: HubSettings, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(secure, **changes).check()  # type: ignore[arg-type]


def test_the_status_says_what_parties_show(secure: HubSettings) -> None:
    plain = HubSettings(home=secure.home)
    assert "hub's own authority" in secure.guard
    assert "where none arrives" in secure.guard
    assert "where none arrives" not in replace(secure, only_certificates=True).guard
    assert "signature of each request" in replace(plain, tls_in_front=True).guard
    assert "tokens alone: no TLS on loopback" in plain.guard
    open_hub = replace(plain, host="0.0.0.0", insecure=True)
    assert "--insecure" in open_hub.check().guard
    assert open_hub.warnings()
