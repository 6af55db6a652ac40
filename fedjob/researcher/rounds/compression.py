"""The compressed way of a job's rounds, at the researcher: what nodes are sent, and their answers as they count.

Parameters in a form of 16 bits are sent as such. All other compressors send changes since what nodes were sent last, which
the researcher keeps beside the exact parameters; so what one round loses the next one makes up for. A node that does not
have what was sent last, because it is new or was left out, is sent that state as it is.

Gruntkowska, Tyurin, Richtarik 2023, "EF21-P and Friends: Improved Theoretical Communication Complexity for Distributed
Optimization with Bidirectional Compression", algorithm 1, https://arxiv.org/abs/2209.15218

A node's answer is its change since the parameters that it was sent, and counts as that change of the exact parameters:
what the way to the node lost is in the point at which it trained, and never in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.aggregation.guard import check_schema
from fedjob.common.errors import DecodeError
from fedjob.common.files import link_or_copy
from fedjob.common.types import Ref
from fedjob.parameters.compression import COMPRESSORS
from fedjob.parameters.compression.base import Compressor
from fedjob.parameters.compression.parcels import Opened, pack_tensors
from fedjob.parameters.files import FileParams, is_params, save_params, schema_of
from fedjob.parameters.safetensors_header import num_bytes_of
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols.base import MEASURING, Ask, Reply, State
from fedjob.repository.parts import ref_of
from fedjob.researcher.rounds.arrival_checks import expected_schema
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Arrival
from fedjob.researcher.storage.spec import JobSpec

SENT, SENT_TO = "sent_params", "sent_to"
"""Places in a protocol's state: the parameters as nodes were sent them last; node -> its state, which has them."""

PARAMS = "params"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What an ask sends in place of its parameters.

    Args:
        refs: node -> the file that it gets.
        how: node -> what its task says of it, see `execution.compressed_work`.
        came: the parameters as the nodes have them then; None where nobody needs them again.
    """

    refs: Mapping[str, Ref] = field(default_factory=dict)
    how: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    came: FileParams | None = None


@dataclass(kw_only=True)
class Compression:
    """The compressed way of a job.

    Args:
        publish: makes a file available to all nodes.
        exact: names of the tensors that travel as they are, such as the running variances of a layer, which must never
            fall below 0.
    """

    spec: JobSpec
    publish: Callable[[Path], Ref]
    compressor: Compressor
    exact: frozenset[str]
    _sent: Sent = field(init=False, default_factory=Sent)

    def send(self, ask: Ask, position: Position, nodes: Iterable[str], spool: Path) -> Sent:
        """Publish an ask's parameters as they travel, and return what each node gets.

        Args:
            nodes: that get a new task; those with parameters of their own get these as they are.
            spool: for the files.
        """
        self._sent = Sent()
        params, addressed = ask.shared.get(PARAMS), [n for n in nodes if PARAMS not in ask.each.get(n, {})]
        if params is None or not is_params(params) or not addressed or ask.late == "keep":
            return self._sent
        about = {
            **self.spec.compression,
            "up": self._up(ask),
            "num_bytes": num_bytes_of(schema_of(params)),
        }
        if self.compressor.takes_whole:
            packed = pack_tensors(params, self.compressor, exact=self.exact).parcels
            ref = self.publish(_saved(packed, spool / f"sent_{ask.step}.safetensors"))
            how = {**about, "down": "whole"}
            self._sent = Sent(refs=dict.fromkeys(addressed, ref), how=dict.fromkeys(addressed, how))
        else:
            self._sent = self._changes(ask, position, addressed, spool, about)
        return self._sent

    def _changes(
        self, ask: Ask, position: Position, nodes: list[str], spool: Path, about: Mapping[str, Any]
    ) -> Sent:
        """Publish changes for the nodes that have what was sent last, and the whole for the others."""
        params, before = ask.shared[PARAMS], position.state.get(SENT)
        has: Mapping[str, str] = position.state.get(SENT_TO) or {}
        holders = [n for n in nodes if n in has and has[n] == position.node_states.get(n)]
        refs: dict[str, Ref] = {}
        came = params
        if before is not None and holders:
            exact = self.exact | _without_origin(params, before)
            packed = pack_tensors(params, self.compressor, origin=before, exact=exact).parcels
            path = _saved(packed, spool / f"sent_{ask.step}.safetensors")
            came = dict(Opened(FileParams(path), self.compressor, before))
            refs = dict.fromkeys(holders, self.publish(path))
        how = {n: {**about, "down": "changes" if n in refs else "whole"} for n in nodes}
        lacking = [n for n in nodes if n not in refs]
        if lacking:
            packed = pack_tensors(came, self.compressor, exact=frozenset(came)).parcels
            ref = self.publish(_saved(packed, spool / f"sent_whole_{ask.step}.safetensors"))
            refs |= dict.fromkeys(lacking, ref)
        if ask.step in MEASURING:
            return Sent(refs=refs, how=how)
        kept = came
        if not isinstance(kept, FileParams):
            kept = FileParams(_saved(kept, spool / f"came_{ask.step}.safetensors"))
        return Sent(refs=refs, how=how, came=kept)

    def _up(self, ask: Ask) -> str:
        if "secagg" in self.spec.protect:
            return ""
        return "changes" if ask.origin is None else "values"

    def opened(self, arrival: Arrival, ask: Ask, limit_bytes: int) -> Arrival | str:
        """Return an answer as it counts, its tensors in a file of their own; or why they are not those asked for.

        Nothing is unpacked of tensors that were not asked for.

        Args:
            limit_bytes: of its tensors, where the ask does not say what they are.

        Raises:
            DecodeError: they are malformed, or more than the limit.
        """
        how = self._sent.how.get(arrival.node)
        if arrival.params is None or how is None or not how["up"]:
            return arrival
        expected = expected_schema(ask, arrival.node)
        found = Opened(
            arrival.params,
            self.compressor,
            ask.shared[PARAMS] if how["up"] == "changes" else {},
            limit_bytes=limit_bytes if expected is None else None,
        )
        if expected is not None and (problem := check_schema(found.schema, expected)):
            return problem
        path = arrival.params.path.with_name(JobFolder.opened_name(ask.step, arrival.node))
        if arrival.params.path.parent.name.startswith("local_"):
            path = path.parent.parent / path.name
        return replace(arrival, params=FileParams(_saved(dict(found), path)))

    def after(self, state: State, ask: Ask, replies: Mapping[str, Reply]) -> State:
        """Return a protocol's state with what nodes have been sent."""
        if ask.step in MEASURING or not self._sent.refs or self._sent.came is None:
            return state
        has = {n: reply.state for n, reply in sorted(replies.items()) if n in self._sent.refs and reply.state}
        return {**state, SENT: self._sent.came, SENT_TO: has}

    def record(self, ask: Ask, spool: Path) -> dict[str, Any]:
        """Return what the ledger says of it, so that `verify` can open the answers again; empty for no answers.

        The parameters that changes count from are kept beside the replies.
        """
        up = next((how["up"] for how in self._sent.how.values()), "")
        if ask.step in MEASURING or not up:
            return {}
        if up == "values":
            return {**self.spec.compression, "origin": ""}
        params, path = ask.shared[PARAMS], spool / f"origin_{ask.step}.safetensors"
        if isinstance(params, FileParams):
            path.unlink(missing_ok=True)
            link_or_copy(params.path, path)
        else:
            _saved(params, path)
        return {**self.spec.compression, "origin": ref_of(path).sha256}


def compression_for(spec: JobSpec, folder: JobFolder, publish: Callable[[Path], Ref]) -> Compression | None:
    """Return the compressed way of a job; None where everything travels as it is."""
    if spec.compress is None:
        return None
    return Compression(
        spec=spec,
        publish=publish,
        compressor=COMPRESSORS.build(spec.compress.name, spec.compress.config),
        exact=frozenset(kinds_of(FileParams(folder.initial_params)).buffers),
    )


def opened_again(about: Mapping[str, Any], path: Path, origin: Path) -> Opened:
    """Return the tensors of a kept answer, as they were aggregated.

    Args:
        about: of the ledger, see `Compression.record`.
        origin: the file of the parameters that changes count from.

    Raises:
        DecodeError: it does not hold what it did then.
    """
    start: Mapping[str, Any] = {}
    if about["origin"]:
        if not origin.exists() or ref_of(origin).sha256 != about["origin"]:
            raise DecodeError(
                "the file of the parameters that its answers count from is not the recorded one"
            )
        start = FileParams(origin)
    return Opened(FileParams(path), COMPRESSORS.build(about["name"], about["config"]), start)


def _without_origin(params: Mapping[str, Any], before: Mapping[str, Any]) -> set[str]:
    """Return the tensors that are no changes of what was sent last, such as adapters that have grown since."""
    known = schema_of(before)
    return {name for name, form in schema_of(params).items() if known.get(name) != form}


def _saved(tensors: Mapping[str, Any], path: Path) -> Path:
    """Write tensors to a file, in place of one of an earlier try, and return its path."""
    path.unlink(missing_ok=True)
    save_params(tensors, path, durable=False)
    return path
