"""The choice of the dataset's items that a node computes on, by its memory of earlier jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.errors import NodeFailure, SpecError
from fedjob.common.files import private
from fedjob.common.items import Items
from fedjob.data.readers.base import UNREADABLE, Dataset, ItemIdentity

ITEMS_NAME = "items.json"
"""Name of the file in which a worker lists the items that the node is to remember."""

Mark = tuple[float | None, str]
"""The time of an item's last change, and its hash, as the node's ledger records them."""


@dataclass(frozen=True, slots=True)
class Known:
    """A node's record of the items that a plan has processed on a dataset in earlier jobs.

    Args:
        processed, failed: id of an item -> its mark at that time.
    """

    processed: Mapping[str, Mark] = field(default_factory=dict)
    failed: Mapping[str, Mark] = field(default_factory=dict)


def choose(identities: Sequence[ItemIdentity], items: Items, known: Known, node: str) -> list[int]:
    """Return the places (indices) of the items to compute on, in their order.

    Raises:
        NodeFailure: `no_data` if there are no items at all, `no_new_data` if all are known.
    """
    if not identities:
        raise NodeFailure(node, "no_data", "the dataset has no items")
    chosen = [
        place
        for place, identity in enumerate(identities)
        if not (items.only == "new" and _is_known(identity, known.processed))
        and (items.retry_failed or not _is_known(identity, known.failed))
    ]
    if not chosen:
        raise NodeFailure(
            node, "no_new_data", f"all {len(identities)} items were processed before and have not changed"
        )
    return chosen[: items.limit]


def _is_known(identity: ItemIdentity, marks: Mapping[str, Mark]) -> bool:
    """Return whether the ledger has the item in its present version; without a readable time it is new."""
    if identity.id not in marks or identity.hash == UNREADABLE:
        return False
    mtime, hash_ = marks[identity.id]
    return (identity.mtime, identity.hash) == (mtime, hash_)


def places_of(selected: Any, identities: Sequence[ItemIdentity] | None, num_items: int) -> list[int]:
    """Return the places that a plan chose with `ctx.select`.

    Args:
        selected: places, a mask with one boolean per item, or ids.
        identities: of the items; None if their ids are not known.

    Raises:
        SpecError: `selected` is none of these, or names an item that does not exist.
    """
    values = selected.tolist() if hasattr(selected, "tolist") else list(selected)
    if values and all(type(value) is bool for value in values):
        if len(values) != num_items:
            raise SpecError(f"ctx.select with a mask takes {num_items} truth values, found {len(values)}")
        return [place for place, wanted in enumerate(values) if wanted]
    if values and all(isinstance(value, str) for value in values):
        by_id = {identity.id: place for place, identity in enumerate(identities or ())}
        unknown = [value for value in values if value not in by_id]
        if unknown:
            raise SpecError(f"ctx.select: there is no item {unknown[0][:80]!r}")
        return sorted({by_id[value] for value in values})
    if not all(type(value) is int and 0 <= value < num_items for value in values):
        raise SpecError(f"ctx.select takes places from 0 to {num_items - 1}, a mask, or ids from ctx.ids()")
    return sorted(set(values))


def chosen_data(
    data: Dataset | None, items: Items, known: Known, node: str
) -> tuple[Dataset | None, tuple[str, ...]]:
    """Return the items of a dataset that a job is for, and their identities if the ledger chose them.

    Raises:
        NodeFailure: there are no such items.
    """
    if data is None:
        return None, ()
    if not items.uses_ledger:
        count = int(data.num_rows)
        if items.limit is None or items.limit >= count:
            return data, ()
        return data.take(range(items.limit)), ()
    identities = data.identities()
    places = choose(identities, items, known, node)
    found = tuple(f"{identities[p].id} {identities[p].mtime} {identities[p].hash}" for p in places)
    return data.take(places), found


def save_known(known: Known, path: Path) -> None:
    """Write a node's record of known items to a file, for a worker."""
    with open(path, "w", encoding="utf-8", opener=private) as file:
        json.dump({"processed": known.processed, "failed": known.failed}, file)


def load_known(path: str) -> Known:
    """Read a file that `save_known` wrote; an empty path means that nothing is known."""
    if not path:
        return Known()
    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    return Known(*({id_: (m, h) for id_, (m, h) in plain[key].items()} for key in ("processed", "failed")))


def save_remembered(
    path: Path, processed: Sequence[ItemIdentity], failed: Sequence[tuple[ItemIdentity, str]]
) -> None:
    """Write the items that a worker processed, for the node to remember."""
    plain = {
        "processed": [[item.id, item.mtime, item.hash] for item in processed],
        "failed": [[item.id, item.mtime, item.hash, why[:200]] for item, why in failed],
    }
    with open(path, "w", encoding="utf-8", opener=private) as file:
        json.dump(plain, file)
