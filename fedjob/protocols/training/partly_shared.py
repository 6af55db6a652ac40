"""The base of protocols that share some layers and leave the others at the nodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.files import schema_of
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.step_inputs import PLAIN
from fedjob.protocols.training.base import TrainingProtocol


class PartlyShared(TrainingProtocol):
    """Federated averaging of some parameters; the others belong to each node.

    A node begins with the job's initial values of its own parameters, keeps them in its
    node state, and never sends them. The researcher's parameters, and so the job's
    result, hold the initial values under their names.
    """

    @abstractmethod
    def own_names(self, params: Mapping[str, Any]) -> list[str]:
        """Return the names of the parameters that stay at the nodes.

        Raises:
            SpecError: no parameter would stay, or none would be shared.
        """

    @property
    def needs_single(self) -> str:
        return ""

    def check(self, params: Mapping[str, Any]) -> None:
        TrainingProtocol.check(self, params)
        self.own_names(params)

    @property
    def copies(self) -> int:
        return 1  # the trained parameters, some of which stay

    def start(self, params: Mapping[str, Any]) -> State:
        return {**TrainingProtocol.start(self, params), "own": self.own_names(params)}

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        own = set(state["own"])
        schema = {name: kind for name, kind in schema_of(state["params"]).items() if name not in own}
        return replace(ask, shared={**ask.shared, "own": state["own"]}, schema=schema, sends_total=False)

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {**TrainingProtocol.inputs_of(self, step), "own": PLAIN}

    def params_of(self, instruction: Instruction, local: Local) -> Mapping[str, Any]:
        return {**instruction["params"], **local.state.get("own", {})}

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        own = set(instruction["own"])
        trained = self.train_with(local)
        local.state["own"] = {name: tensor for name, tensor in trained.value.items() if name in own}
        return replace(trained, value={name: t for name, t in trained.value.items() if name not in own})

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        total = gathered.total.value
        if total is None:
            return after
        before = state["params"]
        return {**after, "params": {name: total[name] if name in total else before[name] for name in before}}
