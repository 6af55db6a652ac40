"""A file of parameters that is written bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from fedjob.common.errors import EncodeError
from fedjob.parameters.files import _DTYPES, save_params, schema_of
from fedjob.parameters.params_writer import ParamsWriter
from fedjob.parameters.safetensors_header import names_in_order


@pytest.mark.parametrize("seed", range(40))
def test_a_written_file_has_the_bytes_of_a_saved_one(seed: int, tmp_path: Path) -> None:
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    names = [f"layer{number}.{'w' * draw.randint(1, 40)}" for number in range(draw.randint(1, 25))]
    params = {
        name: torch.randint(
            0, 2, [draw.randint(0, 12) for _ in range(draw.randint(0, 4))], generator=numbers
        ).to(draw.choice(list(_DTYPES)))
        for name in names
    }
    save_params(params, tmp_path / "saved", durable=False)
    grown: list[int] = []
    with ParamsWriter(tmp_path / "written", schema_of(params), grown.append) as writer:
        for name in names_in_order(schema_of(params)):
            for stretch in params[name].reshape(-1).split(draw.randint(1, 9)):
                writer.write(stretch)
    content = (tmp_path / "written").read_bytes()
    assert content == (tmp_path / "saved").read_bytes()
    assert grown == sorted(grown)
    assert grown[-1] == writer.size_bytes == len(content)
    assert (tmp_path / "written").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_file_with_too_few_numbers_or_too_many_does_not_stay(count: int, tmp_path: Path) -> None:
    with (
        pytest.raises(EncodeError, match="bytes of parameters, found"),
        ParamsWriter(tmp_path / "written", {"w": ("F32", (3,))}) as writer,
    ):
        writer.write(torch.zeros(count))
    assert not (tmp_path / "written").exists()


def test_a_file_whose_writing_fails_does_not_stay_and_one_that_is_there_is_not_touched(
    tmp_path: Path,
) -> None:
    with pytest.raises(ZeroDivisionError), ParamsWriter(tmp_path / "written", {"w": ("F32", (3,))}):
        _ = 1 / 0
    assert not (tmp_path / "written").exists()
    (tmp_path / "written").write_bytes(b"mine")
    with (
        pytest.raises(FileExistsError),
        ParamsWriter(tmp_path / "written", {"w": ("F32", (3,))}),
    ):
        pass
    assert (tmp_path / "written").read_bytes() == b"mine"
