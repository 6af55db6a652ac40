"""The facts of a job on the researcher's page: bytes and seconds of a node are those of the same, newest rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.codec import pack
from fedjob.researcher.page import job_facts
from fedjob.researcher.page.job_facts import look_at
from fedjob.researcher.page.round_times import totals
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from tests.researcher_homes import NODES, ended, made_up

STEPS = ("keys", "train")


def with_rounds(home: Path, number: int, *, logged_from: int = 1) -> JobFolder:
    """Write a job of so many rounds of two steps, whose log begins at one of them."""
    folder = made_up(home, ended())
    folder.replies.mkdir(parents=True, exist_ok=True)
    events = EventLog(folder.events, folder.path.name)
    for round_ in range(1, number + 1):
        for step in STEPS:
            body = {"timing": {"total": 1e-9}, "params": {"size_bytes": 1000}}
            answers = {node: {"body": body} for node in NODES}
            (folder.replies / f"round_{round_:04}_{step}.mpk").write_bytes(pack(answers))
            if round_ >= logged_from:
                events.add("ask", round_=round_, step=step, nodes=list(NODES))
                for node in NODES:
                    events.add("state", round_=round_, node=node, task=node, state="completed")
        if round_ >= logged_from:
            events.add("round", round_=round_, nodes=list(NODES), left_out={}, seconds=1.0)
    events.close()
    return folder


@pytest.mark.parametrize(
    ("rounds", "logged_from", "first"),
    [(3, 1, 1), (job_facts.MAX_ROUNDS_TIMED + 4, 1, 5), (6, 3, 3)],
    ids=["all of few", "the newest of many", "those that the log has"],
)
def test_bytes_and_seconds_are_of_the_same_rounds(
    rounds: int, logged_from: int, first: int, tmp_path: Path
) -> None:
    facts = look_at(with_rounds(tmp_path, rounds, logged_from=logged_from))
    assert [one.round for one in facts.times] == list(range(first, rounds + 1))
    each = len(STEPS) * (rounds + 1 - first)
    for node in NODES:
        assert each * 1000 < facts.bytes_sent[node] < each * 1200
        assert totals(facts.times)[node]["compute"] > 0
