"""The names and kinds of what a message may send to a protocol's step."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.data.preprocessing.learning import LEARN, LEARNED
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.step_inputs import PLAIN, TENSORS, TURN, input_problem

CONFIGS: dict[str, dict[str, Any]] = {
    "cox_regression": {"features": ["age"], "duration": "days", "event": "died"},
    "kaplan_meier": {"duration": "days", "event": "died"},
    "fedper": {"personal": ["head.*"]},
    "finetuned": {"epochs": 1},
    "kmeans": {"features": ["age"], "clusters": 2},
    "linear_regression": {"features": ["age"], "target": "chol"},
    "logistic_regression": {"features": ["age"], "target": "sick"},
    "pca": {"features": ["age", "chol"], "components": 1},
    "poisson_regression": {"features": ["age"], "target": "visits"},
    "psi": {"on": "patient", "own": "mine"},
    "ridge": {"features": ["age"], "target": "chol", "alpha": 2.0},
    "statistics": {"mean": ["age"]},
}
STEPS = (
    "train",
    "validate",
    "loss",
    "levels",
    "sums",
    "newton",
    "count",
    "centre",
    "refine",
    "call",
    "step",
    LEARN,
)
BUILT_IN = [name for name in PROTOCOLS.names() if name != "own"]


def built(name: str) -> FederatedProtocol:
    made: FederatedProtocol = PROTOCOLS.build(name, CONFIGS.get(name, {}))
    return made


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_a_built_in_protocol_declares_what_it_takes_and_refuses_more(
    name: str, step: str
) -> None:
    protocol = built(name)
    declared = protocol.inputs_of(step)
    assert declared is not None
    if step != LEARN:
        values = {k: [1.0] for k, kind in declared.items() if kind == PLAIN}
        tensors = [k for k, kind in declared.items() if kind == TENSORS]
        assert input_problem(protocol, step, values=values, tensors=tensors) == ""
    for secret in ("note", "params2", "Params", "valu\u0435s", ""):
        for given in (
            {"values": {secret: 1}},
            {"values": {}, "large": [secret]},
            {"values": {}, "tensors": [secret]},
        ):
            assert "takes" in input_problem(protocol, step, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"values": {"params": {"weight": [1.0]}}}, "a plain value where it takes tensors"),
        ({"values": {}, "large": ["params"]}, "a plain value where it takes tensors"),
        ({"values": {TURN: "x"}}, "turn counts"),
        ({"values": {TURN: -1}}, "turn counts"),
        ({"values": {TURN: True}}, "turn counts"),
        ({"values": {}, "tensors": [LEARNED]}, "tensors where it takes a plain value"),
    ],
)
def test_another_kind_than_the_declared_one_is_refused(given: dict[str, Any], found: str) -> None:
    assert found in input_problem(built("fedavg"), "train", **given)


def test_what_fedjob_itself_sends_with_any_step_is_taken() -> None:
    values = {TURN: 3, LEARNED: [{"mean": 1.0}]}
    assert input_problem(built("fedavg"), "train", values=values, tensors=["params"]) == ""
    assert input_problem(built("fedavg"), "train", values={"params": {}}) == "", "a model without parameters"


def test_a_protocol_that_declares_nothing_takes_anything() -> None:
    own = PROTOCOLS.build("own", {"entry": "Mine", "text": "class Mine: ..."})
    assert own.inputs_of("train") is None
    assert input_problem(own, "train", values={"anything": 1}, tensors=["more"]) == ""
