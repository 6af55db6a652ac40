"""Private set intersection: the researcher's own records that all other nodes have as well.

Meadows 1986, "A More Efficient Cryptographic Matchmaking Protocol for Use in the Absence of a
Continuously Available Third Party", https://doi.org/10.1109/SP.1986.10022, with the exponents on
Curve25519 (see `privacy/blinding.py`) and a ring of any number of parties:

    B_k        = sort(a_k * H(x)   for x in X_k)               every node k with a fresh key a_k, once
    B_k        = a_j * B_k                                     for every other node j, in turn
    B_k        = a_1 * ... * a_n * H(x)                        then equal where the identifiers are equal
    common     = positions in B_own of the points that are in every B_k
    own node   : the identifiers at these positions

The researcher passes the sets on and compares them. A node keeps its key until the job ends. No
identifier leaves a node but those that the researcher's own node has in common with all others.

It leaks to the researcher the number of identifiers of each node, and the size of every
intersection of several of the nodes; and to the nodes the sizes of the others' sets. For anybody
without a key a blinded identifier is a random point, and guesses can't be tried out. It is safe
against parties that are curious and follow the protocol. A researcher who does not follow it could send
a set of guesses in place of a node's set and learn which of them the others have, as anybody can who
takes part in an intersection with made-up identifiers. This is why owners grant it to named researchers, and why a
node whose owner sets `min_rows` refuses, unless the dataset's `option members` says yes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_kinds, shown, some_of
from fedjob.common.errors import NodeFailure, QuorumNotReached, SpecError, UnreadableData
from fedjob.common.values import decode, encode
from fedjob.privacy.blinding import POINT_BYTES, blind, divided, joined, new_key, point_of
from fedjob.protocols.answer_form import AnswerForm, Points, Something
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.protocols.step_inputs import PLAIN

BLIND, PASS, REVEAL = "blind", "pass", "reveal"

MAX_IDENTIFIERS = 1_000_000
"""The most identifiers of one node: 32 MB of points."""

_TELL_EVERY = 2000


@dataclass(frozen=True, slots=True)
class PrivateSetIntersection(FederatedProtocol):
    """The identifiers that all nodes have; the result is a sorted array of text.

    Identifiers are compared as text, exactly as they stand in the data: `007` and `7` are two, and so are two numbers
    that differ in their last digit. Spaces around them do not count. In a column of whole numbers only, a fraction
    `.0` does not count, either, as spreadsheets and pandas write it where cells are empty. A missing value is no
    identifier, and an identifier in several rows counts once.

    Args:
        on: the column of identifiers: one name, or node -> name.
        own: the node with your own dataset, whose identifiers the result holds; the node's owner names you in
            the setting `own_of`.
    """

    on: Any = ""
    own: str = ""

    name: ClassVar[str] = "psi"
    needs_plan: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kinds(self)
        names = self.on.values() if isinstance(self.on, Mapping) else [self.on]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise SpecError(
                "PrivateSetIntersection(on=...) names the column of identifiers, for all nodes or as "
                f"{{node: column}}; found {shown(self.on)}"
            )
        if not isinstance(self.own, str) or not self.own:
            raise SpecError(
                "a private set intersection finds which of your own records others have: one of its datasets is yours, "
                f"so name the node that has it, own='node'; found own={shown(self.own)}"
            )

    def start(self, params: Mapping[str, Any]) -> State:
        return {"sets": {}, "passes": 0, "places": None, "common": None}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {PASS: {"points": PLAIN}, REVEAL: {"places": PLAIN}}.get(step, {})

    def instruct(self, state: State, view: View) -> Ask | Done:
        if state["common"] is not None:
            return Done(decode(state["common"]))
        nodes = tuple(view.nodes)
        if len(nodes) < 2 or self.own not in nodes:
            raise SpecError(
                f"a private set intersection needs two nodes or more, {self.own} with your own dataset among them; "
                f"the job has {some_of(nodes)}"
            )
        unnamed = [node for node in nodes if isinstance(self.on, Mapping) and node not in self.on]
        if unnamed:
            raise SpecError(f"PrivateSetIntersection(on={{...}}) names no column for {some_of(unnamed)}")
        if state["places"] is not None:
            each = {self.own: {"places": state["places"]}}
            return Ask(
                step=REVEAL, each=each, to=(self.own,), aggregator=Collect(), schema={}, answer=Something()
            )
        points = Points(POINT_BYTES, MAX_IDENTIFIERS)
        if not state["sets"]:
            return self._of_points(BLIND, nodes, {}, points)
        each = {node: {"points": state["sets"][_from(nodes, node, state["passes"] + 1)]} for node in nodes}
        return self._of_points(PASS, nodes, each, points)

    def _of_points(self, step: str, nodes: tuple[str, ...], each: Mapping[str, Any], form: AnswerForm) -> Ask:
        """Return an ask whose answers are blinded identifiers."""
        return Ask(
            step=step,
            each=each,
            to=nodes,
            aggregator=Collect(),
            commit=False,
            schema={},
            answer=form,
            value_bytes=POINT_BYTES * MAX_IDENTIFIERS + (1 << 20),
        )

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        limited = local.releases is not None and not local.limits.get("own")
        if limited and not local.data.releases_members:
            raise NodeFailure(
                local.node,
                "min_rows",
                "an intersection tells of single rows whether they are here, and the owner sets a minimum of rows: "
                "the owner allows it with the dataset's option members=yes",
            )
        if instruction.step == BLIND:
            local.state["key"] = new_key()
            found = list(self._own(local))
            local.emit("metrics", {"hash_table_size": len(found)})
            value: Any = joined(point for point, _ in found)
        elif instruction.step == PASS:
            value = joined(self._passed(instruction["points"], local))
        else:
            value = encode(self._revealed(instruction["places"], local), "the identifiers")
        return Contribution(value, float(local.data.num_rows))

    def finish(self, state: State, gathered: Gathered) -> State:
        if gathered.left_out:
            missing = "; ".join(f"{node}: {reason}" for node, reason in sorted(gathered.left_out.items()))
            raise QuorumNotReached(
                f"a private set intersection needs the answers of all nodes ({missing})",
                received=gathered.replies,
                left_out=dict(gathered.left_out),
            )
        answers = {node: reply.value for node, reply in sorted(gathered.replies.items())}
        if state["places"] is not None:
            return {**state, "common": answers[self.own], "sets": {}}
        for node, points in answers.items():
            if not isinstance(points, bytes) or len(points) % POINT_BYTES:
                raise SpecError(f"node {node} answered no blinded identifiers of {POINT_BYTES} bytes each")
        if not state["sets"]:
            return self._compared({**state, "sets": answers}, len(answers))
        nodes, passes = tuple(answers), state["passes"] + 1
        sets = {_from(nodes, node, passes): points for node, points in answers.items()}
        for node, points in sets.items():
            if len(points) != len(state["sets"][node]):
                raise SpecError(
                    f"the identifiers of {node} came back in another number than they were passed on"
                )
        return self._compared({**state, "sets": sets, "passes": passes}, len(answers))

    def _compared(self, state: State, num_nodes: int) -> State:
        """Return the state, with the positions of common identifiers once all nodes have blinded all sets."""
        import numpy as np

        if state["passes"] < num_nodes - 1:
            return state
        common = set.intersection(*(set(divided(points)) for points in state["sets"].values()))
        places = [place for place, point in enumerate(divided(state["sets"][self.own])) if point in common]
        return {**state, "sets": {}, "places": np.array(places, dtype="<u4").tobytes()}

    # -- at a node ----------------------------------------------------------------

    def _own(self, local: Local) -> list[tuple[bytes, str]]:
        """Return blinded points with their identifiers, in the order of the points, which reveals nothing."""
        identifiers = _identifiers(local, self.on[local.node] if isinstance(self.on, Mapping) else self.on)
        points = self._blinded([point_of(identifier) for identifier in identifiers], local)
        return sorted(zip(points, identifiers, strict=True))

    def _passed(self, points: Any, local: Local) -> list[bytes]:
        try:
            return self._blinded(divided(points), local)
        except (TypeError, ValueError) as error:
            raise NodeFailure(
                local.node, "decode", f"expected blinded identifiers of {POINT_BYTES} bytes each"
            ) from error

    def _blinded(self, points: list[bytes], local: Local) -> list[bytes]:
        if len(points) > MAX_IDENTIFIERS:
            raise NodeFailure(local.node, "spec", f"at most {MAX_IDENTIFIERS} identifiers, not {len(points)}")
        done = []
        for point in blind(local.state["key"], points):
            done.append(point)
            if len(done) % _TELL_EVERY == 0:
                local.progress(len(done), len(points))
        return done

    def _revealed(self, places: bytes, local: Local) -> Any:
        import numpy as np

        if local.node != self.own or not local.limits.get("own"):
            raise NodeFailure(
                local.node,
                "not_permitted",
                "identifiers are sent only to a researcher whose own node this is; its owner sets own_of for that",
            )
        identifiers = [identifier for _, identifier in self._own(local)]
        chosen = np.frombuffer(places, dtype="<u4")
        if len(chosen) and int(chosen.max()) >= len(identifiers):
            raise NodeFailure(local.node, "decode", "a place beyond the identifiers of this node")
        return np.array(sorted(identifiers[int(place)] for place in chosen), dtype=str)


def _from(nodes: tuple[str, ...], node: str, passes: int) -> str:
    """Return the node whose set `node` blinds in a pass: sets go round the ring, one node further in each pass."""
    return nodes[(nodes.index(node) - passes) % len(nodes)]


def _identifiers(local: Local, column: str) -> list[str]:
    """Return a column's different identifiers, in the form that is the same at all nodes."""
    try:
        found = local.data.texts(column).dropna().unique().tolist()
    except UnreadableData:
        raise
    except SpecError as error:
        raise NodeFailure(local.node, "spec", str(error)) from error
    return sorted({unicodedata.normalize("NFC", identifier).strip() for identifier in found} - {""})
