"""What a job offers each of its nodes."""

from __future__ import annotations

from fedjob.common.messages import Offer
from fedjob.researcher.bringing import BROUGHT
from fedjob.researcher.deployment import Code
from fedjob.researcher.spec import JobSpec, resources_of


def offer_for(
    spec: JobSpec,
    node: str,
    code: Code | None,
    *,
    reserve: bool = False,
    dry: bool = False,
    proof: str = "",
) -> Offer:
    """Return the offer of a job to one of its nodes.

    Args:
        code: what the node is to run; None where nothing travels.
        reserve: hold resources for a short lease.
        dry: look only; nothing is filed.
        proof: for the nodes' verifiers.
    """
    dataset = spec.datasets[node]
    return Offer(
        dataset=str(dataset["name"]),
        protocol=spec.protocol.name,
        config=spec.protocol.config,
        plan=None if code is None else code.ref,
        entry="" if code is None else code.entry,
        use=spec.use,
        project=spec.project,
        job_name=spec.name,
        note=spec.note,
        owner=dict(spec.owner),
        model_args=spec.model_args,
        training_args=spec.training_args,
        rounds=spec.rounds,
        brings=BROUGHT in dataset,
        preprocess=list(dataset.get("preprocess") or ()),
        resources=resources_of(spec, node),
        launches=sorted(spec.launches),
        reserve=reserve,
        dry=dry,
        proof=proof,
    )
