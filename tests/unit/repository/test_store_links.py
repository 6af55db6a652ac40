"""Links to the store behind a hub: a hub that lies leads its parties to no other server."""

from __future__ import annotations

import json

import pytest

from fedjob.common.errors import DecodeError
from fedjob.repository.store_links import read_link

SHA = "ab" * 32
SIGNED = f"bucket/objects/ab/{SHA}?X-Amz-Expires=300&X-Amz-Signature=00"
HUB = "https://hub.example.org"


def link(url: object) -> bytes:
    return json.dumps({"url": url}).encode()


def test_a_signed_url_of_the_object_is_taken() -> None:
    url = f"https://store.example.org/{SIGNED}"
    assert read_link(link(url), hub_url=HUB, sha256=SHA) == url
    near = f"http://127.0.0.1:9000/{SIGNED}"
    assert read_link(link(near), hub_url="http://127.0.0.1:8844", sha256=SHA) == near


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        link(None),
        link(["https://store.example.org"]),
        link(f"http://store.example.org/{SIGNED}"),
        link(f"file:///{SIGNED}"),
        link(f"https://127.0.0.1/{SIGNED}"),
        link(f"https://localhost/{SIGNED}"),
        link(f"https://[::1]/{SIGNED}"),
        link(f"https://169.254.169.254/{SIGNED}"),
        link(f"https://0.0.0.0/{SIGNED}"),
        link(f"https://user:word@store.example.org/{SIGNED}"),
        link(f"https://store.example.org/{SIGNED}#there"),
        link(f"https://store.example.org/other?X-Amz-Signature=00&x=/{SHA}"),
        link(f"https://store.example.org/bucket/objects/ab/{SHA}"),
        link("https://[store/x"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(answer: bytes) -> None:
    with pytest.raises(DecodeError, match="leads to no object"):
        read_link(answer, hub_url=HUB, sha256=SHA)
