"""TLS over a line that breaks: a handshake that was cut is tried again, and one that is refused is named at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import RepositoryUnreachable
from fedjob.common.http_client import Patience
from fedjob.repository.http import HttpRepository
from tests.authorities import Authority
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.script import Fault, Script
from tests.faults.serving import LoopThread, Stream
from tests.parts import program
from tests.tls_hubs import TlsHub

pytestmark = pytest.mark.timeout(90)

HASTY = Patience(connect_s=2, idle_s=2, num_retries=7, backoff_s=0.01, max_backoff_s=0.05)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsHub]:
    program("mosquitto")
    with TlsHub(tmp_path_factory.mktemp("hub")) as made:
        yield made


@pytest.mark.parametrize("num_bytes", [40, 400, 1500], ids=lambda num: f"after {num} bytes")
@pytest.mark.parametrize("kind", ["cut", "reset", "half_close"])
def test_a_handshake_that_breaks_off_is_tried_again(
    hub: TlsHub, kind: str, num_bytes: int, tmp_path: Path
) -> None:
    member = hub.join(f"node-{kind}-{num_bytes}".replace("_", "-"), home=tmp_path / "home")
    with LoopThread() as loop:
        line = FaultyLine(loop, int(hub.url.rpartition(":")[2]))
        script = Script((Fault(kind=kind, num=num_bytes, most=4),), seed=num_bytes)
        line.become(LineProperties(), script)
        with HttpRepository(
            f"https://127.0.0.1:{line.port}",
            token=member.token,
            verify=hub.ca,
            credentials=member.credentials,
            patience=HASTY,
        ) as repository:
            ref = repository.put(b"kept", job="j")
            assert repository.get_bytes(ref, limit_bytes=10) == b"kept"
    assert script.done[kind] == 4


class _Spoiled(FaultyLine):
    """A line on which the first answers from the server are something else than TLS."""

    left = 2

    async def serve(self, client: Stream) -> None:
        if self.left <= 0:
            await super().serve(client)
            return
        self.left -= 1
        await client.reader.read(1 << 14)
        await client.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        client.finish()
        await client.reader.read()


def test_bytes_that_were_spoiled_on_the_way_are_not_taken_for_a_server_without_tls(
    hub: TlsHub, tmp_path: Path
) -> None:
    member = hub.join("spoiled", home=tmp_path / "home")
    with LoopThread() as loop:
        line = _Spoiled(loop, int(hub.url.rpartition(":")[2]))
        about: dict[str, Any] = {"token": member.token, "verify": hub.ca, "credentials": member.credentials}
        url = f"https://127.0.0.1:{line.port}"
        with HttpRepository(url, patience=HASTY, **about) as repository:
            assert repository.get_bytes(repository.put(b"kept", job="j"), limit_bytes=10) == b"kept"
        assert line.left == 0
        line.left = 1 << 20
        with (
            HttpRepository(url, patience=HASTY, **about) as repository,
            pytest.raises(RepositoryUnreachable, match="does not speak TLS"),
        ):
            repository.put(b"more", job="j")


def test_a_certificate_that_is_not_trusted_is_named_at_once(hub: TlsHub, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    began = time.monotonic()
    with (
        HttpRepository(hub.url, token="t", verify=other.cert) as repository,
        pytest.raises(RepositoryUnreachable, match="is not trusted"),
    ):
        repository.put(b"kept", job="j")
    assert time.monotonic() - began < 5
