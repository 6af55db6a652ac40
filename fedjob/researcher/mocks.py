"""The mock of a dataset, fetched from its node to be tried out here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fedjob.common.codec import from_plain
from fedjob.common.errors import NoReply, SpecError
from fedjob.common.messages import Found, Search
from fedjob.common.packing import unpacked_once
from fedjob.common.types import Ref

if TYPE_CHECKING:
    from fedjob.common.readers import Dataset
    from fedjob.researcher.catalogue import DatasetHandle

MAX_BYTES = 4 << 30


def fetch_mock(handle: DatasetHandle, timeout_s: float) -> Dataset:
    """Return a dataset's mock as a local dataset; see `DatasetHandle.mock`."""
    from fedjob.common.loader import open_dataset

    if not handle.has_mock:
        raise SpecError(f"{handle} has no mock{_ask(handle)}")
    session = handle.session
    if session is None:
        raise SpecError(f"{handle} was not found by a session: take it from session.datasets()")
    question = Search(name=handle.name, mock=True)
    message = session.ask([handle.node], question, timeout_s=timeout_s).get(handle.node)
    if message is None or not isinstance(message.body, Found):
        raise NoReply(f"{handle.node} did not answer within {timeout_s:.0f} s: look at session.nodes()")
    told = message.body.datasets[0] if message.body.datasets else {}
    if "mock" not in told:
        why = told.get("problem") or "its owner does not publish mocks (`publish_mocks`)"
        raise SpecError(
            f"{handle} offers no mock to fetch: {why}{_ask(handle)}; jobs with use='mock' may run on it"
        )
    ref = from_plain(Ref, told["mock"])
    home = session.home / "mocks" / handle.node / handle.name
    path = unpacked_once(home / ref.sha256, partial(session.repository.get, ref), limit_bytes=MAX_BYTES)
    told_parts = {part: told[part] for part in ("options", "loading") if isinstance(told.get(part), dict)}
    return open_dataset(
        {
            **told_parts,
            "path": path,
            "reader": str(told.get("reader", "")),
            "name": handle.name,
            "tags": handle.tags,
        }
    )


def _ask(handle: DatasetHandle) -> str:
    return f"; ask {handle.contact}" if handle.contact else ""
