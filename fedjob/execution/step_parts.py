"""The parts of a step of a secure sum that its message has no room for: they are objects of the repository, as large values are.

With many nodes the keys and the signatures of all are larger than a message. What many nodes get alike is one object for all of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import SpecError
from fedjob.common.types import Ref
from fedjob.messaging.messages import ROOM_BYTES, Task, packed_parts

MAX_PARTS_BYTES = 10 << 20
"""Of one step: the outline of a contribution has 8 MiB at most, and the keys of a thousand nodes are 340 kB."""

MAX_PART_ELEMENTS = 50_000
"""Of one part: the keys of a thousand nodes are 11 thousand values."""


def large_parts(task: Task) -> dict[str, bytes]:
    """Return the parts of a step that its message has no room for, by name, packed: the largest ones."""
    return largest(packed_parts(task.sum), len(pack(to_plain(task))) - ROOM_BYTES)


def largest(packed: Mapping[str, bytes], too_many: int) -> dict[str, bytes]:
    """Return the largest of some parts: without them there are so many bytes less."""
    found: dict[str, bytes] = {}
    for name in sorted(packed, key=lambda name: -len(packed[name])):
        if too_many <= 0:
            break
        found[name] = packed[name]
        too_many -= len(packed[name])
    return found


def referring(task: Task, refs: Mapping[str, Ref]) -> Task:
    """Return a step that names some of its parts in place of holding them."""
    return replace(
        task, sum={name: part for name, part in task.sum.items() if name not in refs}, sum_parts=dict(refs)
    )


def check_parts(task: Task) -> None:
    """Check the refs of a step's parts before anything is fetched.

    Raises:
        SpecError: they are too large, or the step holds a part that it names as well.
    """
    size_bytes = sum(ref.size_bytes for ref in task.sum_parts.values())
    if size_bytes > MAX_PARTS_BYTES:
        raise SpecError(
            f"the parts of a step of a secure sum have at most {MAX_PARTS_BYTES:,} bytes, found {size_bytes:,}"
        )
    if twice := sorted(task.sum.keys() & task.sum_parts.keys()):
        raise SpecError(
            f"a part of a step is in its message or in the repository, found {twice[0][:40]!r} in both"
        )


def read_part(content: bytes) -> Any:
    """Return a part from its bytes in the repository.

    Raises:
        DecodeError: they are no plain data, or too many values.
    """
    return unpack(content, limit_bytes=MAX_PARTS_BYTES, max_elements=MAX_PART_ELEMENTS)


def completed(task: Task, parts: Mapping[str, Any]) -> Task:
    """Return a step with the parts that it names."""
    return replace(task, sum={**task.sum, **parts}, sum_parts={})
