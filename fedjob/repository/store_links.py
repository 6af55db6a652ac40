"""Links to the store behind a hub: URLs, signed by the hub, under which a party fetches one object's bytes itself.

A link comes in the body of the hub's own answer, never as a redirect, and is fetched without the party's token.
Where that fails, for whatever reason, the bytes come through the hub.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from fedjob.common.errors import DecodeError, FedjobError
from fedjob.common.http_client import Passing, Patience, Web
from fedjob.common.network.addresses import is_loopback

DIRECT = "X-Fedjob-Direct"
"""The header by which a party asks for a link instead of bytes."""

LINK_TYPE = "application/vnd.fedjob.link+json"
MAX_LINK_BYTES = 16 << 10
_PATIENCE = Patience(connect_s=5.0, num_retries=0)


def read_link(answer: bytes, *, hub_url: str, sha256: str) -> str:
    """Return the URL in a hub's answer.

    A hub that lies must not make its parties speak to servers of their own network: the URL is of that object, is
    signed, and names neither this machine nor a link-local address, unless the hub is on this machine itself.

    Raises:
        DecodeError: it is no such link.
    """
    try:
        url = json.loads(answer)["url"]
        parts, hub = urlsplit(url), urlsplit(hub_url)
        host = parts.hostname or ""
        fits = (
            parts.scheme in ("http", "https")
            and (parts.scheme == "https" or hub.scheme == "http")
            and parts.path.endswith(f"/{sha256}")
            and "X-Amz-Signature=" in parts.query
            and "@" not in parts.netloc
            and not parts.fragment
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        fits, host, hub = False, "", urlsplit(hub_url)
    if not fits or (_is_near(host) and not is_loopback(hub.hostname or "")):
        raise DecodeError(f"{hub_url} answers with a link that leads to no object of its store")
    return str(url)


def _is_near(host: str) -> bool:
    """True for names and addresses of this very machine and of its link, such as a cloud's metadata service."""
    if is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_link_local or address.is_unspecified or address.is_loopback


class StoreLinks:
    """The way to the store behind one hub; closed for good once it failed.

    Args:
        verify, proxy: as for the hub.
    """

    def __init__(self, hub_url: str, *, verify: bool | str | Path = True, proxy: str = "") -> None:
        self.is_open = True
        self._hub_url = hub_url
        self._verify = verify
        self._proxy = proxy
        self._webs: dict[str, Web] = {}

    def fetch(self, answer: bytes, sha256: str, offset: int) -> Iterator[bytes]:
        """Yield an object's bytes from `offset` on, as a hub's answer says; fewer where the way broke.

        Raises:
            DecodeError: the answer is no link to that object.
        """
        url = read_link(answer, hub_url=self._hub_url, sha256=sha256)
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._webs:
            self._webs[origin] = Web(origin, verify=self._verify, proxy=self._proxy, patience=_PATIENCE)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self._webs[origin].stream(
                "GET", f"{parts.path}?{parts.query}", headers=headers, what=f"object {sha256}", accept=(416,)
            ) as stream:
                found = stream.headers.get("Content-Range", "")
                if stream.status == 416 or (offset and not found.startswith(f"bytes {offset}-")):
                    self.is_open = False
                    return
                yield from stream.blocks()
        except (Passing, FedjobError):
            self.is_open = False

    def close(self) -> None:
        """Close the connections."""
        for web in self._webs.values():
            web.close()
