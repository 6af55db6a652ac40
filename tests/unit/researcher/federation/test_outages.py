"""Outages: the nodes' clock stands still, and work that needs the hub is done again when it answers."""

from __future__ import annotations

import pytest

from fedjob.common.errors import JobStopped, RepositoryUnreachable
from fedjob.researcher.federation.outages import LineClock, through_outages


def test_no_time_passes_for_the_nodes_while_this_side_is_cut_off() -> None:
    clock = LineClock(100.0)
    assert clock.now(110.0) == 110.0
    assert clock.look(110.0, up=False) is None
    assert clock.now(500.0) == clock.now(900.0) == 110.0
    assert clock.away_s(500.0) == 390.0
    assert clock.look(600.0, up=False) is None
    assert clock.look(610.0, up=True) == 500.0
    assert clock.now(620.0) == 120.0
    assert clock.look(620.0, up=True) is None
    assert clock.look(630.0, up=False) is None
    assert clock.look(631.0, up=True) == 1.0
    assert clock.now(640.0) == 139.0
    assert clock.away_s(640.0) == 0.0


class Hub:
    """A hub that does not answer for so many questions."""

    def __init__(self, num_away: int) -> None:
        self.num_away = num_away

    def answers(self) -> bool:
        self.num_away -= 1
        return self.num_away < 0

    def put(self) -> str:
        if self.num_away > 0:
            raise RepositoryUnreachable("connection refused")
        return "stored"


def test_what_needs_the_hub_is_done_again_when_it_answers_and_both_are_said() -> None:
    hub, said, checks = Hub(4), [], []
    done = through_outages(
        hub.put, hub.answers, check=lambda: checks.append(1), tell=said.append, probe_every_s=0.01
    )
    assert done == "stored"
    assert [line.partition(";")[0].partition(" after")[0] for line in said] == [
        "the hub does not answer",
        "the hub answers again",
    ]
    assert checks


def test_a_hub_that_answers_and_is_in_trouble_is_no_outage() -> None:
    tries = []

    def put() -> None:
        tries.append(1)
        raise RepositoryUnreachable("the hub is in trouble (status 503)")

    with pytest.raises(RepositoryUnreachable, match="503"):
        through_outages(put, lambda: True, check=lambda: None)
    assert len(tries) == 2


def test_a_hub_that_comes_back_just_when_it_is_asked_whether_it_is_there_gets_one_more_try() -> None:
    hub = Hub(1)

    def answers() -> bool:
        hub.num_away = 0
        return hub.answers()

    assert through_outages(hub.put, answers, check=lambda: None) == "stored"


def test_the_wait_for_a_hub_ends_when_the_job_is_ended_or_after_a_day() -> None:
    def stop() -> None:
        raise JobStopped("kill")

    def put() -> None:
        raise RepositoryUnreachable("connection refused")

    with pytest.raises(JobStopped):
        through_outages(put, lambda: False, check=stop, probe_every_s=0.01)
    with pytest.raises(RepositoryUnreachable):
        through_outages(put, lambda: False, check=lambda: None, max_outage_s=0.05, probe_every_s=0.01)
