"""Rights at the broker."""

from __future__ import annotations

import pytest

from fedjob.hub.broker.access import acl_file, may_read, may_write, password_file


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("fedjob/1/to/alice/s1/from/node-a", True),
        ("fedjob/1/all/from/node-a", True),
        ("fedjob/1/presence/node-a", True),
        ("fedjob/1/to/alice/s1/from/node-b", False),
        ("fedjob/1/to/alice/s1/from/node-a/x", False),
        ("fedjob/1/to/alice/from/node-a", False),
        ("fedjob/1/to/alice/s1/s2/from/node-a", False),
        ("fedjob/1/all/from/node-b", False),
        ("fedjob/1/presence/node-b", False),
        ("fedjob/1/presence/+", False),
        ("fedjob/2/all/from/node-a", False),
        ("x/fedjob/1/all/from/node-a", False),
        ("#", False),
        ("", False),
    ],
)
def test_a_party_writes_under_its_own_name_only(topic: str, may: bool) -> None:
    assert may_write("node-a", topic) is may


@pytest.mark.parametrize(
    ("topic_filter", "may"),
    [
        ("fedjob/1/to/node-a/#", True),
        ("fedjob/1/to/node-a/main/from/+", True),
        ("fedjob/1/to/node-a/main/from/alice", True),
        ("fedjob/1/all/from/+", True),
        ("fedjob/1/all/from/alice", True),
        ("fedjob/1/presence/+", True),
        ("fedjob/1/to/node-b/#", False),
        ("fedjob/1/to/+/#", False),
        ("fedjob/1/to/+/main/from/node-a", False),
        ("fedjob/1/to/#", False),
        ("fedjob/1/all/#", False),
        ("fedjob/1/#", False),
        ("+/1/all/from/alice", False),
        ("#", False),
        ("+", False),
    ],
)
def test_a_party_reads_what_is_addressed_to_it_only(topic_filter: str, may: bool) -> None:
    assert may_read("node-a", topic_filter) is may


def test_the_files_say_the_same() -> None:
    lines = [line for line in acl_file().splitlines() if not line.startswith("#")]
    assert "pattern read fedjob/1/to/%u/#" in lines
    assert "pattern write fedjob/1/to/+/+/from/%u" in lines
    assert all(line.startswith(("pattern read ", "pattern write ")) for line in lines)
    assert password_file([("b", "$7$2"), ("a", "$7$1")]) == "a:$7$1\nb:$7$2\n"


def test_a_file_of_names_gives_rights_to_those_that_are_there_and_to_nobody_else() -> None:
    lines = [line for line in acl_file(["b", "a"]).splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.startswith("user ")] == ["user a", "user b"]
    of_a = lines[: lines.index("user b")]
    assert {"topic read fedjob/1/to/a/#", "topic write fedjob/1/to/+/+/from/a"} < set(of_a)
    assert not any("/b" in line for line in of_a)
    assert not any("pattern" in line or "%u" in line for line in lines)
    assert acl_file([]).startswith("#")
    assert acl_file([]).count("\n") == 1
