"""Inference: every node applies a trained model to its own items, once or in every round.

    y_k = f(w, x_k)        predictions of the model w for the items of node k

The researcher sends the trained parameters with the text of the plan that they belong to. A node
answers with a prediction for each of its items, in their order, or keeps the predictions as files for
its owner and answers with their number. Predictions leak facts about single rows: a node's owner grants
inference separately from training, limits the number of predictions, or keeps them at the node
(docs/inference.md).

With `rounds` there is a pass over the items in each round; with `Items(only="new")` it is a pass over the
items that are new since the last one. A node whose limit is reached is not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_kinds, shown
from fedjob.common.codec import pack
from fedjob.common.errors import LimitsExceeded, SpecError
from fedjob.protocols.answer_form import Something
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.protocols.function import NodeValues
from fedjob.protocols.predictions import (
    FORMS,
    Predictions,
    joined,
    led_by,
    merged,
    predictions_of,
    rows_of,
    to_keep,
    to_send,
)
from fedjob.protocols.step_inputs import TENSORS
from fedjob.protocols.usage import INFERENCES

STEP = "infer"
LEFT = "inferences_left"
"""The name of the limit with which a node reports the number of predictions that its owner still allows."""

KEPT_BYTES = 16 << 20
"""The most bytes of predictions that a job carries from round to round; of more, the newest make its result."""

MAX_REPORTED_ROWS = 1000
MAX_REPORTED_BYTES = 64 << 10
"""The most rows, and bytes of them, that one event reports; the job's replies and its result have all."""


@dataclass(frozen=True, slots=True)
class Inference(FederatedProtocol):
    """One prediction for every item at every node.

    Args:
        model: the result of a job that trained, or its params artifact; None where the job gives
            `training_plan` and `init`. It stays with the researcher.
        output: the form of the predictions: `array`, as the model returns them; `table` or `csv`, with a column
            for each number; `files`, one for each item: PNG for images of bytes, else npy.
        release: whether predictions are sent to the researcher, where a node's owner allows it; with False they
            stay at the node as files, and the node reports only their number.
        primary: for a model with several outputs, whose `inference_step` returns `{name: tensor}`: the output
            that an array holds, and that is first in tables; empty for all.
    """

    model: Any = None
    output: str = "array"
    release: bool = True
    primary: str = ""

    name: ClassVar[str] = "inference"
    family: ClassVar[str] = "infer"
    batched_steps: ClassVar[tuple[str, ...]] = (STEP,)
    remembers_items: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.output not in FORMS:
            raise SpecError(f"Inference(output=...) is one of {', '.join(FORMS)}, not {shown(self.output)}")
        if type(self.release) is not bool:
            raise SpecError(f"Inference(release=...) is True or False, not {shown(self.release)}")
        if not isinstance(self.primary, str):
            raise SpecError(f"Inference(primary=...) is the name of an output, not {shown(self.primary)}")

    # -- researcher -----------------------------------------------------------------

    def start(self, params: Mapping[str, Any]) -> State:
        return {"params": params, "round": 0, "passes": {}, "used_up": []}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {"params": TENSORS}

    def instruct(self, state: State, view: View) -> Ask | Done:
        left = tuple(node for node in view.nodes if node not in state["used_up"])
        if state["round"] < view.rounds and left:
            to = left if state["used_up"] else None
            return Ask(
                step=STEP,
                shared={"params": state["params"]},
                to=to,
                aggregator=Collect(),
                schema={},
                answer=Something(),
            )
        return Done(NodeValues({node: merged(passes) for node, passes in state["passes"].items()}))

    def finish(self, state: State, gathered: Gathered) -> State:
        round_ = state["round"] + 1
        passes = {node: list(kept) for node, kept in state["passes"].items()}
        for node, reply in sorted(gathered.replies.items()):
            passes.setdefault(node, []).append((round_, reply.value))
        over = {node for node, reply in gathered.replies.items() if reply.usage is not None}
        used_up = sorted({*state["used_up"], *over})
        return {**state, "round": round_, "passes": _newest(passes), "used_up": used_up}

    def report(self, gathered: Gathered) -> Mapping[str, Mapping[str, Any]]:
        """Return node -> its number of predictions and the first of them, as many as an event may hold."""
        return {
            node: {"num_rows": reply.num_examples, "rows": _fitting(rows_of(reply.value, MAX_REPORTED_ROWS))}
            for node, reply in gathered.replies.items()
        }

    # -- node -------------------------------------------------------------------------

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan: Any = local.plan
        plan.set_params(instruction["params"])
        ids = [identity.id for identity in plan.dataset.identities()] if self._stays(local) else ()
        found = led_by(predictions_of(plan.predict_all(), ids), self.primary)
        before = local.used.get(INFERENCES, 0)
        local.used[INFERENCES] = before + len(found)
        allowed = found.first(max(0, _left(local) - before))
        return Contribution(allowed.to_plain(), float(len(allowed)))

    def join(self, parts: Sequence[Contribution], local: Local) -> Contribution:
        found = joined([Predictions.from_plain(part.value) for part in parts])
        return Contribution(found.to_plain(), float(len(found)))

    def reduce(self, total: Contribution, local: Local) -> Contribution:
        """Turn predictions into the node's answer, and keep them as files where they are to stay.

        Raises:
            LimitsExceeded: there are more items than the owner allows predictions; the error carries the answer
                for those that are allowed.
        """
        found = Predictions.from_plain(total.value)
        if self._stays(local):
            files = to_keep(found, self.output)
            for name, data in files:
                local.keep(name, data)
            value: Any = {"num_rows": len(found), "num_files": len(files)}
        else:
            value = to_send(found, self.output, self.primary)
        answer = Contribution(value, total.weight)
        wanted = local.used[INFERENCES]
        overrun = wanted - len(found)
        if overrun:
            raise LimitsExceeded(
                local.node,
                f"{len(found)} of {wanted} predictions ran and are kept; {overrun} were over what the owner allows",
                partial=answer,
                used=local.used,
                overrun=overrun,
            )
        return answer

    def _stays(self, local: Local) -> bool:
        return not self.release or local.limits.get("predictions") == "stay"


def _left(local: Local) -> int:
    """Return how many more predictions the owner allows; a huge number where there is no limit."""
    return int(local.limits.get(LEFT, 2**62))


def _newest(passes: dict[str, list[tuple[int, Any]]]) -> dict[str, list[tuple[int, Any]]]:
    """Return the newest passes of each node that a job can carry along, at least the last."""
    most = KEPT_BYTES // max(1, len(passes))
    kept: dict[str, list[tuple[int, Any]]] = {}
    for node, values in passes.items():
        size = 0
        newest: list[tuple[int, Any]] = []
        for round_, value in reversed(values):
            size += len(pack(value))
            if newest and size > most:
                break
            newest.append((round_, value))
        kept[node] = newest[::-1]
    return kept


def _fitting(rows: list[list[Any]]) -> list[list[Any]]:
    """Return the first rows that fit an event."""
    while rows and len(pack(rows)) > MAX_REPORTED_BYTES:
        rows = rows[: len(rows) // 2]
    return rows
