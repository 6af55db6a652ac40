"""The list of those who may enter the owner's page: what it may say, and what it means."""

from __future__ import annotations

import pytest

from fedjob.common.errors import ConfigError
from fedjob.node.config.page_people import fact, read_people


def test_a_list_names_subjects_addresses_and_groups() -> None:
    assert read_people(" sub = a|1 ,email=Ann@Clinic.Example,, group=data protection ") == {
        "sub=a|1",
        "email=ann@clinic.example",
        "group=data protection",
    }
    assert read_people("") == frozenset()
    assert read_people(" , ,") == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "ann",
        "email=",
        "=x",
        "emial=a@b",
        "sub=*",
        "group=d?",
        "email=@",
        "email=clinic.example",
        "sub=a\x07",
    ],
)
def test_what_is_no_entry_is_refused_with_the_words_for_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected sub=ID|names no single person"):
        read_people(text)


def test_only_addresses_are_alike_in_both_cases_and_only_in_ascii() -> None:
    assert fact("email", "Ben@X.example") == fact("email", "ben@x.example")
    assert fact("email", "ben@\u212a.example") != fact("email", "ben@k.example")
    assert fact("sub", "A") != fact("sub", "a")
    assert fact("group", "A") != fact("group", "a")
