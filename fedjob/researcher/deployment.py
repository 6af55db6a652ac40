"""Which plan runs where: one for all nodes, or a map; each node gets the text of its own and of no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.types import Ref
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Code:
    """What a node runs: a plan's text in the repository, and the class in it."""

    ref: Ref
    entry: str


Publish = Callable[[Path, str | None], Ref]


def publish_code(spec: JobSpec, folder: JobFolder, publish: Publish) -> dict[str, Code]:
    """Put the plans where their nodes can read them; return node -> code, empty where no plan is needed."""
    if not spec.plan_hash:
        return {}
    if not spec.plans:
        ref = publish(folder.plan, None)
        return {node: Code(ref, spec.plan_entry) for node in spec.datasets}
    return {
        node: Code(publish(folder.plan_of(plan["hash"]), node), plan["entry"])
        for node, plan in spec.plans.items()
        if node in spec.datasets
    }


def deployment(spec: JobSpec) -> dict[str, list[str]]:
    """Return plan -> nodes that it runs at, once these are known; a plan is written `Class@sha256`."""
    deployed: dict[str, list[str]] = {}
    for node in sorted(spec.datasets):
        plan: Mapping[str, str] = spec.plans.get(node, {"entry": spec.plan_entry, "hash": spec.plan_hash})
        name = f"{plan['entry']}@{plan['hash']}" if plan["hash"] else spec.protocol.name
        deployed.setdefault(name, []).append(node)
    return deployed
