"""One hospital in this process: real work orders to the code of a worker, and everything that would leave."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import NodeFailure
from fedjob.common.items import Items
from fedjob.data.preprocessing import to_plain_steps
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.parameters.files import FileParams, is_params, save_params
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Reply, View
from fedjob.training_plans.source.compilation import built_plan
from fedjob.training_plans.source.extraction import extract


@dataclass
class Left:
    """All that left the hospital in one answer: the result and the events, or the reason of a refusal."""

    done: WorkResult | None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refused: str = ""

    @property
    def value(self) -> Any:
        return None if self.done is None else unpack(pack(to_plain(self.done.value)))

    @property
    def metrics(self) -> dict[str, Any]:
        return {} if self.done is None else self.done.metrics

    @property
    def params(self) -> FileParams | None:
        path = "" if self.done is None else self.done.params_path
        return FileParams(Path(path)) if path else None

    @property
    def curves(self) -> list[dict[str, Any]]:
        """The measured numbers of all events."""
        return [body["values"] for type_, body in self.events if type_ == "metrics"]


class Hospital:
    """A node with one table, whose owner sets a minimum of rows.

    Args:
        table: what its file holds; a path is used as it is.
        min_rows: 0 for none.
    """

    def __init__(self, folder: Path, table: pd.DataFrame | Path, min_rows: int, **info: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.min_rows = folder, min_rows
        if isinstance(table, pd.DataFrame):
            self.path = folder / "data.csv"
            table.to_csv(self.path, index=False)
        else:
            self.path = table
        self.info = {"name": "data", "path": str(self.path), **info}
        self._numbers = itertools.count()

    def ask(
        self,
        protocol: FederatedProtocol,
        step: str = "train",
        values: Mapping[str, Any] | None = None,
        *,
        plan: Any = None,
        params: Mapping[str, Any] | None = None,
        args: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
        items: Items | None = None,
        preprocess: Any = (),
        seed: int = 7,
        round_: int = 1,
        bench: Workbench | None = None,
    ) -> Left:
        """Have a step computed."""
        output = self.folder / f"out_{next(self._numbers)}"
        output.mkdir()
        name, config = PROTOCOLS.config_of(protocol)
        source = None if plan is None else extract(plan)
        paths = {}
        if params is not None:
            save_params(params, output / "in.safetensors")
            paths = {"params": str(output / "in.safetensors")}
            (output / "out").mkdir()
        else:
            (output / "out").mkdir()
        order = WorkOrder(
            key=f"k{output.name}",
            job="job",
            round=round_,
            step=step,
            node="hospital",
            protocol=name,
            config=unpack(pack(config)),
            plan_text="" if source is None else source.text,
            entry="" if source is None else source.entry,
            dataset={**self.info, "preprocess": to_plain_steps(list(preprocess))},
            values=unpack(pack(to_plain(dict(values or {})))),
            params=paths,
            model_args=dict(model_args or {}),
            training_args=dict(args or {}),
            seed=seed,
            items=items or Items(),
            output_path=str(output / "out"),
            scratch_path=str(output),
            limits={"min_rows": self.min_rows} if self.min_rows else {},
            releases_path=str(self.folder / "releases.safetensors"),
        )
        left = Left(None)
        try:
            done = (bench or Workbench()).compute(
                order, lambda type_, body: left.events.append((type_, dict(body)))
            )
        except NodeFailure as failure:
            left.refused = failure.reason
            left.events.append(("refusal", {"detail": str(failure)}))
            return left
        if done.num_examples < self.min_rows:  # the daemon's own check, see `node/execution/outputs.py`
            left.refused = "min_rows"
            return left
        left.done = done
        return left

    def first(self, plan: Any, model_args: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
        """Return the initial parameters of a plan."""
        source = extract(plan)
        built = built_plan(source.text, source.entry, dict(model_args), dict(args), 7)
        return dict(built.get_params())

    def play(self, protocol: FederatedProtocol, **more: Any) -> tuple[Any, list[Left]]:
        """Run a protocol with this one node to its end; the value is None where the node refused."""
        state: Any = protocol.start({})
        answers: list[Left] = []
        while True:
            ask = protocol.instruct(state, View(rounds=1, nodes=("hospital",)))
            if isinstance(ask, Done):
                return ask.value, answers
            left = self.ask(protocol, ask.step, ask.shared, **more)
            answers.append(left)
            if left.done is None:
                return None, answers
            state = protocol.finish(state, _gathered(ask, left))


def _gathered(ask: Ask, left: Left) -> Gathered:
    assert left.done is not None
    value = left.params if left.params is not None else left.value
    reply = Reply(
        node="hospital", num_examples=left.done.num_examples, value=left.value, metrics=left.metrics
    )
    total = ask.aggregator.aggregate([Contribution(value, max(1.0, left.done.weight), left.metrics)])
    assert total.value is None or not is_params(total.value) or left.params is not None
    return Gathered(total=total, replies={"hospital": reply}, left_out={})
