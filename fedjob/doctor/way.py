"""The check of the way to the hub: proxy, name, port and certificate, each on its own."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509

from fedjob.common.errors import FedjobError
from fedjob.common.network.proxy import Proxy, open_tunnel, proxy_for
from fedjob.common.network.tls_trouble import check_authority, tls_trouble
from fedjob.doctor.findings import Finding
from fedjob.identity.membership import Membership

CONNECT_S = 5.0
SOON = timedelta(days=30)


def examine_way(membership: Membership) -> list[Finding]:
    """Check every step from this machine to the hub's port; stop at the first that fails."""
    parts = urlsplit(membership.hub_url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        proxy = proxy_for(membership.hub_url, membership.proxy)
    except FedjobError as error:
        return [Finding("proxy", False, str(error), "set it right, or to none", "you")]
    findings = [_proxy(proxy)]
    if findings[-1].ok:
        findings.append(_name(host, proxy))
    if findings[-1].ok:
        findings.append(_port(host, port, proxy))
    if findings[-1].ok and parts.scheme == "https":
        findings.append(_certificate(membership, host, port, proxy))
    return findings


def _proxy(proxy: Proxy | None) -> Finding:
    if proxy is None:
        return Finding("proxy", True, "none: the hub is reached directly")
    try:
        socket.create_connection((proxy.host, proxy.port), timeout=CONNECT_S).close()
    except OSError as error:
        advice = "give the address that your browser uses: the setting proxy, or the variable"
        return Finding(
            "proxy", False, f"{proxy} ({proxy.source}) can't be reached: {error}", advice, "your IT"
        )
    return Finding("proxy", True, f"{proxy} ({proxy.source})")


def _name(host: str, proxy: Proxy | None) -> Finding:
    if proxy is not None:
        return Finding("name", True, f"{host}, which the proxy looks up")
    try:
        found = sorted(
            {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        )
    except (OSError, UnicodeError) as error:
        advice = (
            "look at the hub's address for a typing error; else this machine's name servers don't know it"
        )
        return Finding("name", False, f"{host} is not found: {error}", advice, "your IT")
    return Finding("name", True, f"{host} is {', '.join(found[:4])}")


def _port(host: str, port: int, proxy: Proxy | None) -> Finding:
    try:
        open_tunnel(host, port, proxy, timeout_s=CONNECT_S).close()
    except OSError as error:
        if proxy is not None:
            login = "407" in str(error) or "401" in str(error)
            advice = (
                "give a login that it takes: the setting proxy, http://USER:PASSWORD@HOST:PORT"
                if login
                else f"have the proxy let this machine through to {host}:{port}"
            )
            return Finding(
                "port", False, f"{proxy} opens no way to {host}:{port}: {error}", advice, "your IT"
            )
        refused = isinstance(error, ConnectionRefusedError)
        return Finding(
            "port",
            False,
            f"{host}:{port} does not take connections: {error}",
            "start the hub: fedjob hub start"
            if refused
            else f"have the firewall let this machine out to {host}:{port}",
            "the hub's owner" if refused else "your IT",
        )
    return Finding("port", True, f"{host}:{port} takes connections")


def _certificate(membership: Membership, host: str, port: int, proxy: Proxy | None) -> Finding:
    authority = membership.tls_ca or None
    try:
        if authority is not None:
            check_authority(authority)
        context = ssl.create_default_context(cafile=authority)
        with (
            open_tunnel(host, port, proxy, timeout_s=CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            found = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
            version = secure.version()
    except ssl.SSLError as error:
        text = tls_trouble(membership.hub_url, error, authority, proxy)
        return Finding(
            "certificate", False, text, "see docs/tls.md", "the hub's owner" if "expired" in text else "you"
        )
    except FedjobError as error:
        return Finding("certificate", False, str(error), "see docs/tls.md", "you")
    except (OSError, ValueError) as error:
        return Finding("certificate", False, f"the handshake broke: {error}", "see docs/tls.md", "your IT")
    until = found.not_valid_after_utc
    text = f"{version}; issued by {found.issuer.rfc4514_string()}, until {until:%Y-%m-%d}"
    if until - datetime.now(UTC) < SOON:
        return Finding("certificate", True, text, "renew it soon", "the hub's owner")
    return Finding("certificate", True, text)
