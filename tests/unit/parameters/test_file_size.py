"""The files of tensors have the bytes that safetensors gives them, and a size that is known without making one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fedjob.parameters.files import _DTYPES, save_params, schema_of
from fedjob.parameters.safetensors_header import file_size_of


@pytest.mark.parametrize("seed", range(30))
def test_the_size_is_that_of_the_file_to_the_byte(seed: int, tmp_path: Path) -> None:
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    names = [f"layer{number}.{'w' * draw.randint(1, 40)}" for number in range(draw.randint(0, 25))]
    shapes = [[draw.randint(0, 12) for _ in range(draw.randint(0, 4))] for _ in names]
    params = {
        name: torch.randint(0, 2, shape, generator=numbers).to(draw.choice(list(_DTYPES)))
        for name, shape in zip(names, shapes, strict=True)
    }
    metadata = None if seed % 3 else {"kinds": "é" * draw.randint(0, 20)}
    if not params:
        metadata = metadata or None
    save_params(params, tmp_path / "p.safetensors", metadata)
    assert file_size_of(schema_of(params), metadata) == (tmp_path / "p.safetensors").stat().st_size
    assert (tmp_path / "p.safetensors").read_bytes() == save(params, metadata)
