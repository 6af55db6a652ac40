"""The replies of a round under the names of the Fed-BioMed job: a list with the fields of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import NotReady
from fedjob.common.notebooks import html
from fedjob.common.notebooks.plain_tables import text_table
from fedjob.metrics.states import value
from fedjob.parameters.files import FileParams
from fedjob.protocols.usage import Usage
from fedjob.researcher.storage.replies import Arrival

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReply:
    """The reply of one node to a train request, with attributes and, as in the original, with keys.

    `reply["node_id"]`, `reply.get("msg")`, `"params" in reply` and `dict(reply)` read the same values.

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
        usage: `overrun` and `allowed` where the reply reached a limit of the owner's, else None.
        sandbox: that the node computed it in; `none` for none.
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
    usage: Usage | None = None
    sandbox: str = ""

    def keys(self) -> tuple[str, ...]:
        """Return the names of what a reply holds, the parameters included."""
        return (*(f.name for f in fields(self)), "params")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"a reply has no {name!r}; it has {', '.join(self.keys())}")
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return what the reply holds under a name, `default` if there is no such name."""
        return self[name] if name in self.keys() else default

    @property
    def params(self) -> dict[str, torch.Tensor] | None:
        """The node's parameters, read from their file now; None after a validation.

        Raises:
            NotReady: their file is gone: a job without `keep=True` keeps those of the last round only.
        """
        if not self.params_path:
            return None
        if not Path(self.params_path).exists():
            raise NotReady(
                f"the parameters that {self.node_id} sent are not kept any more: Job(keep=True) keeps those of all rounds"
            )
        from fedjob.parameters.auxiliary import split

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

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        """Return the header and a row for each reply: examples, metrics, seconds, and why it was left out."""
        named = list(
            dict.fromkeys((phase, name) for r in self for phase, each in r.metrics.items() for name in each)
        )
        header = ["node", "examples", *(f"{name} ({phase})" for phase, name in named), "seconds", "left out"]
        rows = [
            [
                r.node_id,
                r.sample_size if r.success else None,
                *(r.metrics.get(phase, {}).get(name) for phase, name in named),
                r.timing.get("total"),
                "" if r.success else r.msg,
            ]
            for r in self
        ]
        for place in reversed([i for i in range(2, len(header)) if not any(row[i] for row in rows)]):
            header.pop(place)
            for row in rows:
                row.pop(place)
        return header, rows

    def __repr__(self) -> str:
        return text_table(*self._table()) if self else "(no replies)"

    def _repr_html_(self) -> str:
        return html.panel("", html.table(*self._table()) if self else html.note("no replies"))


def replies_to_plain(replies: Replies) -> list[dict[str, Any]]:
    """Return a round's replies as plain data; `params_path` names the file of a reply's tensors."""
    return [
        {f.name: getattr(reply, f.name) for f in fields(TrainingReply) if f.name != "optim_aux_var"}
        for reply in replies
    ]


def replies_from_plain(plain: Sequence[Mapping[str, Any]], path_of: Callable[[str], str]) -> Replies:
    """Return the replies that `replies_to_plain` gave.

    Args:
        path_of: returns where the tensors of a node's reply lie, or would lie.
    """
    from fedjob.parameters.auxiliary import split

    replies = Replies()
    for reply in plain:
        path = path_of(str(reply["node_id"])) if reply["params_path"] else ""
        shared = split(FileParams(Path(path)))[1] if path and Path(path).exists() else {}
        usage = None if reply["usage"] is None else Usage(*reply["usage"])
        replies.append(
            TrainingReply(**{**reply, "params_path": path, "optim_aux_var": shared, "usage": usage})
        )
    return replies


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
                usage=None if result.usage is None else Usage(*result.usage),
                sandbox=result.sandbox,
            )
        )
    for node, reason in sorted(left_out.items()):
        replies.append(
            TrainingReply(
                success=False, msg=reason, dataset_id=str(datasets[node].get("name", "")), node_id=node
            )
        )
    return replies
