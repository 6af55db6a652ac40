"""The HTTP client: one server, one token, retries, and time limits.

Time limits depend on progress: connecting may take 10 s, silence 30 s, a transfer that
makes progress as long as it needs. Failures that may pass (no connection, 429, 5xx) are
retried with backoff; others are raised as the error that they mean. Redirects and pages for
people, which boxes on the way give, are retried a few times and followed never; content
encodings are refused; a proxy is used where the home or the environment names one,
and the environment's certificates are ignored.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from fedjob.common.errors import (
    DecodeError,
    FedjobError,
    NoSpace,
    NotPermitted,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    RepositoryUnreachable,
    SpecError,
)
from fedjob.common.files import BLOCK_BYTES
from fedjob.common.network.connections import LineAdapter
from fedjob.common.network.credentials import Credentials
from fedjob.common.network.proxy import Proxy, proxy_for
from fedjob.common.network.tls_trouble import (
    REFUSES_CERTIFICATE,
    TLS_PAGE,
    answers,
    cause_of,
    check_authority,
    may_pass,
    speaks_tls,
    tls_trouble,
)

MAX_REPLY_BYTES = 8 << 20
MAX_EXPLANATION_BYTES = 4096
NUM_STRANGE = 3
"""Retries where something else than the hub answered, such as a network that wants a login: less than 2 s in all."""

PIECE_BYTES = 16 << 10
"""Bytes that are sent at a time once an upload broke off: each piece has `connect_s`, so a line of 13 kbit/s is fast
enough. Before that whole blocks are, which costs half as much."""

BUFFERED_BYTES = 1 << 20
SLOW_BYTES_PER_S = 32_000
"""Boxes on the way may hold so much of what is sent, and pass it on at 256 kbit/s."""

_PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Patience:
    """The time limits and retries of requests to a server.

    Args:
        connect_s: seconds for the connection, and for each block that is sent.
        idle_s: seconds without a byte from the server.
        num_retries: number of retries without any progress in between.
        backoff_s: seconds before the first retry; doubles with each, with jitter.
        max_backoff_s: most seconds between two tries, even if Retry-After asks for more.
    """

    connect_s: float = 10.0
    idle_s: float = 30.0
    num_retries: int = 7
    backoff_s: float = 0.2
    max_backoff_s: float = 10.0


class RequestBody(Protocol):
    """The bytes of a request, in blocks; gone through again for every try. A block is valid until the next one is asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A complete response: its status and its content."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the content as JSON.

        Raises:
            DecodeError: it is not JSON.
        """
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise DecodeError(f"expected JSON from the hub, found {self.content[:80]!r}") from error


class Passing(RepositoryError):
    """A failure that may pass by itself.

    Args:
        after_s: seconds that the server asked to wait.
        num_retries: at most, where it seldom passes; None for the client's own number.
    """

    def __init__(
        self, error: FedjobError, after_s: float | None = None, *, num_retries: int | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s
        self.num_retries = num_retries


def check_http_url(url: str) -> str:
    """Return `url` without a trailing slash if it is an http(s) URL of a server, with any host and port.

    Raises:
        SpecError: it is not; the message says what was expected.
    """
    import validators  # here, because only users' own URLs need it

    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise SpecError(f"expected a URL such as http://127.0.0.1:8844, found {str(url)[:80]!r}")
    if not validators.url(url, simple_host=True) or urlsplit(url).query or "#" in url or "@" in url:
        raise SpecError(f"Url not valid: expected one such as http://127.0.0.1:8844, found {url[:80]!r}")
    return url.rstrip("/")


class Web:
    """A server that speaks fedjob's HTTP; usable from several threads at once.

    Args:
        url: of the server, without a path of the API.
        token: sent as a bearer token.
        verify: whether to check the server's certificate, or the certificate file of its authority.
        proxy: the home's setting: a proxy's URL, `none`, or empty for what the environment says.
        credentials: that are shown besides the token, over TLS only; None for none.
        peer: what the server is called in errors.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        verify: bool | str | Path = True,
        proxy: str = "",
        credentials: Credentials | None = None,
        patience: Patience | None = None,
        peer: str = "the hub",
    ) -> None:
        self.url = check_http_url(url)
        self.peer = peer
        self.proxy = proxy_for(self.url, proxy)
        self.patience = patience or Patience()
        self._piece_bytes = BLOCK_BYTES
        self._closed = threading.Event()
        self._credentials = credentials if self.url.startswith("https://") else None
        self._verify = str(verify) if isinstance(verify, Path) else verify
        if isinstance(self._verify, str):
            check_authority(self._verify)
        self._headers = {"Accept-Encoding": "identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        # An adapter without a session: no cookies, no redirects, no settings from the environment
        # (REQUESTS_CA_BUNDLE would override `verify`), and half the time per request.
        self._adapter = LineAdapter(pool_connections=1, pool_maxsize=16, max_retries=0)

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | RequestBody | None = None,
        what: str = "",
        limit_bytes: int = MAX_REPLY_BYTES,
        accept: tuple[int, ...] = (),
    ) -> HttpReply:
        """Make a request and return its response, after retries if necessary.

        Args:
            what: name of the requested thing for error messages, such as `object 12ab...`.
            accept: statuses besides 2xx that are returned, not raised.

        Raises:
            RepositoryUnreachable: no server answers in time.
            NotPermitted, ObjectMissing, ObjectTooLarge, NoSpace, RepositoryError: as the server answers.
        """
        tries = Tries(self)
        while True:
            try:
                with self.stream(
                    method, path, headers=headers, body=body, what=what, accept=accept
                ) as stream:
                    return HttpReply(stream.status, stream.headers, stream.read(limit_bytes))
            except Passing as passing:
                tries.wait(passing)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | RequestBody | None = None,
        what: str = "",
        accept: tuple[int, ...] = (),
    ) -> Generator[HttpStream, None, None]:
        """Make one try of a request and yield its response while it arrives.

        Raises:
            Passing: a failure that may pass; it holds the error to raise after the last retry.
        """
        if self._closed.is_set():
            raise RepositoryUnreachable(f"the connection to {self.url} was closed by this side")
        own = self._credentials
        response = self._send(method, path, headers or {}, body)
        whole = False
        try:
            stream = HttpStream(self, response)
            if response.status_code == 407 and self.proxy is not None:
                raise _proxy_trouble(self.proxy, self.url, "407 Proxy Authentication Required")
            if not 200 <= response.status_code < 300 and response.status_code not in accept:
                if response.status_code == 401 and own is not None:
                    own.refused()
                raise refusal(
                    response.status_code, response.headers, stream.explanation(), what or path, self.peer
                )
            is_page = response.headers.get("Content-Type", "").startswith("text/html")
            if is_page and response.status_code not in accept:
                strange = RepositoryUnreachable(
                    f"{self.url} answers with a page for people: does this network want a login in a browser first, "
                    "or is this another server's address?"
                )
                raise Passing(strange, num_retries=NUM_STRANGE)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                found = response.headers["Content-Encoding"][:40]
                raise RepositoryError(
                    f"{self.url} answers with Content-Encoding {found!r}; expected plain bytes: switch "
                    "compression off in the proxy before it"
                )
            yield stream
            whole = stream.ended
        finally:
            # A connection is reused only if its response was read to the end.
            if whole or response.raw is None:
                response.close()
            else:
                response.raw.close()
                response.close()

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | RequestBody | None
    ) -> requests.Response:
        own = self._credentials
        try:
            request = requests.PreparedRequest()
            request.prepare(
                method,
                self.url + path,
                headers={
                    **self._headers,
                    **({} if own is None else own.headers(method, path)),
                    **headers,
                },
                data=_Pieces(body, self._piece_bytes) if body else b"",  # an iterable with a length
            )
            return self._adapter.send(
                request,
                stream=True,
                timeout=(self.patience.connect_s, self.patience.idle_s + _on_the_way_s(body)),
                verify=self._verify,
                cert=None if own is None else own.certificate(),
                proxies=None if self.proxy is None else {"http": self.proxy.url, "https": self.proxy.url},
            )
        except requests.RequestException as error:
            self._piece_bytes = PIECE_BYTES if body else self._piece_bytes
            raise self.trouble(error) from error

    def trouble(self, error: Exception) -> FedjobError:
        """Return the error that a failure of the connection means."""
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
            return SpecError(f"Url not valid: {self.url}")
        if isinstance(error, requests.exceptions.SSLError) and not may_pass(self.url, error, self.proxy):
            ca = self._verify if isinstance(self._verify, str) else None
            if self._credentials is not None:
                self._credentials.refused()
            return RepositoryUnreachable(tls_trouble(self.url, error, ca, self.proxy))
        if self.proxy is not None and isinstance(error, requests.exceptions.ProxyError):
            return _proxy_trouble(self.proxy, self.url, _innermost(error))
        late = isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError))
        if not late and self._refuses_certificate(error):
            # it may pass: a new certificate is on its way, or the link broke at just that moment
            return Passing(RepositoryUnreachable(f"{self.url} {REFUSES_CERTIFICATE}; see {TLS_PAGE}"))
        if not late and self.url.startswith("http://") and speaks_tls(self.url, self.proxy):
            return RepositoryUnreachable(
                f"{self.url} speaks TLS: give its address as https://{self.url.removeprefix('http://')}"
            )
        kind = "does not answer in time" if late else "can't be reached"
        return Passing(
            RepositoryUnreachable(f"{self.url} {kind}: is {self.peer} running? ({_innermost(error)})")
        )

    def _refuses_certificate(self, error: Exception) -> bool:
        """True if the server breaks connections off because of the certificate that this party shows.

        Not every server says so, as TLS would have it; and a break may have other reasons. So both are tried.
        """
        files = None if self._credentials is None else self._credentials.certificate()
        if files is None or not isinstance(
            cause_of(error, (ConnectionError, EOFError, ssl.SSLEOFError)), Exception
        ):
            return False
        authority = self._verify if isinstance(self._verify, str) else None
        refused = not answers(self.url, authority, self.proxy, files) and answers(
            self.url, authority, self.proxy
        )
        if refused and self._credentials is not None:
            self._credentials.refused()
        return refused

    def pause(self, seconds: float) -> None:
        """Wait; `close` ends the wait."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Close the connections; requests that wait for a retry end."""
        self._closed.set()
        self._adapter.close()


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The body of a request, in the pieces in which it is sent."""

    body: bytes | RequestBody
    piece_bytes: int

    def __len__(self) -> int:
        return len(self.body)

    def __iter__(self) -> Iterator[memoryview]:
        blocks: Iterable[bytes | memoryview] = [self.body] if isinstance(self.body, bytes) else self.body
        for block in blocks:
            view = memoryview(block)
            for at in range(0, len(view), self.piece_bytes):
                yield view[at : at + self.piece_bytes]


class HttpStream:
    """A response while it arrives."""

    def __init__(self, web: Web, response: requests.Response) -> None:
        self._web = web
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.ended = False

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks.

        Raises:
            Passing: the connection broke or fell silent.
        """
        while True:
            try:
                # Read what has arrived, not a full block: the bytes before a break would be lost otherwise.
                block = self._response.raw.read1(BLOCK_BYTES, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._web.trouble(error) from error
            if not block:
                self.ended = True
                return
            yield block

    def read(self, limit_bytes: int) -> bytes:
        """Return the whole content.

        Raises:
            ObjectTooLarge: there is more than `limit_bytes`.
        """
        content = bytearray()
        for block in self.blocks():
            content += block
            if len(content) > limit_bytes:
                raise ObjectTooLarge(f"{self._web.url} answers with more than {limit_bytes} bytes")
        return bytes(content)

    def explanation(self) -> str:
        """Return the server's message about an error, shortened."""
        try:
            content = self.read(MAX_EXPLANATION_BYTES)
            message = json.loads(content).get("error", "")
        except (Passing, FedjobError, ValueError, AttributeError):
            return ""
        return str(message)[:500]


@dataclass
class Tries:
    """The count of the tries of one piece of work."""

    web: Web
    num_failed: int = 0
    _random: random.Random = field(default_factory=random.Random)

    def progress(self) -> None:
        """Start counting again, because there was progress."""
        self.num_failed = 0

    def wait(self, passing: Passing) -> None:
        """Wait before the next try.

        Raises:
            FedjobError: the error behind `passing`, after the last retry.
        """
        patience = self.web.patience
        most = patience.num_retries if passing.num_retries is None else passing.num_retries
        if self.num_failed >= min(most, patience.num_retries):
            error = passing.error
            raise error from passing.__cause__
        pause_s = patience.backoff_s * 2**self.num_failed * self._random.uniform(0.5, 1.0)
        self.num_failed += 1
        self.web.pause(min(max(pause_s, passing.after_s or 0.0), patience.max_backoff_s))


def _on_the_way_s(body: bytes | RequestBody | None) -> float:
    """Return the seconds that what is sent may lie in the buffers of boxes on the way before the server has it all."""
    return min(0 if body is None else len(body), BUFFERED_BYTES) / SLOW_BYTES_PER_S


def refusal(
    status: int, headers: Mapping[str, str], message: str, what: str, peer: str = "the hub"
) -> FedjobError:
    """Return the error that a response's status means."""
    because = f": {message}" if message else ""
    if status in _PASSING:
        try:
            after_s = float(headers.get("Retry-After", ""))
        except ValueError:
            after_s = None
        how = "too many requests" if status == 429 else f"{peer} is in trouble (status {status})"
        trouble = RepositoryUnreachable(f"{what}: {how}{because}")
        return Passing(trouble, after_s)
    if status in (401, 403):
        return NotPermitted(f"{what}: not permitted{because}")
    if status == 404:
        return ObjectMissing(f"{what}: not there{because}")
    if status == 413:
        return ObjectTooLarge(f"{what}: too large{because}")
    if status == 507:
        return NoSpace(f"{what}: no space left at the hub{because}")
    if 300 <= status < 400:
        elsewhere = RepositoryError(
            f"{what}: the server sends elsewhere (status {status}); give its final URL"
        )
        return Passing(elsewhere, num_retries=NUM_STRANGE)
    return RepositoryError(f"{what}: refused with status {status}{because}")


def _proxy_trouble(proxy: Proxy, url: str, why: str) -> FedjobError:
    """Return the error that a proxy's refusal, or its absence, means."""
    return_later = ("502", "503", "504")
    found = re.search(r"\b([45]\d\d)\b", why)
    if found is None:
        away = RepositoryUnreachable(
            f"the proxy {proxy} ({proxy.source}) can't be reached: is its address right? ({why})"
        )
        return Passing(away)
    if found[1] in ("401", "407"):  # 407 by the standard
        given = f"refuses the login of {proxy.user!r}" if proxy.user else "wants a login"
        return RepositoryUnreachable(
            f"the proxy {proxy} ({proxy.source}) {given}: give it as http://USER:PASSWORD@{proxy.host}:{proxy.port}, "
            "or ask whoever runs the proxy for one"
        )
    refused = RepositoryUnreachable(
        f"the proxy {proxy} ({proxy.source}) does not let this machine through to {url} (status {found[1]}): ask "
        "whoever runs the proxy to allow it"
    )
    return Passing(refused) if found[1] in return_later else refused


def _innermost(error: BaseException) -> str:
    seen = str(error)
    while (inner := error.__cause__ or error.__context__) is not None:
        error, seen = inner, str(inner) or seen
    return seen[:200]
