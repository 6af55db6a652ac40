"""Arguments of a job as its spec keeps them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.common.guard import Guard
from fedjob.common.items import Items
from fedjob.common.needs import read_need
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.types import check_party
from fedjob.researcher.spec import plain_args


def checked_guard(guard: Any) -> dict[str, Any]:
    """Return a guard as a spec keeps it.

    Raises:
        SpecError: it is none.
    """
    if guard is not None and not isinstance(guard, Guard):
        raise SpecError(f"guard is a Guard(max_norm=...) or None, not {guard!r}")
    plain: dict[str, Any] = {} if guard is None else to_plain(guard)
    return plain


def checked_quorum(quorum: Any) -> dict[str, Any]:
    """Return a quorum as a spec keeps it.

    Raises:
        SpecError: it is none.
    """
    if not isinstance(quorum, Quorum):
        raise SpecError(f"quorum is a Quorum(required=..., min_nodes=..., deadline_s=...), not {quorum!r}")
    return {
        "required": ALL if quorum.required == ALL else list(quorum.required),
        "min_nodes": quorum.min_nodes,
        "deadline_s": quorum.deadline_s,
        "grants_deadline_s": quorum.grants_deadline_s,
    }


def checked_items(items: Any) -> Items:
    """Return which items a job is computed on; None is all of them, in one batch.

    Raises:
        SpecError: it is no `Items`.
    """
    if items is not None and not isinstance(items, Items):
        raise SpecError(
            f"items is Items(only=..., limit=..., batch=..., tolerate=..., retry_failed=...), not {items!r}"
        )
    return items or Items()


def checked_resources(resources: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return resources per node; what is given for no node in particular is the default of all.

    Raises:
        SpecError: they are not plain, or a node's name is none.
    """
    plain = plain_args("resources", resources)
    if plain and not any(isinstance(value, dict) for value in plain.values()):
        plain = {"default": plain}
    for node, wanted in plain.items():
        check_party(node)
        if not isinstance(wanted, dict):
            raise SpecError(
                f"resources[{node!r}] is a map such as {{'gpus': 1, 'memory': '8Gi'}}, not {wanted!r}"
            )
        read_need(wanted)
    return plain


def checked_watchers(watchers: Sequence[str]) -> list[str]:
    """Return parties that may follow a job.

    Raises:
        SpecError: one is no party's name.
    """
    if isinstance(watchers, str):
        raise SpecError(f"watchers is a list of parties: watchers=[{watchers!r}]")
    return [check_party(party) for party in watchers]
