"""The sessions of secure sums in a node's database: no crash and no end of a job lets a contribution be told twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjob.common.errors import OtherContribution, SpecError
from fedjob.node.protection.sum_sessions import SessionsOfTurn, SumSessions
from fedjob.node.storage.database import Database
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.key_agreement import plain_keys, read_keys
from fedjob.privacy.secagg.node_session import NodeSession, bound
from fedjob.privacy.secagg.steps import SumAnswer, SumStep, SumSteps, bound_to
from fedjob.privacy.secagg.terms import Terms
from tests.secure_sums import LENGTH, NOISE, OUTLINE, SumNode, nodes, terms_for

ABOUT = {"rule": "plain", "max_weight": 1.0}


class Disk:
    """One node whose sessions are in a database, which is opened anew whenever the node is started."""

    def __init__(self, path: Path, noise: Any = NOISE) -> None:
        self.path = path
        self.others = nodes(4)
        self.node: SumNode = self.others["n0"]
        self.terms = terms_for(9, threshold=3, **ABOUT, noise=noise)
        self.start()

    def start(self) -> None:
        self.database = Database(self.path)
        self.sessions = SumSessions(self.database)

    def restart(self) -> None:
        self.database.close()
        self.start()

    def answer(self, step: str, terms: Terms, **body: Any) -> SumAnswer:
        """Answer as the daemon does, but write nothing."""
        wanted = SumStep(step=step, terms=terms, of="work", body=body)
        steps = SumSteps("n0", self.node.identity.sign, self.node._is_signed_by, self.sessions)
        return steps.answer(wanted, SecAgg(threshold=2), min_nodes=3)

    def write(self, answer: SumAnswer) -> None:
        with self.database.transaction():
            self.sessions.put(answer.session)

    def up_to_vector(self, terms: Terms, before: Callable[[str], None] = lambda step: None) -> np.ndarray:
        """Take all steps up to the vector; `before` is called between a step and its row on the disk."""

        def done(step: str, **body: Any) -> SumAnswer:
            answer = self.answer(step, terms, **body)
            before(step)
            # a daemon that was killed in between has sent nothing, and is asked again
            answer = self.answer(step, terms, **body)
            self.write(answer)
            return answer

        settings = SecAgg(threshold=2)
        keys = read_keys([done("keys").value["keys"]])
        for name in ("n1", "n2", "n3"):
            keys |= read_keys([self.others[name].ask("keys", terms)["keys"]])
        done("shares", keys=plain_keys(keys))
        sealed = {}
        for name in ("n1", "n2", "n3"):
            found = self.others[name].ask("shares", terms, settings=settings, keys=plain_keys(keys))
            sealed[name] = found["sealed"][0]  # of its neighbours n0 is the first
        return self.vector(
            self.bind(done("mask", outline=OUTLINE, taking_part=["n0", *sealed], sealed=sealed))
        )

    def bind(self, answer: SumAnswer, contribution: str = "what it holds") -> SumAnswer:
        """Bind a session to a contribution, as the daemon does once that has been read."""
        assert answer.vector is not None
        session = self.sessions.find(answer.vector.terms)
        assert session is not None
        session, order = bound_to(answer.vector, session, contribution)
        self.write(replace(answer, session=session))
        return replace(answer, session=session, vector=order)

    def vector(self, answer: SumAnswer) -> np.ndarray:
        """Return the noise of the vector of an answer."""
        assert answer.vector is not None
        found = np.zeros(LENGTH, dtype=np.uint32)
        if answer.vector.noise is not None:
            answer.vector.noise.add_to(found, 0)
        return found

    def end(self) -> None:
        with self.database.transaction():
            self.sessions.end_job(self.terms.job)

    def rows(self) -> list[bytes]:
        return [row["body"] for row in self.database.rows("SELECT body FROM secure_sums")]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "node.sqlite")


@pytest.mark.parametrize("killed_at", ["keys", "shares", "mask"])
def test_a_node_that_is_killed_before_it_has_written_its_step_goes_on_with_one_noise(
    disk: Disk, killed_at: str
) -> None:
    def kill(step: str) -> None:
        if step == killed_at:
            disk.restart()

    noise = disk.up_to_vector(disk.terms, kill)
    disk.restart()
    session = disk.sessions.find(disk.terms)
    assert session is not None
    sealed = {name: share for name, share in session.held.items() if name != "n0"}
    assert sealed.keys() == {"n1", "n2", "n3"}
    again = disk.up_to_vector(disk.terms)  # every message comes again
    assert (again == noise).all()
    assert noise.any()


def test_a_further_attempt_has_the_noise_of_the_first_after_a_restart_too(disk: Disk) -> None:
    noise = disk.up_to_vector(disk.terms)
    disk.restart()
    again = disk.up_to_vector(replace(disk.terms, attempt=2))
    assert (again == noise).all()
    assert len(disk.rows()) == 1  # the secrets of the first attempt are gone


@pytest.mark.parametrize("noise", [None, NOISE], ids=["plain", "noise"])
def test_after_a_restart_a_session_is_bound_to_the_contribution_of_before(tmp_path: Path, noise: Any) -> None:
    disk = Disk(tmp_path / "node.sqlite", noise=noise)
    disk.up_to_vector(disk.terms)
    disk.restart()
    session = disk.sessions.find(disk.terms)
    assert session is not None
    assert session.contribution == "what it holds"
    with pytest.raises(OtherContribution, match="a new attempt is needed"):
        bound(session, "what was computed again")


def test_of_two_steps_in_one_turn_the_second_finds_what_the_first_left(disk: Disk) -> None:
    disk.up_to_vector(disk.terms)
    changed: dict[bytes, NodeSession] = {}
    of_turn = SessionsOfTurn(disk.sessions, changed)
    session = of_turn.find(disk.terms)
    assert session is not None
    changed[disk.terms.digest] = replace(session, survivors=["n0", "n1", "n2"])
    steps = SumSteps("n0", disk.node.identity.sign, disk.node._is_signed_by, of_turn)
    with pytest.raises(SpecError, match="agrees to one sum"):
        steps.answer(
            SumStep(step="agree", terms=disk.terms, body={"survivors": ["n0", "n1", "n3"]}),
            SecAgg(threshold=2),
            min_nodes=3,
        )
    second = replace(disk.terms, attempt=2)
    changed[second.digest] = replace(session, terms=second)
    assert of_turn.find(disk.terms) is None  # forfeited
    assert of_turn.newest(disk.terms).attempt == 2
    changed[disk.terms.digest] = replace(session, revealed=True)
    assert of_turn.newest(disk.terms).is_over


def test_a_job_that_has_ended_and_comes_back_is_given_no_second_sum(disk: Disk) -> None:
    disk.up_to_vector(disk.terms)
    disk.end()
    assert disk.rows() == [b""]
    disk.restart()
    for attempt in (1, 2, 7):
        with pytest.raises(SpecError, match="there is no second one"):
            disk.answer("keys", replace(disk.terms, attempt=attempt))
    with pytest.raises(SpecError, match="takes no part"):
        disk.answer("agree", disk.terms, survivors=["n0", "n1", "n2", "n3"])
    disk.end()  # again
    with pytest.raises(SpecError, match="there is no second one"):
        disk.answer("keys", replace(disk.terms, attempt=8))
    assert disk.answer("keys", replace(disk.terms, round=2)).value["keys"]


def test_an_attempt_after_which_nothing_was_sent_is_no_sum(disk: Disk) -> None:
    disk.write(disk.answer("keys", disk.terms))
    disk.end()
    assert disk.rows() == []
    assert disk.answer("keys", disk.terms).value["keys"]


def test_an_attempt_without_a_vector_after_one_with_one_is_on_record_too(disk: Disk) -> None:
    disk.up_to_vector(disk.terms)
    second = replace(disk.terms, attempt=2)
    disk.write(disk.answer("keys", second))
    disk.end()
    with pytest.raises(SpecError, match="there is no second one"):
        disk.answer("keys", replace(disk.terms, attempt=3))


def test_without_noise_nothing_is_left_of_a_job(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "node.sqlite", noise=None)
    disk.up_to_vector(disk.terms)
    disk.end()
    assert disk.rows() == []
