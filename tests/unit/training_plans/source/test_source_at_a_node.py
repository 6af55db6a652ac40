"""A plan that was built from its text can send parts of itself on."""

from __future__ import annotations

from fedjob.training_plans.function import RemoteFunction
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.extraction import extract

TEXT = """\
import fedjob

HALF = 0.5


@fedjob.function
def ward(dataset):
    return dataset.num_rows * HALF


@fedjob.function
def region(dataset):
    return fedjob.Job(ward, data={"tags": ["ward"]}).run().value
"""


def test_a_function_of_a_built_plan_is_extracted_from_the_plans_own_text() -> None:
    region = compile_text(TEXT, "region")
    assert isinstance(region, RemoteFunction)
    ward = region.function.__globals__["ward"]
    source = extract(ward)
    assert source.entry == "ward"
    assert "HALF = 0.5" in source.text
    assert "region" not in source.text
    again = compile_text(source.text, "ward")
    assert isinstance(again, RemoteFunction)
    assert extract(again) == source
