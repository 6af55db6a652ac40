from __future__ import annotations

import time
from dataclasses import dataclass

from fedjob.common.errors import NotPermitted
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


def test_a_hub_that_refuses_this_party_twice_in_a_row_has_revoked_it() -> None:
    errors: list[Exception] = []

    def refresh() -> dict[str, Entry]:
        if errors:
            raise errors[0]
        return {"alice": Entry("researcher", "aa")}

    roster = Roster({}, refresh, clock=iter(range(0, 1000, 2)).__next__)
    errors[:] = [NotPermitted("expected the token of a party")]
    assert (roster.refresh(), roster.refused) == (False, "")  # it may be a hub that was restarted
    assert (roster.refresh(), roster.refused) == (False, "expected the token of a party")
    errors[:] = [OSError("no route")]
    assert (roster.refresh(), roster.refused) == (False, "")
    errors.clear()
    assert (roster.refresh(), roster.refused) == (True, "")
    assert roster.describe().startswith("trust on first use")


def test_a_party_counts_for_as_long_as_it_is_valid() -> None:
    now = time.time()
    roster = Roster(
        {
            "past": Entry("node", "aa", valid_until=now - 1),
            "now": Entry("node", "bb", valid_from=now - 1, valid_until=now + 60),
            "later": Entry("node", "cc", valid_from=now + 60),
        }
    )
    assert roster.parties() == ["now"]
    assert (roster.key_of("past"), roster.key_of("later"), roster.has("now", "node")) == (None, None, True)
    assert not roster.has("now", "researcher")
