"""The words for records of the audit log."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.node.owner.audit_words import summary_of

SAID: tuple[tuple[dict[str, Any], str], ...] = (
    ({"by": "ann", "description": "hearts"}, "description is 'hearts' by ann"),
    ({"by": "ann", "min_rows": 5, "tags": ["a"]}, "min_rows is 5 tags is ['a'] by ann"),
    ({"by": "ann", "value": "off"}, "is 'off' by ann"),
    ({"removed": True, "by": "ann"}, "removed by ann"),
    (
        {"state": "failed", "reason": "timeout", "researcher": "bo", "dataset": "heart"},
        "failed (timeout) bo heart",
    ),
    ({"by": "ann"}, "by ann"),
)


@pytest.mark.parametrize(("body", "said"), SAID)
def test_a_record_says_what_happened(body: dict[str, Any], said: str) -> None:
    assert summary_of(body) == said
