"""Sign-in to a page: links that work once, sessions that end, passwords that can't be guessed in a row."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError
from fedjob.common.pages.password import FREE_ATTEMPTS, MAX_PAUSE_S, PagePassword, set_password
from fedjob.common.pages.people import PagePerson
from fedjob.common.pages.sessions import IDLE_S, LINK_S, MAX_LINKS, MAX_SESSIONS, SESSION_S, PageSessions


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_link_opens_one_session_and_no_second_one() -> None:
    sessions = PageSessions(Clock())
    secret = sessions.new_link()
    assert (sessions.use_link(secret), sessions.use_link(secret)) == (True, False)
    assert not sessions.use_link("")
    assert not sessions.use_link(secret[:-1])


def test_a_link_that_nobody_used_in_time_opens_nothing() -> None:
    clock = Clock()
    sessions = PageSessions(clock)
    secret = sessions.new_link()
    clock.now += LINK_S + 1
    assert not sessions.use_link(secret)


def test_of_many_links_the_newest_stay() -> None:
    sessions = PageSessions(Clock())
    links = [sessions.new_link() for _ in range(MAX_LINKS + 2)]
    assert [sessions.use_link(link) for link in links] == [False, False, *[True] * MAX_LINKS]


def test_a_session_ends_when_it_is_not_used_and_in_any_case_after_a_day_of_work() -> None:
    clock = Clock()
    sessions = PageSessions(clock)
    idle = sessions.begin()
    clock.now += IDLE_S + 1
    assert sessions.find(idle) is None
    used = sessions.begin()
    for _ in range(int(SESSION_S // (IDLE_S / 2))):
        assert sessions.find(used) is not None
        clock.now += IDLE_S / 2
    clock.now += 1
    assert sessions.find(used) is None


def test_a_session_that_was_left_is_gone_and_of_too_many_the_one_that_nobody_uses_goes() -> None:
    clock = Clock()
    sessions = PageSessions(clock)
    ids = []
    for _ in range(MAX_SESSIONS):
        clock.now += 1
        ids.append(sessions.begin())
    clock.now += 1
    assert sessions.find(ids[0]) is not None
    sessions.begin()
    assert sessions.find(ids[0]) is not None
    assert sessions.find(ids[1]) is None
    sessions.end(ids[0])
    assert sessions.find(ids[0]) is None
    assert sessions.find("fixed-by-somebody") is None


def test_each_session_has_a_word_of_its_own() -> None:
    sessions = PageSessions(Clock())
    words = {sessions.find(sessions.begin()).csrf for _ in range(10)}  # type: ignore[union-attr]
    assert len(words) == 10
    assert all(len(word) >= 40 for word in words)


def test_a_password_is_kept_as_a_hash_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "password"
    set_password(path, "correct horse battery")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"correct" not in path.read_bytes()
    password = PagePassword(path, Clock())
    assert password.fits("correct horse battery")
    assert not password.fits("correct horse batterz")
    assert not password.fits("x" * 100_000)


def test_wrong_passwords_in_a_row_cost_pauses_that_double_and_the_right_one_ends_them(tmp_path: Path) -> None:
    set_password(tmp_path / "password", "correct horse battery")
    clock = Clock()
    password = PagePassword(tmp_path / "password", clock)
    for _ in range(FREE_ATTEMPTS):
        assert password.wait_s() == 0
        assert not password.fits("wrong")
    assert password.wait_s() == 2.0
    assert not password.fits("correct horse battery"), "during a pause nothing is looked at"
    pauses = []
    for _ in range(9):
        clock.now += password.wait_s()
        password.fits("wrong")
        pauses.append(password.wait_s())
    assert pauses == [4, 8, 16, 32, 64, 128, 256, MAX_PAUSE_S, MAX_PAUSE_S]
    clock.now += password.wait_s()
    assert password.fits("correct horse battery")
    assert not password.fits("wrong")
    assert password.wait_s() == 0


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * 1025])
def test_a_password_that_can_be_guessed_is_refused(tmp_path: Path, password: str) -> None:
    with pytest.raises(ConfigError, match="12 characters or more"):
        set_password(tmp_path / "password", password)
    assert not (tmp_path / "password").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"scrypt": [1], "salt": "", "hash": ""}', "\udcff"])
def test_a_file_that_is_no_hash_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "password").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="set a new one"):
        PagePassword(tmp_path / "password")
    with pytest.raises(ConfigError, match="there is no password yet"):
        PagePassword(tmp_path / "none")


def test_a_person_who_may_no_longer_be_here_loses_the_session_and_nobody_else_does() -> None:
    here = {"https://login.example#ann"}
    sessions = PageSessions(Clock(), admits=lambda person: person.id in here)
    person = PagePerson(id="https://login.example#ann", name="Ann", facts=frozenset())
    ann, link = sessions.begin(person), sessions.begin()
    found = sessions.find(ann)
    assert found is not None
    assert found.person == person
    here.clear()
    assert not sessions.is_open(ann)
    assert sessions.find(ann) is None
    here.add(person.id)
    assert sessions.find(ann) is None, "it has ended"
    assert sessions.find(link) is not None


def test_sessions_without_a_provider_admit_nobody_whom_one_knows() -> None:
    sessions = PageSessions(Clock())
    assert sessions.find(sessions.begin(PagePerson(id="x#y", name="", facts=frozenset()))) is None
