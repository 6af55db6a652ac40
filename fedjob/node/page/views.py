"""The views of the owner's page: what waits, what may run, what lies here, what ran, what left, what holds."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import ConfigError
from fedjob.common.lifecycle import GROUPS, HISTORY
from fedjob.common.terminal.times import when
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.deciders import decider
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import STATES
from fedjob.node.grants.limits import describe_limits
from fedjob.node.owner.approvals import what_is_allowed
from fedjob.node.owner.audit_words import summary_of
from fedjob.node.owner.budgets import state_of
from fedjob.node.owner.departures import departures, totals_of
from fedjob.node.owner.node_state import SANDBOXES, node_facts
from fedjob.node.owner.review import review_of
from fedjob.node.owner.settings import settings_in_force, shown_setting
from fedjob.node.page.code_view import code_view, shown_changes
from fedjob.node.page.desk import OwnerDesk
from fedjob.node.page.setting_words import AT_TERMINAL, meanings, without_login
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.home_database import open_database
from fedjob.node.storage.logs import STREAMS, read_log

MAX_LISTED = 200
AUDIT_PAGE = 100
DAY_S = 86400.0


class OwnerViews:
    """What the page shows; nothing of it changes anything."""

    def __init__(self, desk: OwnerDesk) -> None:
        self._desk = desk
        self._render = desk.templates.render

    def routes(self) -> list[BaseRoute]:
        """Return the addresses that are read."""
        found = {
            "/": self._overview,
            "/requests": self._requests,
            "/requests/{id}": self._request,
            "/agreements": self._agreements,
            "/datasets": self._datasets,
            "/datasets/{name}": self._dataset,
            "/tasks": self._tasks,
            "/tasks/{key}": self._task,
            "/departures": self._departures,
            "/audit": self._audit,
            "/settings": self._settings,
            "/security": self._security,
        }
        return [Route(path, handler, methods=["GET"]) for path, handler in found.items()]

    # --- what waits, what may run ---------------------------------------------------------------

    def _overview(self, request: Request) -> Response:
        home = self._desk.home
        facts = node_facts(home, settings_in_force(home))
        with open_database(home) as database:
            waiting = Grants(database).all("pending")
            reviews = [review_of(database, grant.id) for grant in waiting[:10]]
            tasks = TaskStore(database).list_tasks()[:5]
            left = departures(database, since=time.time() - DAY_S)
            num_records = Audit(database).head()[0]
        return self._render(
            request,
            "overview.html",
            title="Overview",
            facts=facts,
            reviews=reviews,
            num_waiting=len(waiting),
            tasks=tasks,
            left=totals_of(left),
            num_records=num_records,
            sandbox_words=SANDBOXES.get(facts["sandbox"], facts["sandbox"]),
        )

    def _requests(self, request: Request) -> Response:
        state = request.query_params.get("state", "")
        state = state if state in STATES else ""
        with open_database(self._desk.home) as database:
            found = [grant for grant in Grants(database).all(state or None) if grant.origin == "request"]
        found.sort(key=lambda grant: grant.status != "pending")
        return self._render(
            request,
            "requests.html",
            title="Requests",
            grants=found[:MAX_LISTED],
            num_found=len(found),
            state=state,
            states=STATES,
        )

    def _request(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        with open_database(self._desk.home) as database:
            if not any(grant.id == id_ for grant in Grants(database).all()):
                return self._desk.templates.missing(request)
            review = review_of(database, id_)
            names = [dataset.name for dataset in Datasets(database).all()]
        grant = review.grant
        return self._render(
            request,
            "request.html",
            title=f"{grant.subject.researcher}: {grant.subject.entry or grant.protocol}",
            review=review,
            facts=dict(review.lines),
            grant=grant,
            code=code_view(review.text) if review.text else None,
            changes=shown_changes(review.changes),
            decided_when=when(grant.decided),
            alike_when="" if review.alike is None else when(review.alike.decided),
            by=decider(None),
            config=settings_in_force(self._desk.home).config,
            allowed=what_is_allowed(grant) if grant.status == "granted" else "",
            dataset_names=names,
        )

    def _agreements(self, request: Request) -> Response:
        with open_database(self._desk.home) as database:
            store = Grants(database)
            found = [grant for grant in store.all() if grant.origin == "rule"]
            plans = {grant.subject.plan: grant.subject.entry for grant in store.approved_plans()}
            names = [dataset.name for dataset in Datasets(database).all()]
            known = sorted({str(row["researcher"]) for row in store.known.all()})
        return self._render(
            request,
            "agreements.html",
            title="Agreements",
            agreements=[(grant, what_is_allowed(grant)) for grant in found[:MAX_LISTED]],
            plans=plans,
            names=names,
            known=known,
            given={name: request.query_params.get(name, "") for name in ("who", "plan", "data")},
            by=decider(None),
        )

    # --- what lies here -------------------------------------------------------------------------

    def _datasets(self, request: Request) -> Response:
        with open_database(self._desk.home) as database:
            accounts = PrivacyAccounts(database)
            found = [
                (dataset, [state_of(accounts, one) for one in accounts.budgets(dataset.name)])
                for dataset in Datasets(database).all()
            ]
        return self._render(request, "datasets.html", title="Datasets", datasets=found)

    def _dataset(self, request: Request) -> Response:
        name = request.path_params["name"]
        with open_database(self._desk.home) as database:
            dataset = Datasets(database).find(name)
            if dataset is None:
                return self._desk.templates.missing(request)
            accounts = PrivacyAccounts(database)
            budgets = [state_of(accounts, one) for one in accounts.budgets(name)]
            charges = [
                charge.to_plain() for _, charge in zip(range(50), accounts.charges(name), strict=False)
            ]
            grants = [g for g in Grants(database).all() if g.subject.dataset == name][:MAX_LISTED]
        return self._render(
            request,
            "dataset.html",
            title=dataset.name,
            dataset=dataset,
            budgets=budgets,
            charges=charges,
            grants=grants,
            by=decider(None),
        )

    # --- what ran, what left --------------------------------------------------------------------

    def _tasks(self, request: Request) -> Response:
        group = request.query_params.get("show", "")
        with open_database(self._desk.home) as database:
            found = TaskStore(database).list_tasks()
        if group in GROUPS:
            found = [task for task in found if task["state"] in GROUPS[group]]
        return self._render(
            request,
            "tasks.html",
            title="Tasks",
            tasks=found[:MAX_LISTED],
            num_found=len(found),
            group=group,
            groups=tuple(GROUPS),
        )

    def _task(self, request: Request) -> Response:
        key = request.path_params["key"]
        home = self._desk.home
        with open_database(home) as database:
            task = next((one for one in TaskStore(database).list_tasks() if one["key"] == key), None)
            if task is None:
                return self._desk.templates.missing(request)
            records = [
                (record, summary_of(json.loads(record.body))) for record in Audit(database).of_subject(key)
            ]
        return self._render(
            request,
            "task.html",
            title=f"Task {key[:12]}",
            task=task,
            has_ended=task["state"] in HISTORY,
            logs={stream: read_log(home, key, stream) for stream in STREAMS},
            records=records,
            by=decider(None),
        )

    def _departures(self, request: Request) -> Response:
        with open_database(self._desk.home) as database:
            found = departures(database)
        return self._render(
            request,
            "departures.html",
            title="What left",
            found=found[:MAX_LISTED],
            num_found=len(found),
            total=totals_of(found),
            by_job=by_job(found)[:50],
        )

    # --- what holds -----------------------------------------------------------------------------

    def _audit(self, request: Request) -> Response:
        before = request.query_params.get("before", "")
        with open_database(self._desk.home) as database:
            chain = Audit(database)
            newest, head = chain.head()
            last = min(newest, int(before) - 1) if before.isdecimal() and len(before) < 16 else newest
            since = max(0, last - AUDIT_PAGE)
            records = [record for record in chain.records(since) if record.seq <= last]
        return self._render(
            request,
            "audit.html",
            title="Audit log",
            records=[(record, summary_of(json.loads(record.body))) for record in reversed(records)],
            newest=newest,
            head=head,
            last=last,
            since=since,
        )

    def _settings(self, request: Request) -> Response:
        in_force = settings_in_force(self._desk.home)
        usual, words = asdict(NodeConfig()), meanings()
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "value": without_login(shown_setting(value)),
                "is_usual": value == usual[name],
                "usual": shown_setting(usual[name]),
                "meaning": words.get(name, ""),
                "choices": NodeConfig.__dataclass_fields__[name].metadata.get("choices", ()),
                "at_terminal": name in AT_TERMINAL,
            }
            for name, value in asdict(in_force.config).items()
        ]
        return self._render(
            request,
            "settings.html",
            title="Settings",
            rows=rows,
            faults=in_force.faults,
            by=decider(None),
        )

    def _security(self, request: Request) -> Response:
        home = self._desk.home
        settings = settings_in_force(home)
        try:
            facts = node_facts(home, settings)
        except OSError as error:
            raise ConfigError(f"the state of the node can't be read: {error}") from error
        return self._render(
            request,
            "security.html",
            title="Security",
            facts=facts,
            config=settings.config,
            sandbox_words=SANDBOXES.get(facts["sandbox"], facts["sandbox"]),
            by=decider(None),
            describe_limits=describe_limits,
        )


def by_job(found: list[Any]) -> list[tuple[Any, int, int, int]]:
    """Return newest departure, number, bytes and numbers of each job, the job with most bytes first."""
    jobs: dict[str, list[Any]] = {}
    for one in found:
        jobs.setdefault(one.job, []).append(one)
    summed = [
        (each[0], len(each), sum(one.num_bytes for one in each), sum(one.num_numbers for one in each))
        for each in jobs.values()
    ]
    return sorted(summed, key=lambda one: -one[2])
