"""Parameters that can't hold values of their own are named; tied ones and parts of one storage are taken."""

from __future__ import annotations

import pytest
import torch

from fedjob.parameters.shared_memory import shared_memory

WHOLE = torch.zeros(12)
TAKEN = {
    "one storage in parts": [WHOLE[:6], WHOLE[6:]],
    "places in turns": [WHOLE[::2], WHOLE[1::2]],
    "the same tensor twice": [WHOLE, WHOLE],
    "the same in another shape": [WHOLE, WHOLE.view(3, 4).t()],
    "the same places in steps": [WHOLE[::2], WHOLE[::2].view(2, 3)],
    "transposed": [torch.zeros(4, 3).t()],
    "empty": [WHOLE[:0], WHOLE],
    "without axes": [WHOLE[3], WHOLE[4]],
    "one number, expanded by nothing": [torch.zeros(1).expand(1, 1)],
    "without values": [torch.zeros(3, device="meta").expand(2, 3)],
}
REFUSED = {
    "parts that meet": [WHOLE[:6], WHOLE[5:]],
    "a part of the whole": [WHOLE, WHOLE[3:5]],
    "a number of the whole": [WHOLE, WHOLE[3]],
    "steps that meet": [WHOLE[::2], WHOLE[::3]],
    "another width": [WHOLE[:2], WHOLE.view(torch.float16)[2:6]],
}


@pytest.mark.parametrize("tensors", TAKEN.values(), ids=TAKEN)
def test_memory_that_is_one_tensors_or_shared_as_a_whole_is_taken(tensors: list[torch.Tensor]) -> None:
    assert shared_memory({f"t{place}": tensor for place, tensor in enumerate(tensors)}) == ""


@pytest.mark.parametrize("tensors", REFUSED.values(), ids=REFUSED)
def test_two_tensors_that_share_a_part_of_their_memory_are_named(tensors: list[torch.Tensor]) -> None:
    named = {"lone": torch.zeros(3)} | {f"t{place}": tensor for place, tensor in enumerate(tensors)}
    found = shared_memory(named)
    assert "t0" in found
    assert "t1" in found
    assert "share a part of their memory" in found


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1, 4).expand(3, 4), WHOLE.unfold(0, 4, 1)], ids=["expand", "unfold"]
)
def test_a_tensor_whose_numbers_share_a_place_is_named(tensor: torch.Tensor) -> None:
    assert "t0 has several numbers in one place of memory" in shared_memory({"t0": tensor})


def test_a_thousand_parts_of_one_storage_are_looked_through_at_once() -> None:
    whole = torch.zeros(100_000)
    assert shared_memory({f"t{n}": whole[n * 50 : (n + 1) * 50] for n in range(2000)}) == ""
