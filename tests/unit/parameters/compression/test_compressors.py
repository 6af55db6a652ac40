"""Every compressor: as near as its paper says, the same bytes each time, and nothing that a peer's bytes can do harm with."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch

from fedjob.common.errors import DecodeError, EncodeError, SpecError
from fedjob.parameters.compression import COMPRESSORS
from fedjob.parameters.compression.base import Compressor, ItemSection
from fedjob.parameters.compression.half import BFloat16, Float16
from fedjob.parameters.compression.int8 import Int8
from fedjob.parameters.compression.lossless import packed, unpacked
from fedjob.parameters.compression.parcel import exact_parcel, is_lossy, lossy_parcel, opened
from fedjob.parameters.compression.parcels import Opened, check_first_sent, pack_tensors
from fedjob.parameters.compression.top_k import TopK
from fedjob.parameters.files import FileParams, raw_bytes, save_params, schema_of

ALL: list[Compressor] = [BFloat16(), Float16(), Int8(), Int8(block=16), TopK(0.01), TopK(0.3)]
BOUNDS = {"bf16": 2**-8, "fp16": 2**-11, "int8": 0.5 / 127, "top_k": 1.0}
"""Of the error of a number, as a share of the largest of its tensor."""


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def form(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return schema_of({"w": tensor})["w"]


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("count", [64, 65, 255, 256, 257, 10_000])
def test_what_comes_back_is_near_and_its_size_follows_from_the_count(
    compressor: Compressor, count: int
) -> None:
    numbers = draw(count)
    parts = compressor.encode(numbers)
    assert [len(raw_bytes(part)) for part in parts] == [s.num_bytes for s in compressor.sections(count)]
    found = compressor.decode([bytes(raw_bytes(part)) for part in parts], count)
    assert found.dtype == torch.float32
    assert found.shape == numbers.shape
    assert (
        float((found - numbers).abs().max()) <= BOUNDS[compressor.name] * float(numbers.abs().max()) * 1.0001
    )
    again = compressor.encode(numbers.clone())
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("numbers", [torch.zeros(300), torch.full((300,), 1e-42), torch.full((300,), -7.0)])
def test_zeros_denormals_and_constants_come_back_finite(
    compressor: Compressor, numbers: torch.Tensor
) -> None:
    parcel, found = lossy_parcel(numbers, form(numbers), compressor)
    assert torch.isfinite(found).all()
    again, lossy = opened(memoryview(parcel), compressor)
    assert lossy
    assert torch.equal(again, found)
    if not numbers.any():
        assert not found.any()


def test_top_k_keeps_the_largest_and_of_equal_ones_the_first() -> None:
    numbers = torch.tensor([1.0, -5.0, 2.0, 2.0, -2.0, 0.5, 2.0, 0.0])
    compressor = TopK(0.5)
    found = compressor.decode([bytes(raw_bytes(p)) for p in compressor.encode(numbers)], 8)
    assert found.tolist() == [0.0, -5.0, 2.0, 2.0, -2.0, 0.0, 0.0, 0.0]


def test_one_large_number_costs_the_precision_of_its_own_block_alone() -> None:
    numbers = draw(512) * 0.01
    numbers[0] = 1000.0
    compressor = Int8(block=256)
    found = compressor.decode([bytes(raw_bytes(p)) for p in compressor.encode(numbers)], 512)
    assert float((found[256:] - numbers[256:]).abs().max()) < 0.001


def test_half_precision_refuses_what_it_can_not_hold_and_says_what_can() -> None:
    with pytest.raises(EncodeError, match=r"65504.*bf16"):
        lossy_parcel(torch.full((100,), 1e5), ("F32", (100,)), Float16())
    assert float(lossy_parcel(torch.full((100,), 1e5), ("F32", (100,)), BFloat16())[1][0]) == pytest.approx(
        1e5, rel=0.01
    )


@pytest.mark.parametrize(
    ("compressor", "value", "dtype", "words"),
    [
        (Float16(), 7e4, torch.float32, r"parameter b: .*65504; found 70000: take compress='bf16'"),
        (BFloat16(), 1e300, torch.float64, r"parameter b: .*found 1e\+300: scale the model"),
        (Int8(), math.nan, torch.float32, "parameter b holds NaN or infinity"),
        (TopK(0.1), math.inf, torch.float64, "parameter b holds NaN or infinity"),
    ],
)
def test_what_can_not_be_sent_for_the_first_time_is_named(
    compressor: Compressor, value: float, dtype: torch.dtype, words: str
) -> None:
    params = {"a": draw(100), "b": torch.full((100,), value, dtype=dtype), "c": torch.tensor(value)}
    with pytest.raises(EncodeError, match=words):
        check_first_sent(params, compressor)
    check_first_sent(params, compressor, exact={"b"})
    check_first_sent({"a": draw(100), "c": torch.tensor(value), "d": torch.zeros(0)}, compressor)


def test_a_change_that_can_not_travel_is_named() -> None:
    with pytest.raises(EncodeError, match=r"parameter b: .* the training diverges"):
        pack_tensors({"a": draw(100), "b": torch.full((100,), 1e300, dtype=torch.float64)}, Int8())


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_travels(compressor: Compressor, bad: float) -> None:
    numbers = draw(100)
    numbers[17] = bad
    with pytest.raises(EncodeError, match="too large"):
        lossy_parcel(numbers, form(numbers), compressor)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan, math.inf, "half", True, None])
def test_a_fraction_that_is_none_is_refused(fraction: object) -> None:
    with pytest.raises(SpecError, match="TopK"):
        TopK(fraction)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [0, 15, 1 << 21, -1, 2.5, "x", True])
def test_a_block_that_is_none_is_refused(block: object) -> None:
    with pytest.raises(SpecError, match="Int8"):
        Int8(block=block)  # type: ignore[arg-type]


def test_each_is_found_by_its_name_and_built_again_from_its_data() -> None:
    assert COMPRESSORS.names() == ["bf16", "fp16", "int8", "top_k"]
    for compressor in ALL:
        assert COMPRESSORS.build(*COMPRESSORS.config_of(compressor)) == compressor


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_integers_travel_as_they_are(compressor: Compressor, dtype: str, tmp_path: Path) -> None:
    tensor = (draw(40, 40) * 100).to(getattr(torch, dtype))
    found = there_and_back({"w": tensor}, compressor, tmp_path)["w"]
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (63,), (1, 1)])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_small_tensors_travel_as_they_are(
    compressor: Compressor, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensor = draw(*shape)
    found = there_and_back({"w": tensor}, compressor, tmp_path)["w"]
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_a_change_since_a_known_tensor_comes_back_near_and_in_its_dtype(
    compressor: Compressor, dtype: str, tmp_path: Path
) -> None:
    origin = {"w": draw(30, 30, dtype=getattr(torch, dtype))}
    tensor = {"w": (origin["w"].double() + draw(30, 30, seed=1).double() * 0.01).to(origin["w"].dtype)}
    found = there_and_back(tensor, compressor, tmp_path, origin)["w"]
    assert found.dtype == origin["w"].dtype
    assert float((found.double() - tensor["w"].double()).abs().max()) < 0.05


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_with_error_feedback_the_sum_of_what_arrives_follows_the_sum_of_what_was_meant(
    compressor: Compressor, tmp_path: Path
) -> None:
    meant, arrived = torch.zeros(1000), torch.zeros(1000)
    owed: dict[str, torch.Tensor] = {}
    for round_ in range(60):
        change = draw(1000, seed=round_) * 0.1 + 0.01
        meant += change
        sent = pack_tensors({"w": change}, compressor, owed=owed)
        save_params(sent.parcels, tmp_path / f"{round_}")
        arrived += Opened(FileParams(tmp_path / f"{round_}"), compressor)["w"]
        owed = dict(sent.owed)
    # what has not arrived is exactly what is owed, however long it goes on
    assert torch.allclose(meant - arrived, owed["w"], atol=1e-4)


def there_and_back(
    tensors: dict[str, torch.Tensor],
    compressor: Compressor,
    folder: Path,
    origin: dict[str, torch.Tensor] | None = None,
) -> Opened:
    save_params(pack_tensors(tensors, compressor, origin=origin or {}).parcels, folder / "parcels")
    return Opened(FileParams(folder / "parcels"), compressor, origin or {})


def test_packing_pays_or_is_left_out_and_never_makes_more_of_it() -> None:
    noise = torch.randint(0, 256, (400_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert packed(raw_bytes(noise), ItemSection(1, 400_000)) is None
    near = 1.0 + draw(100_000) * 1e-3
    small = packed(raw_bytes(near), ItemSection(4, 100_000))
    assert small is not None
    assert len(small) < 0.8 * 400_000
    assert unpacked(small, ItemSection(4, 100_000)) == bytes(raw_bytes(near))


@pytest.mark.parametrize("announced", [1, 1000, 999_999, 1_000_001, 10**9])
def test_a_bomb_makes_no_more_bytes_than_its_place_has(announced: int) -> None:
    bomb = packed(bytes(1_000_000), ItemSection(1, 1_000_000))
    assert bomb is not None
    assert len(bomb) < 200
    with pytest.raises(DecodeError, match="have to be"):
        unpacked(bomb, ItemSection(1, announced))


def hostile(compressor: Compressor) -> list[bytes]:
    """Return bytes that are a parcel no more."""
    parcel, _ = lossy_parcel(draw(500), ("F32", (500,)), compressor)
    exact = exact_parcel(draw(500), ("F32", (500,)))
    huge = struct.pack("<BBBQ", 1, 3, 1, 1 << 62)
    cases = [b"", b"\0", huge, huge + parcel[11:], parcel + b"\0", exact + b"\0", b"\7" + parcel[1:]]
    for whole in (parcel, exact):
        cases += [whole[:at] for at in range(1, len(whole), max(1, len(whole) // 40))]
    for at in (1, 2, 3, 10, 11, 12, 13, 18, 19):
        for value in (0, 1, 9, 127, 255):
            if parcel[at] != value:
                cases.append(parcel[:at] + bytes([value]) + parcel[at + 1 :])
    return cases


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_a_peers_bytes_are_refused_by_name_or_are_a_tensor_of_the_form_that_they_announce(
    compressor: Compressor,
) -> None:
    refused = 0
    for case in hostile(compressor):
        try:
            found, _ = opened(memoryview(case), compressor)
        except DecodeError:
            refused += 1
        else:
            assert found.numel() <= 500
    assert refused > 80


@pytest.mark.parametrize("steps", [[0, 0, 1], [499, 1, 1], [500, 0, 0], [2**32 - 1, 1, 1]])
def test_places_out_of_order_or_out_of_the_tensor_are_refused(steps: list[int]) -> None:
    import numpy

    places = numpy.array(steps, numpy.uint32).tobytes()
    with pytest.raises(DecodeError, match="places"):
        TopK(0.005).decode([places, bytes(12)], 500)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(DecodeError, match="scale"):
        Int8().decode([struct.pack("<f", scale), bytes(100)], 100)


def test_tensors_that_announce_more_than_is_expected_are_never_made(tmp_path: Path) -> None:
    save_params(pack_tensors({"w": torch.zeros(1000)}, TopK(0.1)).parcels, tmp_path / "p")
    with pytest.raises(DecodeError, match="4000 bytes; at most 3999"):
        Opened(FileParams(tmp_path / "p"), TopK(0.1), limit_bytes=3999)


def test_a_file_of_plain_tensors_is_no_file_of_parcels(tmp_path: Path) -> None:
    save_params({"w": torch.zeros(100)}, tmp_path / "p")
    with pytest.raises(DecodeError, match="expected the bytes of a compressed tensor, found F32"):
        Opened(FileParams(tmp_path / "p"), Int8())


def test_a_change_for_another_shape_is_refused(tmp_path: Path) -> None:
    found = there_and_back({"w": draw(10, 10)}, Int8(), tmp_path, {"w": draw(10, 10, seed=1)})
    save_params(pack_tensors({"w": draw(20, 10)}, Int8()).parcels, tmp_path / "q")
    assert found["w"].shape == (10, 10)
    with pytest.raises(DecodeError, match=r"shape \[20, 10\] for \[10, 10\]"):
        Opened(FileParams(tmp_path / "q"), Int8(), {"w": draw(10, 10)})["w"]


def test_half_precision_parameters_are_not_made_larger_by_a_form_as_wide() -> None:
    assert not is_lossy(BFloat16(), ("BF16", (1000,)))
    assert is_lossy(Int8(), ("BF16", (1000,)))
    assert not is_lossy(TopK(0.9), ("F32", (1000,)))
