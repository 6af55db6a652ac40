"""The storage of an attempt: breakpoints, the result, node states to keep, and objects to delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from fedjob.common.files import by_users_umask, copy_file
from fedjob.common.types import Ref
from fedjob.parameters.files import FileParams
from fedjob.researcher.federation.base import Federation
from fedjob.researcher.monitoring.participation import participation_of
from fedjob.researcher.results.result_folder import primary_of, save_result
from fedjob.researcher.rounds.unfinished_tasks import held_files, refs_of
from fedjob.researcher.runner.attempt import AttemptRecord
from fedjob.researcher.storage.breakpoints import (
    PackedHistory,
    drop_breakpoints,
    drop_later,
    hash_file,
    list_breakpoints,
    note_elsewhere,
    save_breakpoint,
    saved_elsewhere,
    states_of,
)
from fedjob.researcher.storage.deployment import plan_files
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Arrival, read_journal

FORGET_BYTES = 64 << 20
"""Bytes of stale objects that a running job leaves at the hub before it deletes them; its end deletes all."""


class Persistence:
    """The writer of an attempt's files, which also deletes them, and objects at the hub, once nobody needs them.

    Args:
        plan_text: text of the researcher's plan; empty for a job without one.
        files_folder: the folder into which plan, parameters and replies are linked; None for none.
    """

    def __init__(
        self, attempt: AttemptRecord, federation: Federation, plan_text: str, files_folder: Path | None
    ) -> None:
        self._attempt = attempt
        self._spec = attempt.spec
        self._folder = attempt.folder
        self._federation = federation
        self._plan_text = plan_text
        self._files_folder = files_folder
        self._states_of: dict[Path, dict[str, str]] = {}
        self._history = PackedHistory()
        self._stale: list[Ref] = []
        self._forgotten: list[Ref] = []

    def save_breakpoint(
        self, position: Position, inside: Path | None = None, extras: Mapping[str, Path] | None = None
    ) -> Path:
        """Write a breakpoint of `position`; `tidy` removes the oldest beyond `keep_breakpoints`.

        Args:
            inside, extras: see `fedjob.researcher.storage.breakpoints.save_breakpoint`.
        """
        files = self._federation.state_files(position.node_states) | plan_files(self._spec, self._folder)
        files |= held_files(self._folder, position.under_way.values())
        for hook in self._attempt.hooks:
            files |= hook.files()
        with by_users_umask():  # for those outside of the home
            saved = save_breakpoint(self._folder, position, inside, files | dict(extras or {}), self._history)
        self._states_of[saved] = dict(position.node_states)
        if inside is not None:
            note_elsewhere(self._folder, saved)
        else:
            drop_later(self._folder, position.round)
            if self._attempt.record.begin:
                self._attempt.update(begin="")  # the newest one is where this job is, from now on
        self._attempt.events.add("breakpoint", round_=position.round, path=str(saved))
        return saved

    def save_result(self, value: Any) -> None:
        """Write the result into the job's result folder."""
        position = self._attempt.position
        files = save_result(
            self._folder,
            value,
            rounds=position.round,
            rows=position.rows,
            num_nodes=len(self._spec.datasets),
            learned=position.learned,
            primary=primary_of(self._spec, self._plan_text),
            participation=participation_of(self._spec, self._attempt.record, position),
            remarks=tuple(self._attempt.remarks),
        )
        self._attempt.events.add("result", files=sorted(files), path=str(self._folder.result))

    def tidy(self, position: Position, published: Sequence[Ref]) -> None:
        """Delete what only earlier rounds needed, here and at the hub.

        Args:
            published: the objects of the round that was just committed.
        """
        drop_breakpoints(self._folder, self._spec.keep_breakpoints)
        current = {value.ref for value in position.state.values() if isinstance(value, FileParams)}
        current |= refs_of(position.under_way.values())
        self._federation.keep_states(self.named_states())
        if not self._spec.keep:
            self.forget([ref for ref in self._stale if ref not in current])
            self._folder.drop_spool(before_round=position.round)
        self._stale = [*(ref for ref in self._stale if ref in current), *published]

    def forget(self, refs: Sequence[Ref]) -> None:
        """Delete published objects once there are enough of them to be worth the requests."""
        self._forgotten += refs
        if sum(ref.size_bytes for ref in self._forgotten) >= FORGET_BYTES:
            self._federation.forget(self._forgotten)
            self._forgotten = []

    def named_states(self) -> dict[str, set[str]]:
        """Return node -> ids of the node states that kept breakpoints, or the next task, name."""
        paths = list_breakpoints(self._folder.breakpoints)[
            -self._spec.keep_breakpoints :
        ]  # others are about to go
        paths += saved_elsewhere(self._folder)
        for path in paths:
            if path not in self._states_of:  # of a run before this one
                self._states_of[path] = states_of(path)
        self._states_of = {path: self._states_of[path] for path in paths}
        node_states = self._attempt.position.node_states
        named: dict[str, set[str]] = {node: {state} for node, state in node_states.items()}
        for states in self._states_of.values():
            for node, state in states.items():
                named.setdefault(node, set()).add(state)
        return named

    def states_to_keep(self) -> dict[str, set[str]]:
        """Return the named states, and those that journaled replies of an uncommitted round propose.

        A resumed run takes these replies up without asking again.
        """
        named = self.named_states()
        for record in read_journal(self._folder.spool(self._attempt.position.round + 1) / "journal"):
            if state := record["result"].get("state"):
                named.setdefault(record["node"], set()).add(state)
        return named

    def release(self, outcome: str) -> None:
        """End the job at its nodes; they keep the states from which somebody may go on."""
        self._federation.end(outcome, self.states_to_keep())

    @by_users_umask()
    def keep_files(self, position: Position, arrivals: Mapping[str, Arrival]) -> None:
        """Copy plan, parameters and replies into the folder that the researcher asked for, if any."""
        if self._files_folder is None:
            return
        self._files_folder.mkdir(parents=True, exist_ok=True)
        prefix = f"round_{position.round:04d}"
        if self._plan_text:
            _copy(self._folder.plan, self._files_folder / "plan.py")
        params = position.state.get("params")
        if isinstance(params, FileParams):
            _copy(params.path, self._files_folder / f"{prefix}_params.safetensors")
        for node, arrival in arrivals.items():
            if arrival.params is not None:
                _copy(arrival.params.path, self._files_folder / f"{prefix}_{node}.safetensors")


def _copy(source: Path, target: Path) -> None:
    """Copy a file; a name that another file has already gets a number, and that file stays."""
    digest, place = hash_file(source), target
    for number in count(2):
        if not place.exists() and not place.is_symlink():
            copy_file(source, place, mode=0o666)
            return
        if place.is_file() and hash_file(place) == digest:
            return
        place = target.with_name(f"{target.stem}_{number}{target.suffix}")
