"""The choice of a proxy: the setting, the environment, and who is reached directly."""

from __future__ import annotations

import pytest

from fedjob.common.errors import SpecError
from fedjob.common.network.proxy import Proxy, check_proxy, proxy_for

HUB = "https://hub.example.org"


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_without_a_setting_and_variables_a_server_is_reached_directly() -> None:
    assert proxy_for(HUB) is None


@pytest.mark.parametrize(
    ("text", "host", "port", "user", "password"),
    [
        ("http://proxy.example.org:3128", "proxy.example.org", 3128, "", ""),
        ("proxy.example.org:8080", "proxy.example.org", 8080, "", ""),
        ("http://it:p%40ss%3Aw@10.0.0.1:3128/", "10.0.0.1", 3128, "it", "p@ss:w"),
        ("http://[::1]:3128", "::1", 3128, "", ""),
        ("http://proxy", "proxy", 80, "", ""),
    ],
)
def test_a_setting_names_host_port_and_login(
    text: str, host: str, port: int, user: str, password: str
) -> None:
    found = proxy_for(HUB, text)
    assert found is not None
    assert (found.host, found.port, found.user, found.password) == (host, port, user, password)
    assert proxy_for(HUB, found.url) == found  # its URL reads back as the same
    assert not password or password not in f"{found} {found!r}"


@pytest.mark.parametrize(
    "text",
    [
        "socks5://h:1",
        "https://h:1",
        "http://",
        "http://h:99999",
        "http://h:x",
        "http://h/path",
        "http://h?q",
        "ftp://h",
    ],
)
def test_what_is_no_http_proxy_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match=r"http://proxy\.example\.org:3128"):
        check_proxy(text)


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(SpecError) as refused:
        check_proxy("socks5://it:secret@h:1")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        (HUB, "HTTPS_PROXY"),
        ("wss://hub.example.org/mqtt", "https_proxy"),
        ("mqtts://hub.example.org:8883", "HTTPS_PROXY"),
        ("http://hub.example.org", "HTTP_PROXY"),
        ("mqtt://hub.example.org", "HTTP_PROXY"),
        (HUB, "ALL_PROXY"),
    ],
)
def test_the_environment_names_a_proxy_by_kind(
    url: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://proxy.example.org:3128")
    found = proxy_for(url)
    assert found is not None
    assert found.host == "proxy.example.org"
    assert variable.upper() in found.source or found.source == "ALL_PROXY"


@pytest.mark.parametrize("listed", ["hub.example.org", ".example.org", "example.org", "*"])
def test_no_proxy_takes_hosts_out(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", listed)
    assert proxy_for(HUB) is None
    assert proxy_for(HUB, "http://10.0.0.1:3128") is None


def test_none_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert proxy_for(HUB, "none") is None


@pytest.mark.parametrize("host", ["127.0.0.1:8844", "localhost:8844", "[::1]:8844"])
def test_a_hub_on_this_machine_is_reached_directly_unless_the_proxy_is_here_too(host: str) -> None:
    assert proxy_for(f"http://{host}", "http://proxy.example.org:3128") is None
    assert proxy_for(f"http://{host}", "http://127.0.0.1:3128") == Proxy("127.0.0.1", 3128)
