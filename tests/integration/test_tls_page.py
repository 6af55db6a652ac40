"""The commands of docs/tls.md make an authority that strict checks accept."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

from tests.parts import program

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"


def test_the_commands_of_the_page_make_what_strict_clients_accept(tmp_path: Path) -> None:
    program("openssl")
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.verify_flags |= (
        ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    )  # the defaults of Python 3.13
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "hub.pem", tmp_path / "hub.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="hub.example.org")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version()
    assert ours.getpeercert()
