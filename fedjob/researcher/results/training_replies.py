"""The replies of a round under the names of the Fed-BioMed job: a list with the fields of the original."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.metrics.states import value
from fedjob.researcher.storage.replies import Arrival

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReply:
    """The reply of one node to a train request.

    Args:
        success: False for a node that was left out; `msg` then has the reason.
        optimizer_args: what the optimizer used: of torch `{"optimizer": "SGD", "groups": [{"lr": 0.1, ...}]}`, of
            scikit-learn `{"estimator": "SGDClassifier", "alpha": ...}`; empty after a validation.
        params_path: safetensors file of the node's parameters; empty after a validation.
        optim_aux_var: `{module: {name: tensor}}`, empty where the optimizer shares none; a tensor is read when
            it is asked for.
        encryption_factor: always None; kept because the original has it.
        metrics: `{phase: {name: value}}`.
        used: resources that the node charged, `{resource, amount}` each.
    """

    success: bool
    msg: str
    dataset_id: str
    node_id: str
    state_id: str | None = None
    params_path: str = ""
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    optim_aux_var: dict[str, Any] = field(default_factory=dict)
    sample_size: int = 0
    encryption_factor: float | None = None
    timing: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    used: list[dict[str, Any]] = field(default_factory=list)

    @property
    def params(self) -> dict[str, torch.Tensor] | None:
        """The node's parameters, read from their file now; None after a validation."""
        if not self.params_path:
            return None
        from fedjob.parameters.auxiliary import split
        from fedjob.parameters.files import FileParams

        stored, _ = split(FileParams(Path(self.params_path)))
        return {name: stored[name].clone() for name in stored}


class Replies(list[TrainingReply]):
    """The replies of one round."""

    def data(self) -> list[dict[str, Any]]:
        """Return each reply as a dictionary, without its parameters."""
        return [{f.name: getattr(reply, f.name) for f in fields(TrainingReply)} for reply in self]

    def dataframe(self) -> Any:
        """Return one row per reply as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.data(), columns=[f.name for f in fields(TrainingReply)])

    def get(self, node_id: str) -> TrainingReply | None:
        """Return the reply of a node, None if there is none."""
        return next((reply for reply in self if reply.node_id == node_id), None)

    def __repr__(self) -> str:
        return "\n".join(f"{r.node_id}: {_summary(r)}" for r in self) or "(no replies)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(r.node_id)}</td><td>{html.escape(_summary(r))}</td></tr>" for r in self
        )
        return f"<table><tr><th>node</th><th>reply</th></tr>{rows}</table>"


def _summary(reply: TrainingReply) -> str:
    if not reply.success:
        return f"left out: {reply.msg}"
    measured = ", ".join(
        f"{name} {number:.4g} ({phase})"
        for phase, named in reply.metrics.items()
        for name, number in named.items()
    )
    return f"{reply.sample_size} examples" + (f", {measured}" if measured else "")


def make_replies(
    arrivals: Mapping[str, Arrival], left_out: Mapping[str, str], datasets: Mapping[str, Mapping[str, Any]]
) -> Replies:
    """Return a round's replies, those that count first, then those left out; in the order of node ids."""
    from fedjob.parameters.auxiliary import split

    replies = Replies()
    for node, arrival in sorted(arrivals.items()):
        result = arrival.result
        replies.append(
            TrainingReply(
                success=result.ok,
                msg="" if result.ok else f"{result.reason}: {result.detail}",
                dataset_id=str(datasets[node].get("name", "")),
                node_id=node,
                state_id=result.state,
                params_path=str(arrival.params.path) if arrival.params is not None else "",
                optimizer_args=dict(result.optimizer_args),
                optim_aux_var={} if arrival.params is None else split(arrival.params)[1],
                sample_size=result.num_examples,
                timing=dict(result.timing),
                metrics={
                    phase: {name: value(state) for name, state in states.items()}
                    for phase, states in result.metrics.items()
                },
                used=list(result.used),
            )
        )
    for node, reason in sorted(left_out.items()):
        replies.append(
            TrainingReply(
                success=False, msg=reason, dataset_id=str(datasets[node].get("name", "")), node_id=node
            )
        )
    return replies
