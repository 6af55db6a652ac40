"""The forward proxy between this machine and a server: the home's setting, else the environment's variables.

A proxy is asked for a tunnel (HTTP CONNECT, RFC 9110 section 9.3.6) wherever TLS or MQTT
goes through it, with a user name and password (Basic, RFC 7617) where its URL has them.
`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are read as curl and pip read them,
in small letters too.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies_environment

import socks

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.network.addresses import is_loopback

DIRECT = "none"
"""The setting for no proxy, whatever the environment says."""

_SCHEMES = {"http": "http", "ws": "http", "mqtt": "http", "https": "https", "wss": "https", "mqtts": "https"}
_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy that speaks plain HTTP; `str` hides its password."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    source: str = "the setting proxy"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def tunnel(self) -> dict[str, Any]:
        """The arguments by which PySocks, and paho with it, asks it for a tunnel."""
        login = {"proxy_username": self.user, "proxy_password": self.password} if self.user else {}
        return {"proxy_type": socks.HTTP, "proxy_addr": self.host, "proxy_port": self.port, **login}

    @property
    def url(self) -> str:
        """Its URL with the login that it was given."""
        plain = str(self)
        if not self.user:
            return plain
        login = ":".join(quote(part, safe="") for part in (self.user, self.password))
        return f"http://{login}@{plain.removeprefix('http://')}"


def check_proxy(text: str, what: str = "proxy") -> str:
    """Return a proxy's setting if it can be used: empty, `none`, or a URL such as `http://proxy.example.org:3128`.

    Raises:
        SpecError: it can't be; the message has an example and no password.
    """
    if text and text != DIRECT:
        _parse(text, what)
    return text


def check_proxy_setting(text: str) -> None:
    """Refuse a value of a home's setting `proxy`.

    Raises:
        ConfigError: it is no proxy's.
    """
    try:
        check_proxy(text)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def proxy_for(url: str, setting: str = "") -> Proxy | None:
    """Return the proxy through which a server is reached; None for directly.

    A server on this machine is reached directly, unless the proxy is on this machine too: no other could reach it.

    Args:
        url: of the server, http(s), ws(s) or mqtt(s).
        setting: of the home: a proxy's URL, `none`, or empty for what the environment says.

    Raises:
        SpecError: the setting, or a variable of the environment, is no proxy's URL.
    """
    if setting == DIRECT:
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = _parse(setting, "proxy") if setting else _from_environment(_SCHEMES.get(parts.scheme, "https"))
    import requests.utils  # here: it takes longer than all that reads settings

    if found is None or requests.utils.should_bypass_proxies(f"http://{parts.netloc}", None):
        return None
    return None if is_loopback(host) and not is_loopback(found.host) else found


def open_tunnel(host: str, port: int, proxy: Proxy | None, *, timeout_s: float) -> socket.socket:
    """Return a connection to a server, directly or through a proxy.

    Raises:
        OSError: it can't be reached, or the proxy refuses.
    """
    if proxy is None:
        return socket.create_connection((host, port), timeout=timeout_s)
    found: socket.socket = socks.create_connection((host, port), timeout=timeout_s, **proxy.tunnel)
    return found


def _from_environment(scheme: str) -> Proxy | None:
    given = getproxies_environment()
    for name in (scheme, "all"):
        if text := given.get(name, ""):
            return _parse(text, f"{name.upper()}_PROXY")
    return None


def _parse(text: str, what: str) -> Proxy:
    plain = text if "://" in text else f"http://{text}"
    parts = urlsplit(plain)
    refused = (
        f"{what}: expected the URL of an HTTP proxy such as http://proxy.example.org:3128, or none, found"
    )
    if parts.scheme != "http":
        raise SpecError(f"{refused} one that begins with {parts.scheme[:20]}://")
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        raise SpecError(f"{refused} one whose port is no number from 1 to 65535") from None
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SpecError(f"{refused} one without a host, or with more than host, port and login")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Proxy(parts.hostname, port, user, password, "the setting proxy" if what == "proxy" else what)
