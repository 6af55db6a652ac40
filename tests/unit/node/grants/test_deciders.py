"""Who decided: people whom a provider knows, names that are typed, and which of them are one person."""

from __future__ import annotations

import pytest

from fedjob.common.errors import SpecError
from fedjob.node.grants.deciders import SignedDecider, decider, is_same_decider, names_of

ANN = "Ann Lindqvist <https://login.clinic.example/realm#ann-1>"
ANN_RENAMED = "Dr. Somebody Else <https://login.clinic.example/realm#ann-1>"
NAMESAKE = "Ann Lindqvist <https://login.clinic.example/realm#ann-2>"
ELSEWHERE = "Ann Lindqvist <https://evil.example#ann-1>"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ANN, ANN, True),
        (ANN, ANN_RENAMED, True),
        (ANN, NAMESAKE, False),
        (ANN, ELSEWHERE, False),
        (ANN, "Ann Lindqvist", True),
        (ANN, " ann  LINDQVIST ", True),
        (ANN, "Ann", False),
        ("Mira", "Mira", True),
        ("Mira", " mira", True),
        ("Mira  Holm", "mira holm", True),
        ("Mira", "Ben", False),
    ],
)
def test_a_subject_says_who_somebody_is_and_a_typed_name_counts_as_that_of_its_owner(
    one: str, other: str, same: bool
) -> None:
    assert is_same_decider(one, other) is same
    assert is_same_decider(other, one) is same


def test_others_than_the_owner_see_names_alone() -> None:
    assert names_of(f"{ANN}, Mira, {NAMESAKE}") == "Ann Lindqvist, Mira, Ann Lindqvist"
    assert names_of("") == ""


@pytest.mark.parametrize(
    "typed", [ANN, "<http://x#y>", "Ann https://login.clinic.example#ann-1", "a <https://b#c> d"]
)
def test_nobody_types_what_only_a_sign_in_gives(typed: str) -> None:
    with pytest.raises(SpecError, match="which nobody types"):
        decider(typed)


def test_who_has_signed_in_is_recorded_whole_however_long_the_providers_name_is() -> None:
    long = f"{'A' * 80} <https://login.clinic.example/{'x' * 200}#{'s' * 255}>"
    kept = decider(SignedDecider(long))
    assert kept == long
    assert type(kept) is str, "plain text, as databases and codecs take it"
