"""Secure sums of 8 to 16 bits: packed without gaps, rounded by chance, and exact in the ring of so many bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjob.common.errors import DecodeError, OtherContribution, SpecError
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.fixed_point import BITS, FixedPoint, rounding_of
from fedjob.privacy.secagg.mask_stream import CHUNK
from fedjob.privacy.secagg.masked_vector import (
    TensorFile,
    UnmaskedVector,
    added_up,
    contribution_digest,
    write_vector,
)
from fedjob.privacy.secagg.node_session import Mask

LENGTH = CHUNK + 13


def fixed_of(bits: int, num_nodes: int = 3) -> FixedPoint:
    return FixedPoint(num_nodes=num_nodes, clip=0.5, bits=bits)


def contribution(folder: Path, numbers: np.ndarray) -> UnmaskedVector:
    folder.mkdir()
    save_file({"w": numbers.astype(np.float32)}, folder / "own.safetensors")
    own = TensorFile(folder / "own.safetensors")
    return UnmaskedVector(own=own, origin=None, relative=(), factor=1.0, numbers=[7, 0], count_at=1)


def write(path: Path, found: UnmaskedVector, fixed: FixedPoint, masks: list[Mask]) -> Path:
    write_vector(path, found, contribution_digest(found, fixed), fixed, masks)
    return path


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_packed_numbers_come_back_as_they_were(bits: int, length: int) -> None:
    fixed = fixed_of(bits)
    rng = np.random.default_rng(bits * 1000 + length)
    whole = rng.integers(0, 2**bits, size=length, dtype=np.uint64).astype(fixed.dtype)
    stored = fixed.packed(whole)
    assert stored.nbytes == fixed.num_bytes(length)
    assert (fixed.unpacked(stored, length) == whole).all()


@pytest.mark.parametrize("bits", BITS)
def test_masks_cancel_and_the_sum_is_that_of_the_rounded_numbers(bits: int, tmp_path: Path) -> None:
    fixed, rng = fixed_of(bits), np.random.default_rng(bits)
    given = [rng.uniform(-0.6, 0.6, size=LENGTH) for _ in range(3)]
    found = [contribution(tmp_path / str(number), one) for number, one in enumerate(given)]
    seeds = [(bytes([number]) * 32, bytes([number + 9]) * 32) for number in range(3)]
    masks = [[Mask(*seeds[n], 1), Mask(*seeds[(n + 1) % 3], -1)] for n in range(3)]
    pairs = zip(found, masks, strict=True)
    paths = [write(tmp_path / f"{number}.bin", one, fixed, over) for number, (one, over) in enumerate(pairs)]
    bare = [write(tmp_path / f"bare{number}.bin", one, fixed, []) for number, one in enumerate(found)]
    whole, numbers = added_up(paths, [], fixed, LENGTH)
    expected, _ = added_up(bare, [], fixed, LENGTH)
    assert (fixed.restored(whole) == fixed.restored(expected)).all()
    assert numbers[0] == 21
    assert numbers[1] == sum(int((np.abs(one.astype(np.float32)) > 0.5).sum()) for one in given)
    off = np.abs(fixed.restored(whole) - sum(np.clip(one, -0.5, 0.5) for one in given)).max()
    assert off <= fixed.error * 1.001 + 1e-6
    assert paths[0].read_bytes() != bare[0].read_bytes()


def test_a_step_that_is_coarse_takes_nothing_from_the_mean_of_many() -> None:
    fixed = fixed_of(8)
    numbers = np.full(200_000, 0.3 / fixed.scale)
    whole, _ = fixed.quantised(numbers, 1.0, rounding_of("ab" * 32))
    values = fixed.restored(whole) * fixed.scale
    assert set(np.unique(values)) == {0.0, 1.0}
    assert abs(values.mean() - 0.3) < 5 * math.sqrt(0.21 / 200_000)
    nearest, _ = fixed.quantised(numbers, 1.0)
    assert not nearest.any(), "the nearest whole number would lose it"


def test_the_same_contribution_is_rounded_alike_and_another_one_otherwise(tmp_path: Path) -> None:
    fixed = fixed_of(10)
    numbers = np.random.default_rng(0).uniform(-0.5, 0.5, size=5000)
    one, other = contribution(tmp_path / "a", numbers), contribution(tmp_path / "b", numbers + 1e-6)
    first = write(tmp_path / "1", one, fixed, []).read_bytes()
    assert write(tmp_path / "2", one, fixed, []).read_bytes() == first
    changed = np.frombuffer(write(tmp_path / "3", other, fixed, []).read_bytes()[-2000:], dtype=np.uint8)
    assert (changed != np.frombuffer(first[-2000:], dtype=np.uint8)).mean() > 0.1


def test_the_largest_numbers_of_all_nodes_stay_within_the_ring(tmp_path: Path) -> None:
    for bits in BITS:
        fixed = fixed_of(bits, num_nodes=7)
        found = contribution(tmp_path / str(bits), np.full(9, 0.5))
        paths = [write(tmp_path / f"{bits}.{number}", found, fixed, []) for number in range(7)]
        whole, _ = added_up(paths, [], fixed, 9)
        assert fixed.restored(whole) == pytest.approx(np.full(9, 3.5))


def test_vectors_of_another_length_or_form_are_refused(tmp_path: Path) -> None:
    fixed, numbers = fixed_of(10), np.zeros(100)
    path = write(tmp_path / "1", contribution(tmp_path / "a", numbers), fixed, [])
    for other, length in ((fixed, 200), (fixed_of(11), 100), (fixed_of(16), 100)):
        with pytest.raises(DecodeError, match="can't be added"):
            added_up([path], [], other, length)


@pytest.mark.parametrize("bits", [0, 7, 17, 24, 64])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(SpecError, match=r"bits=.*8 to 16, or 32"):
        SecAgg(bits=bits, clip=0.1)


def test_few_bits_need_a_clip_of_their_own_and_room_for_the_nodes() -> None:
    with pytest.raises(SpecError, match=r"SecAgg\(bits=10, clip=0.1\)"):
        SecAgg(bits=10)
    with pytest.raises(SpecError, match=r"200 nodes has no room in 8 bits: give SecAgg\(bits=9\) or more"):
        fixed_of(8, num_nodes=200)


def test_a_vector_without_chance_is_bound_to_the_whole_numbers_that_are_masked(tmp_path: Path) -> None:
    fixed, numbers = fixed_of(32), np.linspace(-0.6, 0.4, LENGTH)
    masks = [Mask(b"t" * 32, b"n" * 32, 1)]
    found = contribution(tmp_path / "own", numbers)
    bound = write_vector(tmp_path / "ahead", found, "", fixed, masks)
    assert bound == contribution_digest(found, fixed)
    assert write_vector(tmp_path / "after", found, bound, fixed, masks) == bound
    assert (tmp_path / "after").read_bytes() == (tmp_path / "ahead").read_bytes()
    one_more, one_clipped = numbers.copy(), numbers.copy()
    one_more[-1] += 1e-6
    one_clipped[
        np.flatnonzero(numbers < -0.5)[-1]
    ] = -0.5  # the same whole number, which is not clipped any more
    for name, other in (("more", one_more), ("clipped", one_clipped)):
        with pytest.raises(OtherContribution, match="a new attempt is needed, with fresh ones"):
            write_vector(tmp_path / name, contribution(tmp_path / f"own {name}", other), bound, fixed, masks)
