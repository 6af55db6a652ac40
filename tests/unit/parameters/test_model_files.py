"""Files of a model's parameters: what is no such file is said with what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedjob.common.errors import SpecError
from fedjob.parameters.model_files import check_model_file


def test_a_file_and_a_link_to_one_are_taken(tmp_path: Path) -> None:
    path, link = tmp_path / "model.safetensors", tmp_path / "link"
    save_file({"weight": torch.zeros(2)}, path)
    link.symlink_to(path)
    check_model_file(path)
    check_model_file(link)


def test_a_folder_is_called_one_and_its_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder; expected a safetensors file; there is none in it"):
        check_model_file(tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(SpecError, match=r"in it are model\.safetensors: name one of them"):
        check_model_file(tmp_path)


def test_a_dtype_that_jobs_do_not_take_is_named_with_those_that_they_do(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(SpecError, match=r"tensor weight is of 'F8_E4M3'; expected one of F64, F32, .*BOOL"):
        check_model_file(path)


def test_a_file_of_another_kind_is_refused_with_how_to_write_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(SpecError, match=r"safetensors\.torch\.save_file"):
        check_model_file(path)
