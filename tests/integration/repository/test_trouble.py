"""The client of the repository against servers that misbehave, each a real socket with a script."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import (
    FedjobError,
    NoSpace,
    NotPermitted,
    ObjectCorrupt,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    RepositoryUnreachable,
    SpecError,
)
from fedjob.common.files import BLOCK_BYTES
from fedjob.common.http_client import PIECE_BYTES, Patience, Web, _Pieces
from fedjob.common.types import Ref
from fedjob.repository import open_repository
from fedjob.repository.http import HttpRepository
from fedjob.repository.job_secrets import JobSecrets
from tests.hubs import HASTY

CONTENT = os.urandom(700_000)
REF = Ref(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def answer(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Scripted:
    """Gives one answer per connection and closes it; keeps the requests' heads."""

    def __init__(self, *answers: bytes | Callable[[str], bytes | None]) -> None:
        self._answers = list(answers)
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # the client may have had enough
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := connection.recv(65536)):
                return
            head += more
        text, _, body = head.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", text, re.IGNORECASE)
        missing = (int(found[1]) if found else 0) - len(body)
        while missing > 0 and (more := connection.recv(65536)):
            missing -= len(more)
        self.heads.append(text.decode())
        given = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        said = given(self.heads[-1]) if callable(given) else given
        if said is None:
            time.sleep(1)  # silence
        else:
            connection.sendall(said)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*answers: bytes | Callable[[str], bytes | None]) -> Scripted:
        started.append(Scripted(*answers))
        return started[-1]

    yield start
    for server in started:
        server.close()


def client(server: Scripted, patience: Patience = HASTY) -> HttpRepository:
    return HttpRepository(server.url, token="t", patience=patience)


def test_a_broken_download_goes_on_where_it_broke(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    def rest(head: str) -> bytes:
        found = re.search(r"Range: bytes=(\d+)-", head)
        assert found
        start = int(found[1])
        total = f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        # Breaks again and again, each time a little later.
        return answer(206, CONTENT[start : start + 150_000], total, length=len(CONTENT) - start)

    server = serve(answer(200, CONTENT[:1000], length=len(CONTENT)), rest)
    with client(server) as repository:
        assert repository.get(REF, tmp_path / "copy").read_bytes() == CONTENT
    assert len(server.heads) > HASTY.num_retries + 1  # progress gives new patience


def test_a_killed_download_is_taken_up_by_the_next_call(
    serve: Callable[..., Scripted], tmp_path: Path
) -> None:
    broken = serve(answer(200, CONTENT[:600_000], length=len(CONTENT)), answer(500))
    with client(broken) as repository, pytest.raises(RepositoryUnreachable):
        repository.get(REF, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    left = next(tmp_path.glob(".copy.*.part")).stat().st_size
    assert 0 < left <= 600_000
    total = f"Content-Range: bytes {left}-{len(CONTENT) - 1}/{len(CONTENT)}"
    whole = serve(answer(206, CONTENT[left:], total))
    with client(whole) as repository:
        assert repository.get(REF, tmp_path / "copy").read_bytes() == CONTENT
    assert f"bytes={left}-" in whole.heads[0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_for(
    serve: Callable[..., Scripted], tmp_path: Path, status: int
) -> None:
    server = serve(answer(status), answer(status), answer(200, CONTENT))
    with client(server) as repository:
        assert repository.get(REF, tmp_path / "copy").read_bytes() == CONTENT
    assert len(server.heads) == 3


def test_the_server_says_how_long_to_wait(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(503, b"", "Retry-After: 1"), answer(200, CONTENT))
    patience = Patience(num_retries=1, backoff_s=0.01, max_backoff_s=60)
    began = time.monotonic()
    with client(server, patience) as repository:
        repository.get(REF, tmp_path / "copy")
    assert 0.95 < time.monotonic() - began < 30


@pytest.mark.feature("FB-20")
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RepositoryError),
        (401, NotPermitted),
        (403, NotPermitted),
        (404, ObjectMissing),
        (413, ObjectTooLarge),
        (500, RepositoryUnreachable),
        (503, RepositoryUnreachable),
        (507, NoSpace),
        (301, RepositoryError),
        (302, RepositoryError),
    ],
)
def test_a_bad_status_is_the_error_that_it_means(
    serve: Callable[..., Scripted], tmp_path: Path, status: int, error: type[FedjobError]
) -> None:
    said = b'{"error": "because of the weather"}'
    server = serve(answer(status, said, "Location: http://127.0.0.1:1/v1/objects/x"))
    with client(server) as repository:
        for work in (
            lambda: repository.get(REF, tmp_path / "copy"),
            lambda: repository.put(CONTENT, job="job_1"),
        ):
            with pytest.raises(error) as raised:
                work()
            assert REF.sha256 in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.feature("FB-20")
def test_a_silent_server_is_given_up(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(lambda head: None)
    with (
        client(server, Patience(idle_s=0.2, num_retries=1, backoff_s=0.01)) as repository,
        pytest.raises(RepositoryUnreachable, match="does not answer in time"),
    ):
        repository.get(REF, tmp_path / "copy")


@pytest.mark.feature("FB-20")
def test_no_server_is_reported_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as held:  # nobody else can listen there
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with (
            HttpRepository(url, token="t", patience=HASTY) as repository,
            pytest.raises(RepositoryUnreachable, match="is the hub running"),
        ):
            repository.get(REF, tmp_path / "copy")


def test_compressed_answers_are_refused(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(200, CONTENT, "Content-Encoding: gzip"))
    with client(server) as repository, pytest.raises(RepositoryError, match="compression"):
        repository.get(REF, tmp_path / "copy")


def test_a_server_that_ignores_ranges_is_found_out(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(200, CONTENT[:1000], length=len(CONTENT)), answer(200, CONTENT))
    with client(server) as repository, pytest.raises(RepositoryError, match="drop ranges"):
        repository.get(REF, tmp_path / "copy")


def test_wrong_bytes_are_fetched_again(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(200, bytes(len(CONTENT))), answer(200, CONTENT[:-1]), answer(200, CONTENT))
    with client(server) as repository:
        assert repository.get(REF, tmp_path / "copy").read_bytes() == CONTENT
    assert len(server.heads) == 3


def test_after_an_upload_that_broke_off_small_pieces_are_sent() -> None:
    """Each piece has the patience of a connection: a slow line takes a small one in that time, and no whole block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with HttpRepository(url, token="t", patience=HASTY) as repository:
        assert repository._web._piece_bytes == BLOCK_BYTES
        with pytest.raises(RepositoryUnreachable):
            repository.put(CONTENT, job="job_1")
        assert repository._web._piece_bytes == PIECE_BYTES
    for size in (PIECE_BYTES, BLOCK_BYTES):
        pieces = list(_Pieces(CONTENT, size))
        assert b"".join(pieces) == CONTENT
        assert max(map(len, pieces)) == size


def test_an_encrypted_upload_that_arrives_changed_is_sent_again(
    serve: Callable[..., Scripted], tmp_path: Path
) -> None:
    server = serve(answer(422), answer(201))
    with client(server) as repository:
        repository.encrypt(JobSecrets(tmp_path / "keys"), encrypted=True)
        ref = repository.put(CONTENT, job="job_1")
        assert ref.sha256 == REF.sha256
        assert ref.cipher
    for script, said in ((answer(422), "never received"), (answer(200), "answers in its place")):
        with client(serve(script)) as repository:
            repository.encrypt(JobSecrets(tmp_path / "keys"), encrypted=True)
            with pytest.raises(RepositoryError, match=said):
                repository.put(CONTENT, job="job_1")


def test_an_endless_answer_is_cut_off(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(200, CONTENT * 20, length=1 << 40))
    with client(server) as repository, pytest.raises(ObjectCorrupt, match=REF.sha256):
        repository.get(REF, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_an_upload_that_arrives_changed_is_sent_again(serve: Callable[..., Scripted]) -> None:
    server = serve(answer(422), answer(201))
    with client(server) as repository:
        assert repository.put(CONTENT, job="job_1") == REF
    never = serve(answer(422))
    with client(never) as repository, pytest.raises(ObjectCorrupt, match=REF.sha256):
        repository.put(CONTENT, job="job_1")


def test_closing_ends_the_wait_for_a_retry(serve: Callable[..., Scripted], tmp_path: Path) -> None:
    server = serve(answer(503, b"", "Retry-After: 60"))
    repository = client(server, Patience(num_retries=5, max_backoff_s=60))
    threading.Timer(0.3, repository.close).start()
    began = time.monotonic()
    with pytest.raises(RepositoryUnreachable):
        repository.get(REF, tmp_path / "copy")
    assert time.monotonic() - began < 20


def test_cookies_credentials_and_certificates_of_the_environment_are_not_used(
    serve: Callable[..., Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    server = serve(answer(200, CONTENT, "Set-Cookie: a=b; Path=/"))
    with client(server) as repository:
        repository.get_bytes(REF, limit_bytes=len(CONTENT))
        repository.get_bytes(REF, limit_bytes=len(CONTENT))
    assert all("Cookie" not in head and "Authorization: Bearer t" in head for head in server.heads)


@pytest.mark.feature("FB-20")
@pytest.mark.parametrize(
    "url", ["htp:/x", "", "ftp://host/x", "http://", "http://a b", "http://host/?q=1", "http://u:p@host/"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="expected"):
        Web(url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8844", "http://localhost:8844/", "http://hub:8844", "https://hub.example.org/fedjob"],
)
def test_hosts_of_every_kind_are_accepted(url: str) -> None:
    assert Web(url).url == url.rstrip("/")


def test_a_url_without_a_backend_names_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="memory://"):
        open_repository("s4://bucket")
