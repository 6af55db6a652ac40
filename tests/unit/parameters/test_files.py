"""Named tensors on disk: exact, and nothing that a peer's file can do harm with."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedjob.aggregation.guard import not_finite
from fedjob.common.errors import DecodeError, EncodeError, NoSpace
from fedjob.parameters.files import FileParams, is_params, save_params, schema_of
from fedjob.parameters.safetensors_header import read_schema
from fedjob.parameters.tree import load_tree, save_tree

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@pytest.mark.feature("FB-74")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    save_params({"w": tensor}, tmp_path / "p")
    found = FileParams(tmp_path / "p")["w"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor)


def test_special_floats_and_odd_layouts_survive(tmp_path: Path) -> None:
    tensor = torch.tensor([[float("nan"), float("inf")], [-0.0, 1e-45]]).T  # not contiguous
    save_params({"w": tensor}, tmp_path / "p")
    found = FileParams(tmp_path / "p")["w"]
    assert found.view(torch.int32).tolist() == tensor.contiguous().view(torch.int32).tolist()


def test_equal_parameters_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    params = {"b": torch.ones(3), "a": torch.zeros(2, 2), "c": torch.tensor(7)}
    save_params(params, tmp_path / "x")
    save_params(dict(reversed(params.items())), tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_file_is_its_owners_alone_and_one_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "p"
    save_params({"w": torch.zeros(10_000)}, path)
    save_params({"w": torch.ones(3)}, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileParams(path)["w"].tolist() == [1, 1, 1]


def test_our_reading_agrees_with_the_safetensors_library(tmp_path: Path) -> None:
    params = {f"layer.{i}": torch.randn(i + 1, 3) for i in range(5)}
    save_params(params, tmp_path / "p")
    theirs = load_file(tmp_path / "p")
    ours = FileParams(tmp_path / "p")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert dict(schema_of(params)) == dict(read_schema(tmp_path / "p"))


def test_tied_weights_are_stored_each_on_its_own(tmp_path: Path) -> None:
    shared = torch.randn(4)
    save_params({"a": shared, "b": shared}, tmp_path / "p")
    assert torch.equal(FileParams(tmp_path / "p")["b"], shared)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 201, "\u202e"])
def test_a_name_that_could_be_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EncodeError, match="named by"):
        save_params({name: torch.ones(1)}, tmp_path / "p")


def test_a_dtype_that_the_wire_does_not_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="complex64"):
        save_params({"w": torch.ones(1, dtype=torch.complex64)}, tmp_path / "p")


def _file(path: Path, header: object, body: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    return path


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 4),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b""),
        ({"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"w": {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"w": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
        ({"w": 3}, b""),
        ({"../w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        (
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            b"\0" * 4,
        ),
        ([], b""),
        (b"{" * 50_000, b""),
        (b"\xff\xfe", b""),
    ],
)
def test_a_malformed_header_is_refused_by_name(tmp_path: Path, header: object, body: bytes) -> None:
    path = _file(tmp_path / "reply.safetensors", header, body)
    with pytest.raises(DecodeError, match=r"reply\.safetensors"):
        FileParams(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(DecodeError, match="header"):
        FileParams(path)


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    save_params({"w": torch.randn(5), "v": torch.randn(2, 2)}, tmp_path / "p")
    whole = (tmp_path / "p").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "q").write_bytes(whole[:length])
        with pytest.raises(DecodeError):
            FileParams(tmp_path / "q")


@pytest.mark.feature("FB-74")
def test_a_header_that_was_checked_for_one_file_is_no_pass_for_another(tmp_path: Path) -> None:
    save_params({"w": torch.ones(3), "b": torch.zeros(2)}, tmp_path / "first")
    raw = (tmp_path / "first").read_bytes()
    first, again = FileParams(tmp_path / "first"), tmp_path / "again"
    again.write_bytes(raw)
    assert FileParams(again).schema == first.schema
    for body in (raw[:-1], raw + b"\0"):
        (tmp_path / "other").write_bytes(body)
        with pytest.raises(DecodeError, match="other: "):
            FileParams(tmp_path / "other")
    bent = raw.replace(b'"shape":[3]', b'"shape":[4]')
    assert bent != raw
    (tmp_path / "bent").write_bytes(bent)
    with pytest.raises(DecodeError, match="bent: tensor w: its span does not hold"):
        FileParams(tmp_path / "bent")


def test_tensors_in_a_file_are_known_as_such_without_a_look_at_them(tmp_path: Path) -> None:
    save_params({"w": torch.ones(3)}, tmp_path / "some")
    save_params({}, tmp_path / "none")
    some = FileParams(tmp_path / "some")
    (tmp_path / "some").unlink()
    assert is_params(some)
    assert some._mapped == {}
    assert not is_params(FileParams(tmp_path / "none"))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "p")
    with pytest.raises(DecodeError):
        FileParams(tmp_path / "p")


def test_a_tree_of_plain_data_and_tensors_comes_back_equal(tmp_path: Path) -> None:
    tree = {
        "step": 3,
        "lr": 0.1,
        "none": None,
        "raw": b"\0\1",
        "list": [1, {"m": torch.arange(3)}],
        "name": "é",
    }
    save_tree(tree, tmp_path / "t")
    found = load_tree(tmp_path / "t")
    assert torch.equal(found["list"][1].pop("m"), torch.arange(3))
    tree["list"][1].pop("m")  # type: ignore[index]
    assert found == tree


def test_a_tree_of_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncodeError):
        save_tree({"f": open}, tmp_path / "t")
    with pytest.raises(EncodeError, match="string keys"):
        save_tree({1: 2}, tmp_path / "t")


def test_a_file_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"nonsense" * 10)
    with pytest.raises(DecodeError):
        load_tree(tmp_path / "t")


def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "params.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(NoSpace, match="no space left to write"):
            save_params({"weight": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_tensors_of_one_dtype_are_read_as_one_in_the_order_of_the_file(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    params = {
        "b": torch.arange(6).reshape(2, 3).to(dtype),
        "a": torch.arange(6, 10).to(dtype),
        "c": torch.zeros(0, 3).to(dtype),
    }
    path = tmp_path / "params"
    save_params(params, path, {"more": "x"})
    whole = FileParams(path).as_one(10)
    assert whole is not None
    assert whole.dtype == dtype
    assert sorted(whole.tolist()) == list(range(10))
    assert whole.tolist()[:4] == [6, 7, 8, 9]
    assert FileParams(path).as_one(9) is None


def test_tensors_of_several_dtypes_and_no_tensors_are_not_read_as_one(tmp_path: Path) -> None:
    for name, params in {
        "mixed": {"a": torch.zeros(2), "n": torch.zeros(1, dtype=torch.int64)},
        "none": {},
        "empty": {"a": torch.zeros(0)},
    }.items():
        save_params(params, tmp_path / name)
        assert FileParams(tmp_path / name).as_one(100) is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["a", "b", "z"])
def test_the_tensor_of_a_small_file_that_is_not_finite_is_named(
    tmp_path: Path, odd: float, name: str
) -> None:
    params = {each: torch.linspace(-1e38, 1e38, 7) for each in ("a", "b", "z")}
    save_params(params, tmp_path / "good")
    assert not_finite(FileParams(tmp_path / "good")) == ""
    params[name] = torch.tensor([0.0, odd])
    save_params(params, tmp_path / "odd")
    assert not_finite(FileParams(tmp_path / "odd")) == f"not_finite: {name} holds NaN or infinity"
