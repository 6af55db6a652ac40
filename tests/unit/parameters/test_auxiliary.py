"""Parameters and auxiliary variables in one file, and apart again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.guard import check_tensors
from fedjob.common.errors import EncodeError
from fedjob.parameters.auxiliary import join, join_schemas, split
from fedjob.parameters.files import FileParams, hash_params, is_params, save_params, schema_of

PARAMS = {"aux.0.weight": torch.ones(2, 3), "count": torch.tensor(7)}
AUX = {
    "scaffold": {"aux.0.weight": torch.full((2, 3), 0.5)},
    "second_one": {"a.b": torch.zeros(0), "count": torch.ones(1)},
}


def stored(tensors: dict[str, torch.Tensor], folder: Path) -> FileParams:
    path = folder / "both.safetensors"
    save_params(tensors, path)
    return FileParams(path)


def test_what_was_joined_is_told_apart_without_loading_it(tmp_path: Path) -> None:
    whole = stored(dict(join(PARAMS, AUX)), tmp_path)
    params, aux = split(whole)
    assert not whole._mapped
    assert {module: sorted(part) for module, part in aux.items()} == {
        "scaffold": ["aux.0.weight"],
        "second_one": ["a.b", "count"],
    }
    assert all(torch.equal(params[name], PARAMS[name]) for name in PARAMS)
    assert hash_params(aux["scaffold"]) == hash_params(AUX["scaffold"])
    assert is_params(aux["second_one"])
    assert len(params) == 2


def test_the_longest_name_of_a_parameter_has_its_tensor_in_a_module_of_the_longest_name(
    tmp_path: Path,
) -> None:
    name, module = "n" * 200, "m" * 31
    whole = stored(dict(join({name: torch.ones(2)}, {module: {name: torch.zeros(2)}})), tmp_path)
    assert torch.equal(split(whole)[1][module][name], torch.zeros(2))


def test_a_set_without_modules_stays_the_same_object(tmp_path: Path) -> None:
    whole = stored(PARAMS, tmp_path)
    assert split(whole) == (whole, {})
    assert join(PARAMS, {}) is PARAMS
    assert join_schemas(whole.schema, {}) is whole.schema


@pytest.mark.parametrize(
    ("params", "aux", "says"),
    [
        ({}, {"Scaffold": {}}, "named by a-z"),
        ({}, {"a.b": {}}, "named by a-z"),
        ({}, {"": {}}, "named by a-z"),
        ({"aux--scaffold.w": torch.ones(1)}, {"scaffold": {}}, "no parameter may be named aux--scaffold.w"),
    ],
)
def test_names_that_could_not_be_told_apart_are_refused(params: object, aux: object, says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        join(params, aux)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({}, "bad_names: missing \\['aux--scaffold.w'\\]"),
        ({"scaffold": {"w": torch.ones(3)}}, "bad_shape"),
        ({"scaffold": {"w": torch.ones(2)}, "other": {"w": torch.ones(2)}}, "bad_names"),
        ({"scaffold": {"w": torch.tensor([1.0, float("nan")])}}, "not_finite: aux--scaffold.w"),
        ({"scaffold": {"w": torch.ones(2)}}, ""),
    ],
)
def test_the_guard_looks_at_them_as_at_parameters(
    sent: dict[str, dict[str, torch.Tensor]], reason: str, tmp_path: Path
) -> None:
    params = {"w": torch.ones(2)}
    expected = join_schemas(schema_of(params), {"scaffold": schema_of(params)})
    problem = check_tensors(stored(dict(join(params, sent)), tmp_path), expected)
    assert re.match(reason, problem) if reason else not problem


def test_contributions_of_batches_add() -> None:
    one = Contribution(1.0, 2.0, aux={"m": {"w": torch.ones(2)}})
    other = Contribution(3.0, 4.0, aux={"m": {"w": torch.ones(2), "v": torch.zeros(1)}}, staleness=2)
    total = one + other
    assert (total.value, total.weight, total.staleness) == (4.0, 6.0, 2)
    assert total.aux["m"]["w"].tolist() == [2.0, 2.0]
