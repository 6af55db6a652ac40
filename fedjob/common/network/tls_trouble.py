"""The reasons for which a TLS connection failed, in words: who refuses whom and what to do, or that it broke off."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fedjob.common.errors import ConfigError
from fedjob.common.network.proxy import Proxy, open_tunnel

if TYPE_CHECKING:
    from cryptography import x509

TLS_PAGE = "docs/tls.md"

_LOOK_S = 3.0
_NUM_LOOKS = 2
REFUSES_CERTIFICATE = (
    "refuses the certificate of this party: it is not of the authority whose certificates that hub takes, or not for "
    "clients; one that the hub issued is renewed by itself, in a moment, one of your own is the setting tls_cert"
)
_ALERTS = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_DECRYPT_ERROR",
    "ALERT_HANDSHAKE_FAILURE",
)
"""Words of what a server answers to a client's certificate that it does not take."""

_STRICT = ("key usage", "key identifier", "basic constraints")
"""Words of what Python 3.13 requires of an authority's certificate beyond what earlier versions did."""


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")
"""Words of what a server's answer is that speaks no TLS."""

_DISAGREE = (
    *_ALERTS,
    *_NO_TLS,
    "NO_PROTOCOLS_AVAILABLE",
    "UNSUPPORTED_PROTOCOL",
    "ALERT_PROTOCOL_VERSION",
    "NO_SHARED_CIPHER",
    "ALERT_INSUFFICIENT_SECURITY",
    "DH_KEY_TOO_SMALL",
    "EE_KEY_TOO_SMALL",
    "CA_MD_TOO_WEAK",
    "LEGACY_RENEGOTIATION",
    "UNRECOGNIZED_NAME",
)
"""Words of errors that come again at every try, until somebody changes a setting, a certificate or an address."""


def broke_off(error: BaseException) -> bool:
    """Return whether a TLS connection only broke off, or what arrived was damaged: another try may succeed.

    False where the two ends do not agree on a certificate, or on what they speak.
    """
    found = cause_of(error, (ssl.SSLError,))
    if found is None or isinstance(found, ssl.SSLCertVerificationError):
        return False
    return not any(words in str(found) for words in _DISAGREE)


def may_pass(url: str, error: BaseException, proxy: Proxy | None) -> bool:
    """Return whether another try may succeed: see `broke_off`, or what arrived looked like no TLS from a server that speaks it.

    Bytes that are lost or damaged on the way look like that, too.
    """
    found = cause_of(error, (ssl.SSLError,))
    if broke_off(error):
        return True
    looks_plain = any(words in str(found) for words in _NO_TLS)
    return looks_plain and any(speaks_tls(url, proxy) for _ in range(_NUM_LOOKS))


def check_authority(path: str | Path) -> None:
    """Refuse a file that holds no certificate of an authority.

    Raises:
        ConfigError: it is not there, may not be read, or holds no certificate in PEM.
    """
    try:
        ssl.create_default_context(cafile=str(path))
    except ssl.SSLError as error:
        raise ConfigError(
            f"{path} holds no certificate that can be read: expected the certificate of the hub's authority, a PEM "
            f"file that begins with -----BEGIN CERTIFICATE-----; see {TLS_PAGE}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the certificate of the hub's authority, {path}, can't be read ({error.strerror or error}): give it "
            f"again, --tls-ca FILE or connect(tls_ca=...); see {TLS_PAGE}"
        ) from error


def tls_trouble(
    url: str, error: BaseException | None, authority: str | Path | None, proxy: Proxy | None = None
) -> str:
    """Return in words why a server is not talked to over TLS, and what to do.

    Args:
        authority: the certificate file that the server was checked against; None for the system's.
        proxy: through which it was asked.
    """
    if error is not None:
        error = cause_of(error, (ssl.SSLError,))
    words = str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error or "no reason")
    code = getattr(error, "verify_code", 0)
    if error is not None and may_pass(url, error, proxy):
        through = "" if proxy is None else f", or the proxy {proxy} that looks inside TLS,"
        return (
            f"{url}: the connection broke off while TLS began ({words}): try again; if it stays so, whoever runs the "
            f"server{through} finds the reason in its log; see {TLS_PAGE}"
        )
    certificate = _certificate_of(url, proxy)
    if any(each in words for each in _NO_TLS):
        plain = url.replace("https://", "http://").replace("mqtts://", "mqtt://").replace("wss://", "ws://")
        text = f"{url} does not speak TLS: its address is {plain}, or another port than this"
    elif any(alert in words for alert in _ALERTS):
        text = f"{url} {REFUSES_CERTIFICATE} ({words})"
    elif code == 10:
        text = f"{url}: its certificate expired{_at(certificate, 'not_valid_after_utc')}: who runs it has to renew it"
    elif code == 9:
        text = (
            f"{url}: its certificate is not valid yet{_at(certificate, 'not_valid_before_utc', 'it is from')}: set the "
            "clock of this machine, or of the one that made it"
        )
    elif code in (62, 64):
        text = (
            f"{url}: its certificate is for {_names(certificate)}, not for {urlsplit(url).hostname}: use a name that "
            "it has, or have it made for this one"
        )
    elif any(word in words.lower() for word in _STRICT):
        text = (
            f"{url}: the certificate of its authority lacks what this Python requires ({words}): make the authority "
            "anew, with the key usage that the page shows"
        )
    else:
        issuer = "" if certificate is None else f", issued by {certificate.issuer.rfc4514_string()!r}"
        if proxy is not None and authority:
            text = (
                f"{url}: its certificate{issuer} is not trusted (certificate verify failed: {words}): {authority} did not "
                f"sign it. The proxy looks inside TLS if that is its authority (the proxy {proxy}): ask your IT for it and "
                "give it as --tls-ca FILE, or as the setting tls_ca"
            )
        else:
            against = (
                f"{authority} is not the certificate of its authority: give that, not the server's own"
                if authority
                else "name its authority, --tls-ca FILE or connect(tls_ca=...)"
            )
            if proxy is not None:
                against += f"; if the proxy {proxy} looks inside TLS, that is the proxy's authority: ask your IT for it"
            text = f"{url}: its certificate{issuer} is not trusted (certificate verify failed: {words}): {against}"
    return f"{text}; see {TLS_PAGE}"


def answers(
    url: str,
    authority: str | None,
    proxy: Proxy | None,
    certificate: tuple[str, str] | None = None,
) -> bool:
    """True if a server with TLS answers a request, whatever it says.

    Args:
        authority: that its certificate is checked against; None for the system's.
        certificate: to show it.
    """
    parts = urlsplit(url)
    request = f"HEAD /v1/hub HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        with (
            open_tunnel(parts.hostname or "", parts.port or 443, proxy, timeout_s=_LOOK_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
        ):
            secure.sendall(request.encode())
            return bool(secure.recv(1))
    except (OSError, ValueError):
        return False


def speaks_tls(url: str, proxy: Proxy | None = None) -> bool:
    """True if a server answers a TLS handshake, whatever its certificate is."""
    return _handshake(url, proxy) is not None


def _handshake(url: str, proxy: Proxy | None) -> bytes | None:
    """Return the certificate that a server shows, in DER, empty for none; None where it speaks no TLS."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to look: nothing is sent
    try:
        port = parts.port or (8883 if parts.scheme == "mqtts" else 443)
        with (
            open_tunnel(parts.hostname or "", port, proxy, timeout_s=_LOOK_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except (OSError, ValueError):
        return None


def _certificate_of(url: str, proxy: Proxy | None) -> x509.Certificate | None:
    from cryptography import x509

    der = _handshake(url, proxy)
    try:
        return x509.load_der_x509_certificate(der) if der else None
    except ValueError:
        return None


def _at(certificate: x509.Certificate | None, field: str, words: str = "on") -> str:
    return "" if certificate is None else f" {words} {getattr(certificate, field):%Y-%m-%d}"


def _names(certificate: x509.Certificate | None) -> str:
    """Return the hosts that a certificate is for."""
    from cryptography import x509

    if certificate is None:
        return "another host"
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return "no host (it has no subjectAltName)"
    hosts = [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]
    return ", ".join(hosts[:8]) or "no host"


def cause_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """Return the first error of some kinds that is behind another, itself included."""
    seen: list[BaseException] = [error]
    for found in seen:
        if isinstance(found, kinds):
            return found
        inner = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    return None
