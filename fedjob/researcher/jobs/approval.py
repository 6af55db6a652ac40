"""The permissions of a job's nodes: to ask for them, to ask again, and to fetch what owners have released."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import JobError, RepositoryError, SpecError, TransportError
from fedjob.common.lifecycle import HISTORY, State
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.connection.catalogue import DatasetHandle, list_datasets
from fedjob.researcher.definition.data import HANDLE, SCHEMA, resolve, resolve_local
from fedjob.researcher.definition.operation import check_plan_args
from fedjob.researcher.federation.offers import (
    NO_REPLY,
    Checks,
    NodeAnswer,
    ask_nodes,
    check_schemas,
    grant_entry,
)
from fedjob.researcher.federation.released_logs import fetch_released
from fedjob.researcher.monitoring.logs import JobLogs, read_logs
from fedjob.researcher.runner import batch_trial
from fedjob.researcher.runner.batch_trial import PublishedColumns
from fedjob.researcher.runner.plan_trial import (
    FAILS,
    PlanCheck,
    PlanChecks,
    TriedDataset,
    time_one_batch,
    try_one_batch,
)
from fedjob.researcher.runner.traffic_estimate import write_cost
from fedjob.researcher.simulation.datasets import GivenData
from fedjob.researcher.storage.deployment import plan_at, text_of
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record
from fedjob.training_plans.source.plan_source import PlanSource
from fedjob.training_plans.training_args import merged_args

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.jobs.view import JobView
    from fedjob.researcher.storage.record import JobRecord
    from fedjob.researcher.storage.spec import JobSpec

REFRESH_TIMEOUT_S = 3.0
LOGS_EVERY_S = 1.0
"""Nodes are asked for released logs at most so often."""

Reach = Callable[[], "Connection | None"]
"""Finds a job's datasets; returns the session, None for a local job."""


@dataclass(slots=True, kw_only=True)
class LastRequests:
    """The time at which a job's nodes were last asked, so that a loop of a researcher does not ask them too often.

    Args:
        refresh: seconds of the monotonic clock; None for never.
        logs: the same, of the last request for released logs.
        undecided: the nodes whose owners had not decided after the last refresh; None before the first.
    """

    refresh: float | None = None
    logs: float | None = None
    undecided: tuple[str, ...] | None = None


def check_nodes(
    session: Connection | None,
    spec: JobSpec,
    folder: JobFolder,
    *,
    epoch: int,
    timeout_s: float,
    schema: Mapping[str, str] | None,
) -> Checks:
    """Ask every node whether a job may run there, and leave nothing there; see `Job.check`."""
    if session is None:
        return Checks(
            [
                NodeAnswer(node=node, dataset=str(info["name"]), grant="not-needed", limits={})
                for node, info in sorted(spec.datasets.items())
            ]
        )
    checks = ask_nodes(session, spec, folder, dry=True, timeout_s=timeout_s, epoch=epoch)
    if schema is None:
        return checks
    columns = {
        handle.node: handle.schema
        for handle in list_datasets(session, timeout_s=timeout_s)
        if spec.datasets.get(handle.node, {}).get("name") == handle.name
    }
    return check_schemas(checks, schema, columns)


def check_plans(spec: JobSpec, source: PlanSource, folder: JobFolder) -> None:
    """Check that a job's training plans find the arguments and the test data that they need, before anybody is asked.

    Raises:
        SpecError: one does not; the argument is named.
    """
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    if not isinstance(inner_of(protocol), TrainingProtocol):
        return
    texts = {plan["hash"]: plan["entry"] for plan in spec.plans.values()}
    sources = [
        source,
        *(PlanSource(text_of(spec, folder, hash_), entry, hash_) for hash_, entry in texts.items()),
    ]
    for plan in sources:
        check_plan_args(plan, spec.training_args, spec.each, at_end=spec.validate_at_end)


def try_plan(spec: JobSpec, source: PlanSource, handles: Mapping[str, DatasetHandle], home: Path) -> None:
    """Try a job's training plan on made-up rows with the columns that its nodes publish; see `batch_trial`.

    Raises:
        SpecError: it can't run there.
    """
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    if isinstance(inner_of(protocol), TrainingProtocol):
        published = {
            node: PublishedColumns(
                schema=handle.schema,
                reader=handle.reader,
                has_assets=len(handle.assets) > 1,
                asks=handle.approval == "on",
            )
            for node, handle in handles.items()
        }
        batch_trial.try_plan(spec, source, published, home)


def check_plan_only(
    spec: JobSpec,
    source: PlanSource,
    folder: JobFolder,
    data: Any,
    nodes: Any,
    as_node: str,
    session: Connection | None,
) -> PlanChecks:
    """Try one batch of a job's training plans on made-up rows of its datasets; see `Job.check`.

    Args:
        data, nodes, as_node: as the job was given them.

    Raises:
        NoDatasets: nothing matches `data`.
    """
    found = _found(spec, folder, data, nodes, as_node, session)
    try:
        check_plans(spec, source, folder)
    except SpecError as error:
        return PlanChecks(
            [
                PlanCheck(node=node, dataset=str(info["name"]), plan=FAILS, why=str(error))
                for node, info in sorted(found.items())
            ]
        )
    tried = {node: _tried(spec, source, folder, node, info) for node, info in found.items()}
    return try_one_batch(tried, spec.model_args)


def time_plan_here(
    spec: JobSpec, source: PlanSource, folder: JobFolder, data: Any, nodes: Any, session: Connection
) -> dict[str, tuple[float, str]]:
    """Time one batch of a job's training plans on made-up rows of its datasets, those that are equal once.

    Returns:
        node -> examples a second, and why where it is 0.
    """
    known: dict[str, tuple[float, str]] = {}
    found = {}
    for node, info in _found(spec, folder, data, nodes, "", session).items():
        tried = _tried(spec, source, folder, node, info)
        same = repr(replace(tried, name=""))
        if same not in known:
            known[same] = time_one_batch(tried, spec.model_args)
        found[node] = known[same]
    return found


def _found(
    spec: JobSpec, folder: JobFolder, data: Any, nodes: Any, as_node: str, session: Connection | None
) -> Mapping[str, Mapping[str, Any]]:
    """Return node -> what is known of its dataset.

    Raises:
        NoDatasets: nothing matches `data`.
        SpecError: the data are objects of this process, and can be trained on at once.
    """
    if isinstance(data, GivenData):
        raise SpecError(
            "check(plan_only=True) makes up rows like those that a node or a file has; this job's data are objects of "
            "this process: try the plan on them, job.clone(rounds=1).run()"
        )
    if session is None:
        return resolve_local(data, as_node, folder, use=spec.use)
    asked = None if nodes is None else list(nodes)
    return resolve(data, asked, session, use=spec.use, project=spec.project).datasets


def _tried(
    spec: JobSpec, source: PlanSource, folder: JobFolder, node: str, info: Mapping[str, Any]
) -> TriedDataset:
    """Return what is tried for one node."""
    handle: DatasetHandle | None = info.get(HANDLE)
    about = PublishedColumns(
        schema=dict(info.get(SCHEMA) or {}),
        reader=str(info.get("reader") or "") if handle is None else handle.reader,
        has_assets=len(info.get("assets") or () if handle is None else handle.assets) > 1,
    )
    plan = plan_at(spec, node)
    if plan.get("hash") not in ("", None, spec.plan_hash):
        source = PlanSource(text_of(spec, folder, plan["hash"]), plan["entry"], plan["hash"])
    protocol = inner_of(PROTOCOLS.build(spec.protocol.name, spec.protocol.config))
    reason = ""
    if not isinstance(protocol, TrainingProtocol) or not source.text:
        reason = "the job has no training plan"
    elif spec.preprocess or info.get("preprocess"):
        reason = "preprocess changes the rows before the plan sees them"
    elif not info.get("name"):
        reason = "it has no dataset whose columns are known"
    return TriedDataset(
        name=str(info.get("name") or info.get("brought") or ""),
        about=about,
        source=source,
        training_args=merged_args(spec.training_args, spec.each.get(node, {})),
        reason=reason,
    )


def check_is_draft(folder: JobFolder) -> None:
    """Refuse to ask for the grants of a job that has asked for them already."""
    if load_record(folder.record).state != State.DRAFT:
        raise JobError("a job that was submitted has asked its nodes' owners already: see job.waiting_on")


def request_grants(
    session: Connection | None, spec: JobSpec, folder: JobFolder, timeout_s: float
) -> dict[str, str]:
    """Ask the owners of the nodes to allow a draft; return node -> id of its grant."""
    if session is None:
        return {}
    write_cost(spec, folder)
    checks = ask_nodes(session, spec, folder, dry=False, timeout_s=timeout_s)
    _write_down(folder, checks)
    return {answer.node: answer.id for answer in checks if answer.id}


def refresh_grants(job: JobView, reach: Reach, last: LastRequests, throttle_s: float) -> bool:
    """Ask the nodes whose owners have not decided again, at most once per `throttle_s`.

    Returns:
        Whether anything has changed.
    """
    now = time.monotonic()
    if last.refresh is not None and now - last.refresh < throttle_s:
        return False
    last.refresh = now
    waiting = _undecided_now(JobFolder(job.folder))
    before = last.undecided if last.undecided is not None else waiting
    if waiting and waiting == before:
        _ask_again(job, reach, waiting)
    last.undecided = _undecided_now(JobFolder(job.folder))
    return last.undecided != before


def read_job_logs(
    job: JobView, reach: Reach, last: LastRequests, *, node: str | None, stdout: bool, stderr: bool
) -> JobLogs:
    """Return what a job's tasks wrote; of a job that has ended, ask nodes that withheld it once more."""

    def read() -> JobLogs:
        events = read_events(JobFolder(job.folder).events)
        return JobLogs(read_logs(events, node=node, stdout=stdout, stderr=stderr))

    found = read()
    withheld = {line.node for line in found if line.withheld}
    ended = load_record(JobFolder(job.folder).record).state in HISTORY
    return read() if withheld and ended and _fetch_released(job, reach, last, withheld) else found


def missing_permissions(spec: JobSpec, record: JobRecord) -> list[dict[str, Any]]:
    """Return whose permission a job waits for; see `Job.waiting_on`."""
    if record.state != State.WAITING:
        return []
    return [
        {
            "node": node,
            "needs": record.grants[node]["needs"],
            "plan": plan_at(spec, node).get("hash", ""),
            "dataset": str(spec.datasets.get(node, {}).get("name", "")),
            "since": record.grants[node]["since"],
            "contact": record.grants[node]["contact"],
        }
        for node in _undecided(record.grants)
    ]


def _fetch_released(job: JobView, reach: Reach, last: LastRequests, nodes: set[str]) -> int:
    now = time.monotonic()
    if last.logs is not None and now - last.logs < LOGS_EVERY_S:
        return 0
    last.logs = now
    try:
        session = reach()
        return 0 if session is None else fetch_released(session, JobFolder(job.folder), job.id, nodes)
    except (TransportError, RepositoryError, JobError):
        return 0  # what is known is shown; who asks again may be luckier


def _ask_again(job: JobView, reach: Reach, nodes: tuple[str, ...]) -> None:
    session = reach()
    if session is None or not session.lock.acquire(blocking=False):
        return  # a runner in this process receives what the nodes report
    spec, folder = job.spec, JobFolder(job.folder)  # as they are once the datasets were found
    try:
        some = replace(spec, datasets={node: spec.datasets[node] for node in nodes})
        checks = ask_nodes(session, some, folder, dry=True, timeout_s=REFRESH_TIMEOUT_S)
    finally:
        session.lock.release()
    if all(answer.grant in ("pending", NO_REPLY) for answer in checks):
        return
    _write_down(folder, checks)


def _write_down(folder: JobFolder, checks: Checks) -> None:
    """Put answers into the record of a job that nobody runs; a runner got the same from the nodes."""
    try:
        with folder.locked():
            record = load_record(folder.record)
            grants = dict(record.grants)
            now = time.time()
            for answer in checks:
                if answer.grant != NO_REPLY:
                    grants[answer.node] = grant_entry(answer, grants.get(answer.node, {}), now)
            replace(record, grants=grants).save(folder.record)
    except JobError:
        decided = {answer.node for answer in checks if answer.grant not in ("pending", NO_REPLY)}
        _await_runner(folder, decided)


def _await_runner(folder: JobFolder, decided: set[str]) -> None:
    """Wait a moment until the runner has written down what the nodes reported to it."""
    deadline = time.monotonic() + REFRESH_TIMEOUT_S
    while time.monotonic() < deadline:
        if not decided & set(_undecided_now(folder)):
            return
        time.sleep(0.05)


def _undecided_now(folder: JobFolder) -> tuple[str, ...]:
    return _undecided(load_record(folder.record).grants)


def _undecided(grants: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted(node for node, grant in grants.items() if grant.get("state") == "pending"))
