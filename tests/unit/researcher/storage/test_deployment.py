"""The files that a job names of models."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import SpecError
from fedjob.researcher.storage.deployment import model_files_of


@pytest.mark.parametrize("given", [3, None, {"weight": 1}, b"base.safetensors"])
def test_a_model_that_is_no_path_is_an_error_that_says_what_is_expected(given: Any) -> None:
    with pytest.raises(
        SpecError, match=r"models\['base'\] is the path of a safetensors file, or the sha256 of one"
    ):
        model_files_of({"base": given})
