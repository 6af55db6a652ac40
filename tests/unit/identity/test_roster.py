from __future__ import annotations

from dataclasses import dataclass

from fedjob.identity.roster import Roster


@dataclass(frozen=True)
class Entry:
    role: str
    key_hex: str
    revoked: bool = False
    sealing_hex: str = ""
    valid_from: float = 0
    valid_until: float = 0


def test_it_knows_keys_and_roles_and_forgets_the_revoked() -> None:
    roster = Roster(
        {"alice": Entry("researcher", "aa"), "site": Entry("node", "bb"), "old": Entry("node", "cc", True)}
    )
    assert (roster.key_of("alice"), roster.role_of("alice")) == ("aa", "researcher")
    assert (roster.key_of("old"), roster.role_of("old"), roster.key_of("nobody")) == (None, None, None)
    assert roster.parties() == ["alice", "site"]
    assert (roster.sealing_key_of("alice"), roster.sealing_key_of("nobody")) == (None, None)
    assert Roster({"alice": Entry("researcher", "aa", sealing_hex="ff")}).sealing_key_of("alice") == "ff"
    assert not roster.is_pinned
    assert roster.parties("node") == ["site"]


def test_unknown_senders_make_it_ask_at_most_once_a_second() -> None:
    now, asked = [100.0], list[float]()

    def refresh() -> dict[str, Entry]:
        asked.append(now[0])
        return {"late": Entry("node", "dd")} if len(asked) > 1 else {}

    roster = Roster({}, refresh, clock=lambda: now[0])
    assert [roster.key_of(f"made-up-{i}") for i in range(1000)] == [None] * 1000
    assert asked == [100.0]
    now[0] = 101.0
    assert roster.key_of("late") == "dd"
    assert roster.key_of("late") == "dd"
    assert asked == [100.0, 101.0]


def test_a_pinned_key_that_changes_makes_its_party_unknown() -> None:
    parties = {"site": Entry("node", "aa")}
    roster = Roster(parties, lambda: parties, clock=iter(range(100)).__next__)
    roster.pin({"site": "aa"})
    assert (roster.key_of("site"), roster.role_of("site")) == ("aa", "node")
    parties = {"site": Entry("node", "bb")}
    roster.refresh()
    assert (roster.key_of("site"), roster.role_of("site")) == (None, None)


def test_a_hub_that_is_away_takes_nobody_off_the_list() -> None:
    def refresh() -> dict[str, Entry]:
        raise OSError("no route")

    roster = Roster({"alice": Entry("researcher", "aa")}, refresh)
    assert roster.key_of("nobody") is None
    assert str(roster.last_error) == "no route"
    assert roster.key_of("alice") == "aa"
