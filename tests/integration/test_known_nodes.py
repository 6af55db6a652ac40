"""Nodes are known by their keys: the first is trusted, another one is refused, and the strict trust none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job
from fedjob.common.errors import ConfigError, NoDatasets, NotPermitted
from fedjob.messaging.messages import Offer, Task
from fedjob.researcher.connection.known_nodes import KnownNodes
from fedjob.researcher.jobs.session import Session
from tests.integration.scripted import Field
from tests.plans import Tiny


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


def make_job(session: Session, **changes: Any) -> Job:
    args = {"lr": 0.1}
    return Job(
        FedAvg(), training_plan=Tiny, data={"tags": ["toy"]}, training_args=args, session=session, **changes
    )


def key_of(field: Field, node: str) -> str:
    return field.parties[node].key_hex


@pytest.mark.feature("BF-43")
def test_a_node_with_another_key_than_before_is_refused(
    field: Field, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    field.node("ward")
    lab = tmp_path / "lab"
    session = field.session(lab)
    with caplog.at_level(logging.INFO, "fedjob"):
        make_job(session).check()
        make_job(session).check()
    told = [record.getMessage() for record in caplog.records if "trusted from now on" in record.getMessage()]
    assert told == ["new nodes, whose keys are trusted from now on (known_nodes): ward"]
    assert KnownNodes(lab).load() == {"ward": key_of(field, "ward")}

    field.nodes["ward"].stop()
    false = field.node("ward")
    later = field.session(lab)
    with pytest.raises(NotPermitted, match=r"node ward has another key than before: .*pretend to be it"):
        make_job(later).check()
    with pytest.raises(NotPermitted, match="another key"):
        make_job(later, name="again").run(progress=False)
    session.roster.refresh()
    with pytest.raises(NoDatasets):  # to a session that has met it, whoever has another key is a stranger
        make_job(session).check(timeout_s=0.5)
    assert not [*false.heard_of(Offer), *false.heard_of(Task)]

    file = lab / "known_nodes"
    file.write_text(file.read_text().replace("ward ", "# ward "))
    assert make_job(field.session(lab)).check().ok


@pytest.mark.feature("BF-43")
def test_the_strict_refuse_a_node_that_they_do_not_know(field: Field, tmp_path: Path) -> None:
    field.node("ward")
    lab = tmp_path / "lab"
    session = field.session(lab, strict="true")
    assert session.strict
    with pytest.raises(NotPermitted, match=f"does not know ward {key_of(field, 'ward')}: compare with"):
        make_job(session).check()
    assert not (lab / "known_nodes").exists()
    (lab / "known_nodes").write_text(f"ward {key_of(field, 'ward')}  # told by phone")
    assert make_job(session).check().ok


def test_a_file_that_is_none_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "known_nodes").write_text(f"a {'0' * 64}\n\nb oops\n")
    with pytest.raises(ConfigError, match="known_nodes, line 3: expected a node and its key"):
        KnownNodes(tmp_path).load()


def test_lines_are_added_under_what_stands_there(tmp_path: Path) -> None:
    known = KnownNodes(tmp_path)
    (tmp_path / "known_nodes").write_text(f"# mine\na {'a' * 64}")
    assert known.meet({"a": "a" * 64, "c": "c" * 64, "b": "b" * 64}) == ["b", "c"]
    assert known.path.read_text().splitlines() == ["# mine", *(f"{node} {node * 64}" for node in "abc")]
    assert known.meet({"b": "b" * 64}, strict=True) == []
