"""The federation of a local job: the same plan and protocol, on sites in this process, without a hub.

For a debugger, and to compare with: a local job with one node ends in the same
bytes as a federated one with that node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import unpack
from fedjob.common.errors import (
    JobFailed,
    NodeFailure,
    NotPrivate,
    PreparationError,
    SpecError,
    UnreadableData,
)
from fedjob.common.files import link_or_copy, make_folder, remove_folder
from fedjob.common.lifecycle import State
from fedjob.common.quorum import Quorum, Verdict, too_few
from fedjob.common.types import Ref
from fedjob.data.shares import num_rows_of
from fedjob.execution.orders import KEPT_NAME, Emit, WorkOrder, WorkResult, result_of, work_order_of
from fedjob.execution.private_work import PrivateWork, private_work
from fedjob.execution.tree_stretches import RECORD_NAME, LocalTrees, tree_of
from fedjob.execution.workbench import Workbench
from fedjob.messaging.messages import Task, work_key
from fedjob.parameters.files import FileParams
from fedjob.parameters.model_files import ModelFile
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.protect import dp_of
from fedjob.protocols.base import Buffered
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.base import Accept, AskContext, Collected, Federation, Gates, completion
from fedjob.researcher.federation.local_sums import LocalSums
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.replies import Arrival
from fedjob.training_plans.randomness import undisturbed

SCRATCH = ".fedjob_scratch"
"""Name of the folder that plans may write into, gone with the job's end."""

_STATE = "node_state_"
_OPENED_BY = (
    "name",
    "path",
    "reader",
    "tags",
    "options",
    "loading",
    "preprocess",
    "num_rows",
    "assets",
    "share",
)


class LocalFederation(Federation):
    """Sites in this process, whose tasks run one after another.

    Args:
        datasets: node -> `{name, path, reader, tags, options, num_rows}`.
        home: folder for the node states, which remote nodes would keep.
        brought: files that a breakpoint brought along; node states are among them.
        federation: name of the federation that a job's spec has, empty for none.
        models: name -> file of parameters that all sites have.
    """

    def __init__(
        self,
        datasets: Mapping[str, dict[str, Any]],
        home: Path,
        events: EventLog,
        brought: Mapping[str, Path],
        federation: str = "",
        models: Mapping[str, ModelFile] | None = None,
    ) -> None:
        self.num_rows = num_rows_of(datasets)
        self._datasets = datasets
        self._home = home
        self._events = events
        self._published: dict[Ref, Path | bytes] = {}
        self._benches: dict[str, Workbench] = {}
        self._states = home / "states"
        self._brought = brought
        self._sums = LocalSums(federation)
        self._models = dict(models or {})

    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None:
        if gates.record.state != State.QUEUED:
            gates.enter(State.QUEUED)
        gates.await_slot()
        make_folder(self._states)
        self.restore_states(self._brought)

    def restore_states(self, files: Mapping[str, Path]) -> None:
        for name, source in files.items():
            target = self._states / name.removeprefix(_STATE)
            if name.startswith(_STATE) and not target.exists():
                link_or_copy(source, target)

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        ref = ref_of(source)
        self._published[ref] = source
        return ref

    def moved(self, ref: Ref, path: Path) -> None:
        self._published[ref] = path

    def forget(self, refs: Iterable[Ref]) -> None:
        for ref in refs:
            self._published.pop(ref, None)

    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        arrivals: dict[str, Arrival] = {}
        left_out: dict[str, str] = {}
        busy: list[str] = []
        for node in sorted(
            tasks, key=lambda node: (place.round_of(node), node)
        ):  # tasks of earlier rounds first
            if until is not None and len(arrivals) >= until.k:
                if place.keep:
                    busy.append(node)
                else:
                    left_out[node] = "late"
                continue
            tell = self._teller(node, tasks[node], place) if not tasks[node].sum else lambda body: None
            tell({"state": str(State.RUNNING), "worker": 0, "reason": ""})
            try:
                arrival = self._work(node, tasks[node], place)
                problem = accept(arrival)
            except NodeFailure as failure:
                problem, arrival = f"{failure.reason}: {failure.detail}", None
            except Exception:
                tell({"state": str(State.FAILED), "worker": 0, "reason": "exception"})
                raise
            if problem or arrival is None:
                left_out[node] = problem
                tell({"state": str(State.FAILED), "worker": 0, "reason": problem.partition(":")[0]})
            else:
                arrivals[node] = arrival
                tell(completion(arrival.result))
        if quorum.decide(list(tasks), list(arrivals), [*left_out, *busy]) is not Verdict.MET:
            raise too_few(quorum, place.round, arrivals, left_out)
        return Collected(arrivals=arrivals, left_out=left_out, order=tuple(arrivals), busy=tuple(busy))

    def keep_states(self, named: Mapping[str, Collection[str]]) -> None:
        kept = {state for states in named.values() for state in states}
        for path in self._states.iterdir():
            if path.name not in kept:
                path.unlink()

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        self._benches.clear()
        if self._states.exists():
            self.keep_states(keep_states)
        remove_folder(self._home / SCRATCH)

    def state_files(self, node_states: Mapping[str, str]) -> dict[str, Path]:
        return {
            f"{_STATE}{state}": Path(self._state_path(node, state)) for node, state in node_states.items()
        }

    def _key(self, node: str, task: Task, place: AskContext) -> str:
        """Return the name of a node's work."""
        return work_key(job=place.job, round_=place.round_of(node), step=place.step, node=node, task=task)

    def _teller(self, node: str, task: Task, place: AskContext) -> Callable[[Mapping[str, Any]], object]:
        """Return the function that records the states of a node's task."""
        round_, key = place.round_of(node), self._key(node, task, place)
        return lambda body: self._events.record("state", body, round_=round_, node=node, task=key)

    def _work(self, node: str, task: Task, place: AskContext) -> Arrival:
        if task.sum:
            return self._step_of_sum(node, task, place)
        order = self._order(node, task, place)
        bench = self._benches.setdefault(node, Workbench())
        try:
            with undisturbed():
                done = bench.compute(order, self._emitter(node, order.round))
        except NodeFailure:
            raise
        except (UnreadableData, PreparationError, NotPrivate) as error:
            # of the site's data, or found on them: as at a node
            raise NodeFailure(node, error.reason, str(error)) from error
        except (Exception, SystemExit) as error:
            raise JobFailed(f"the training plan raised {type(error).__name__}: {error}") from error
        return self._arrival(node, task, place, done)

    def _step_of_sum(self, node: str, task: Task, place: AskContext) -> Arrival:
        """Answer a step of a secure sum, in which no plan takes part."""
        key = self._key(node, task, place)
        files = {name: self._published[ref] for name, ref in task.params.items()}
        return self._sums.answer(node, key, task, place, files)

    def _order(self, node: str, task: Task, place: AskContext) -> WorkOrder:
        """Return the order for a task, with an empty folder for what comes out.

        Raises:
            NodeFailure: the node state that it needs is gone, or it can't be had with differential privacy.
        """
        round_, key = place.round_of(node), self._key(node, task, place)
        output = place.spool / f"local_{node}_{key[:16]}"
        remove_folder(output)
        output.mkdir(mode=0o700)
        scratch = self._home / SCRATCH
        make_folder(scratch)
        order = work_order_of(
            task,
            key=key,
            job=place.job,
            round_=round_,
            step=place.step,
            node=node,
            plan_text="" if task.plan is None else self._bytes(task.plan).decode(),
            dataset=self._opened_by(node),
            path_of=self._published.__getitem__,
            value_of=lambda name, ref: unpack(self._bytes(ref)),
            state_path=self._state_path(node, task.state),
            output_path=str(output),
        )
        work = self._private_work(node, task, place.step)
        noise = {} if work is None else self._noise(node, key, task, place.job, work)
        return replace(
            order, scratch_path=str(scratch), limits={"own": True}, noise=noise, models=self._models
        )

    def _arrival(
        self, node: str, task: Task, place: AskContext, done: WorkResult, ref: Ref | None = None
    ) -> Arrival:
        """Return what a node answers of work that is done, and keep the state that it leaves.

        Args:
            ref: of its file of tensors, where that was hashed already.
        """
        key, state = done.key, task.state
        if done.state_path:
            state = key[:32]
            os.replace(done.state_path, self._states / state)
        output = place.spool / f"local_{node}_{key[:16]}"
        if (output / KEPT_NAME).exists():
            self._keep_files(output / KEPT_NAME, node, place.round_of(node))
        path = Path(done.params_path) if done.params_path else None
        spent = _spent(task, self._private_work(node, task, place.step))
        if "secagg" in task.protect:
            held = self._sums.hold(node, key, task, place, result_of(done, params=None, state=state), path)
            return Arrival(node=node, result=replace(held, of=key[:32], privacy=spent))
        params = ref or (None if path is None else ref_of(path))
        result = result_of(done, params=params, state=state)
        return Arrival(
            node=node,
            result=replace(result, of=key[:32], privacy=spent),
            params=None if path is None else FileParams(path),
        )

    def _private_work(self, node: str, task: Task, step: str) -> PrivateWork | None:
        """Return the noise and the cost of a task, as a node finds them; None without differential privacy."""
        dp = dp_of(task.protect)
        if dp is None:
            return None
        try:
            assets = [str(asset["name"]) for asset in self._datasets[node].get("assets") or ()]
            return private_work(task, dp, num_rows=int(self.num_rows[node] or 0), step=step, assets=assets)
        except SpecError as error:
            raise NodeFailure(node, "privacy", str(error)) from error

    def _noise(self, node: str, key: str, task: Task, job: str, work: PrivateWork) -> dict[str, Any]:
        """Return what a task is computed by: its terms, with the steps of the site's trees where it has such noise."""
        if work.tree is None:
            return dict(work.noise)
        trees = LocalTrees(self._home / f"{RECORD_NAME}_{node}")
        version = str(self._datasets[node].get("version") or "")
        tree = tree_of(task, work.tree, researcher="", job=job, version=version)
        return trees.stretch(work.tree, tree, key).to_plain()

    def _keep_files(self, source: Path, node: str, round_: int) -> None:
        """Move the files that a node keeps for its owner into this job's folder of outputs."""
        target = self._home / "outputs" / node / f"round_{round_:04d}"
        remove_folder(target)
        make_folder(target.parent)
        os.rename(source, target)

    def _bytes(self, ref: Ref) -> bytes:
        source = self._published[ref]
        return source if isinstance(source, bytes) else source.read_bytes()

    def _opened_by(self, node: str) -> dict[str, Any]:
        info = self._datasets[node]
        return {key: info[key] for key in _OPENED_BY if key in info} if info.get("path") else {}

    def _emitter(self, node: str, round_: int) -> Emit:
        def emit(type_: str, data: dict[str, Any]) -> None:
            self._events.add(type_, round_=round_, node=node, **data)

        return emit

    def _state_path(self, node: str, state: str | None) -> str:
        if state is None:
            return ""
        path = self._states / state
        if not path.exists():
            raise NodeFailure(node, "state_missing", f"node state {state} is not in {self._states}")
        return str(path)


def _spent(task: Task, work: PrivateWork | None) -> dict[str, float]:
    """Return what a local job costs, all rounds of it: nobody keeps a ledger of the sites."""
    dp = dp_of(task.protect)
    if dp is None or work is None:
        return {}
    return {"epsilon": round(cost_of(work.whole, dp.delta), 6), "delta": dp.delta}
