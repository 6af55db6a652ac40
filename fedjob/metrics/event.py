"""A `metrics` event, the same whatever measured: which curve, where on it, which values.

A plan emits numbers by name, `emit("metrics", {"epoch": 1, "loss": 0.3})`; on the way out they
are put together as `values`, beside the name of what measured them. One form for every kind of
algorithm, so that whoever draws curves needs to know none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PLACES = ("phase", "round", "iteration", "num_updates", "epoch", "epochs", "samples", "source", "values")
"""Fields that say where on a curve a measurement stands, or whose it is; all other numbers were measured."""


def measured(body: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the body of a `metrics` event as it travels.

    Args:
        body: as it was emitted: places such as `epoch`, and numbers by name.
        source: name of the plan's class, or of the protocol's where there is no plan.
    """
    own = body.get("values")
    values = dict(own) if isinstance(own, Mapping) else {}
    values |= {
        str(name): value
        for name, value in body.items()
        if name not in PLACES and isinstance(value, (int, float))
    }
    return {**body, "source": body.get("source", source), "values": values}


def naming(send: Callable[[str, dict[str, Any]], None], source: str) -> Callable[[str, dict[str, Any]], None]:
    """Return what sends events as `send` does, `metrics` in their one form."""

    def send_named(type_: str, data: dict[str, Any]) -> None:
        send(type_, measured(data, source) if type_ == "metrics" else data)

    return send_named
