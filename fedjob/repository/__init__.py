"""The stores of immutable bytes that are named by their hash, chosen by a URL.

The URL names the backend: `memory://`, the path of a folder, or the hub's http(s) URL.
"""

from __future__ import annotations

from pathlib import Path

from fedjob.common.errors import SpecError
from fedjob.common.network.credentials import Credentials
from fedjob.repository.base import Repository

__all__ = ["Repository", "open_repository"]


def open_repository(
    url: str | Path,
    *,
    token: str = "",
    verify: bool | str | Path = True,
    proxy: str = "",
    credentials: Credentials | None = None,
) -> Repository:
    """Return the repository at `url`.

    Args:
        url: `memory://` for a new one in this process, the path of a folder, or the hub's URL.
        token: this party's token, for a hub.
        verify: whether to check a hub's certificate, or the path of its authority's certificate.
        proxy: through which a hub is reached: its URL, `none`, or empty for what the environment says.
        credentials: that this party shows a hub besides its token.

    Raises:
        SpecError: no backend has such a URL.
    """
    text = str(url)
    if text == "memory://":
        from fedjob.repository.memory import MemoryRepository

        return MemoryRepository()
    if text.startswith(("http://", "https://")):
        from fedjob.repository.http import HttpRepository

        return HttpRepository(text, token=token, verify=verify, proxy=proxy, credentials=credentials)
    if isinstance(url, Path) or "://" not in text:
        from fedjob.repository.directory import DirectoryRepository

        return DirectoryRepository(Path(url))
    raise SpecError(
        f"expected memory://, the path of a folder, or the URL of a hub (http://...); found {text[:80]!r}"
    )
