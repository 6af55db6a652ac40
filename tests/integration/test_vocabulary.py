"""The words of a job: what must be said, what may be, and what is no word at all."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import fedjob
from fedjob import FedAvg, Job
from fedjob.common.errors import SpecError
from tests.plans import Linear

ROOT = Path(__file__).parents[2]


OTHERS = {
    "what differs at single nodes": {"each", "items", "split", "artifacts"},
    "the label": {"name", "note", "owner", "project", "props"},
    "who takes part": {"nodes", "as_node", "quorum", "selector", "resources", "use", "watchers"},
    "how rounds are run": {
        "rounds", "seed", "aggregator", "guard", "server_optimizer", "hooks", "init", "validate_at_end",
        "round_timeout_s", "every_s", "max_tries",
    },
    "what is kept, and where": {
        "breakpoint_every", "keep_breakpoints", "keep", "keep_files_dir", "session", "home",
    },
    "what travels": {"share", "models", "compress"},
    "what protects it": {"protect"},
}  # fmt: skip
"""The arguments of a job beside the four that say what is computed, on what, how, and after which preparation."""


@pytest.mark.feature("TB-03")
def test_a_job_is_an_operation_data_arguments_and_preprocessing_in_that_order() -> None:
    parameters = inspect.signature(Job).parameters
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["operation"]
    words = ["operation", "training_plan", "data", "model_args", "training_args", "preprocess"]
    assert [name for name in parameters if name in words] == words
    needed = {name for name, p in parameters.items() if p.default is p.empty}
    assert needed <= {"operation"}
    # every other argument is named here with its part, so that a fifth word for what is computed does not slip in
    assert set(parameters) == set(words) | set().union(*OTHERS.values())
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    places = [page.index(f"`{word}`") for word in ("operation", "data", "training_args", "preprocess")]
    assert places == sorted(places)


@pytest.mark.feature("TB-14")
def test_an_unknown_argument_names_the_nearest_known_one(tmp_path: Path) -> None:
    data = tmp_path / "numbers.csv"
    data.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(SpecError, match="unknown key 'epoch'; the nearest known one is 'epochs'"):
        Job(
            FedAvg(),
            training_plan=Linear,
            data=data,
            training_args={"epoch": 3},
            nodes="local",
            home=tmp_path / "home",
        )
    assert not (tmp_path / "home").exists()


@fedjob.function
def ticket(dataset, ctx):  # type: ignore[no-untyped-def]
    return ctx.props["ticket"]


def test_a_local_job_reads_its_free_properties_as_a_node_does(tmp_path: Path) -> None:
    job = Job(ticket, data=None, nodes="local", props={"ticket": "X-1"}, home=tmp_path)
    assert job.run(progress=False).value == "X-1"
