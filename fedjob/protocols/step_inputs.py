"""The inputs of a protocol's steps: the names and kinds of what an ask sends to nodes, held there before anything is computed.

A step declares them (`FederatedProtocol.inputs_of`). What a message has beyond them could carry anything to approved
code, unseen by the owner who approved it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fedjob.data.preprocessing.learning import LEARN, LEARNED

if TYPE_CHECKING:
    from fedjob.protocols.base import FederatedProtocol

TENSORS, PLAIN = "tensors", "a plain value"
"""The kinds of inputs: named tensors, in a file, and plain data."""

TURN = "turn"
"""A number that tells an ask from one before it, where a job asks again until there is something new."""

_OF_EVERY_STEP = {LEARNED: PLAIN, TURN: PLAIN}


def input_problem(
    protocol: FederatedProtocol,
    step: str,
    *,
    values: Mapping[str, Any],
    large: Collection[str] = (),
    tensors: Collection[str] = (),
) -> str:
    """Return in words what a message sends that the step does not declare; empty where it fits.

    Args:
        values: plain values by name.
        large: names of plain values that are objects of the repository.
        tensors: names of files of tensors.
    """
    declared = {} if step == LEARN else protocol.inputs_of(step)
    if declared is None:
        return ""
    expected = {**_OF_EVERY_STEP, **declared}
    turn = values.get(TURN, 0)
    if type(turn) is not int or turn < 0:
        return f"{TURN} counts, found {str(turn)[:40]!r}"
    # a model without any parameters is an empty map, for which there is no file
    plain = {name for name in values if not (expected.get(name) == TENSORS and values[name] == {})}
    found = {(name, PLAIN) for name in (*plain, *large)} | {(name, TENSORS) for name in tensors}
    for name, kind in sorted(found):
        if expected.get(name) != kind:
            takes = ", ".join(sorted(declared)) or "nothing"
            what = kind if name not in expected else f"{kind} where it takes {expected[name]}"
            return f"step {step[:40]!r} of {protocol.name} takes {takes}; found {name[:40]!r}, {what}"
    return ""
