"""The views of the researcher's page: the list of jobs, one job, its result, its log, its settings; nothing is changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import FedjobError, NotReady
from fedjob.common.lifecycle import ACTIVE, GROUPS, HISTORY, PENDING, State
from fedjob.common.notebooks.plain_tables import cell_text, is_numeric
from fedjob.common.notebooks.report import Report
from fedjob.common.types import rounds_text
from fedjob.researcher.monitoring.logs import read_logs
from fedjob.researcher.monitoring.participation import NOT_ASKED
from fedjob.researcher.monitoring.summary import mood_of
from fedjob.researcher.page.charts import part_grid, seconds_text, stage_bar
from fedjob.researcher.page.comparison import settings_of
from fedjob.researcher.page.desk import ResearcherDesk
from fedjob.researcher.page.job_facts import (
    GLANCE_BYTES,
    JobFacts,
    first_live,
    is_moving,
    look_at,
    progress_of,
    seconds_of,
)
from fedjob.researcher.page.metric_charts import colours_of, history_charts, live_charts, node_legend
from fedjob.researcher.page.round_times import STAGES, totals
from fedjob.researcher.results.pictures.of_result import has_picture
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.runner.revival import look
from fedjob.researcher.storage.breakpoints import list_breakpoints
from fedjob.researcher.storage.event import format_event
from fedjob.researcher.storage.event_log import read_last_events
from fedjob.researcher.storage.folder import job_folder
from fedjob.researcher.storage.index import JobEntry
from fedjob.researcher.storage.record import load_record, privacy_in_words, seconds_between
from fedjob.researcher.storage.search import find_entries

JOBS_PAGE = 50
MAX_NODES_SHOWN = 60
MAX_ROUNDS_SHOWN = 48
MAX_EVENTS_SHOWN = 100
MAX_LOG_LINES = 500

MOODS = {"good": "good", "bad": "bad", "busy": "busy", "wait": "warn", "idle": ""}
"""The moods of a job's state as the style sheet of pages names them."""


STREAMS = {"job": "live", "log": "log/live"}
"""Part of a job's page -> the address of what changes on it; the others show its state alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """One line of the list of jobs.

    Args:
        percent: of its progress; None where it does not run.
        words: of its progress, or why it ended.
    """

    entry: JobEntry
    submitted: float
    took_s: float | None
    percent: float | None
    words: str


class ResearcherViews:
    """What the page shows."""

    def __init__(self, desk: ResearcherDesk) -> None:
        self._desk = desk
        self._render = desk.templates.render
        desk.templates.environment.globals.update(
            mood=lambda state: MOODS[mood_of(state)], stage_bar=stage_bar
        )
        desk.templates.environment.filters.update(took=seconds_text, cell=cell_text)

    def routes(self) -> list[BaseRoute]:
        """Return the addresses that are read."""
        found = {
            "/": self._first,
            "/jobs": self._jobs,
            "/jobs/{id}": self._job,
            "/jobs/{id}/result": self._result,
            "/jobs/{id}/log": self._log,
            "/jobs/{id}/settings": self._settings,
        }
        return [Route(path, handler, methods=["GET"]) for path, handler in found.items()]

    def _first(self, request: Request) -> Response:
        return RedirectResponse("/jobs", status_code=303)

    # --- the list -------------------------------------------------------------------------------

    def _jobs(self, request: Request) -> Response:
        return self._render(request, "jobs.html", title="Jobs", **self.list_facts(request))

    def list_facts(self, request: Request) -> dict[str, Any]:
        """Return what the list shows: a page of the jobs that match, the newest first."""
        asked = request.query_params
        state = asked.get("state", "")
        state = state if state in GROUPS or state in set(State) else ""
        text, project = asked.get("q", "")[:200].strip(), asked.get("project", "")[:200].strip()
        states = [state] if state else ["draft", "unreadable", *GROUPS]
        entries = find_entries(self._desk.home, state=states, look=look)[::-1]
        projects = sorted({entry.project for entry in entries if entry.project})
        found = [
            entry
            for entry in entries
            if (not project or entry.project == project)
            and (not text or text.lower() in f"{entry.name} {entry.id} {entry.protocol} {entry.plan}".lower())
        ]
        page = int(asked["page"]) if asked.get("page", "").isdecimal() and len(asked["page"]) < 6 else 1
        num_pages = max(1, -(-len(found) // JOBS_PAGE))
        page = min(max(1, page), num_pages)
        counts = {group: sum(entry.state in states for entry in entries) for group, states in GROUPS.items()}
        return {
            "rows": [self._row(entry) for entry in found[(page - 1) * JOBS_PAGE : page * JOBS_PAGE]],
            "num_found": len(found),
            "counts": counts,
            "state": state,
            "q": text,
            "project": project,
            "projects": projects,
            "page": page,
            "num_pages": num_pages,
            "groups": {
                "": "All",
                "pending": "Waiting",
                "active": "Running",
                "history": "Ended",
                "draft": "Drafts",
            },
        }

    def _row(self, entry: JobEntry) -> ListedJob:
        percent, words = None, entry.reason if entry.state in HISTORY or entry.state == "unreadable" else ""
        ended = seconds_of(entry.finished)
        if entry.state in ACTIVE | PENDING:
            folder = job_folder(self._desk.home, entry.id)
            record = load_record(folder.record)
            live = first_live(record).after(read_last_events(folder.events, GLANCE_BYTES))
            kept = list_breakpoints(folder.breakpoints)
            round_ = max(live.round, int(kept[-1].name.removeprefix("round_")) if kept else 0)
            progress = progress_of(record, live, entry.rounds, round_, time.time())
            if progress is not None:
                percent, words = progress.percent, f"round {round_} of {rounds_text(entry.rounds)}"
            elif live.waiting:
                words = f"waits for {', '.join(live.waiting)}"
            ended = time.time()
        began = seconds_of(entry.started)
        return ListedJob(
            entry=entry,
            submitted=seconds_of(entry.submitted or entry.created),
            took_s=max(0.0, ended - began) if began and ended else None,
            percent=percent,
            words=words,
        )

    # --- one job --------------------------------------------------------------------------------

    def _job(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        return self._render(request, "job.html", **self.job_facts(request, look_at(folder)))

    def job_facts(self, request: Request, facts: JobFacts) -> dict[str, Any]:
        """Return what the page of a job shows of it while it runs, and after."""
        spec, record = facts.spec, facts.record
        colours = colours_of(spec.datasets)
        times = facts.times
        asked = request.query_params.get("round", "")
        chosen = next((one for one in times if str(one.round) == asked), times[-1] if times else None)
        at_work = times[-1].round if times else 0
        return {
            **self.head_facts(facts, "job"),
            "progress": facts.progress,
            "why": []
            if facts.state == State.COMPLETED or facts.why.gate == "nodes"
            else list(facts.why.lines),
            "slowest": next((one for one in reversed(times) if one.slowest and not one.is_open), None),
            "charts": history_charts(facts.measured, colours),
            "live_charts": live_charts(facts.events, at_work, colours) if facts.state in ACTIVE else [],
            "legend": node_legend(colours) if colours else "",
            "times": times,
            "chosen": chosen,
            "stages": STAGES,
            "nodes": _nodes(facts),
            "grid": _grid(facts),
            "absences": _absences(facts),
            "participation": facts.participation,
            "events": [line for event in facts.events[-MAX_EVENTS_SHOWN:] for line in format_event(event)[0]][
                : -MAX_EVENTS_SHOWN - 1 : -1
            ],
            "privacy": {node: privacy_in_words(one) for node, one in sorted(record.privacy.items())},
        }

    def head_facts(self, facts: JobFacts, part: str) -> dict[str, Any]:
        """Return what every page of a job shows of it; `part` is which of them."""
        spec, record = facts.spec, facts.record
        began = record.started
        ended = record.finished
        took = (
            seconds_between(began, ended)
            if began and ended
            else facts.now - seconds_of(began)
            if began
            else None
        )
        return {
            "title": spec.name or spec.id[:12],
            "part": part,
            "stream": f"/jobs/{spec.id}/{STREAMS.get(part, 'state/live')}",
            "facts": facts,
            "spec": spec,
            "record": record,
            "rounds_words": rounds_text(facts.rounds),
            "submitted": seconds_of(record.submitted or record.created),
            "took_s": took,
            "is_moving": is_moving(record.state),
            "has_ended": record.state in HISTORY,
            "is_active": record.state in ACTIVE,
            "is_pending": record.state in PENDING,
            "is_draft": record.state == State.DRAFT,
            "bytes_in": sum(one.bytes for one in facts.traffic if one.direction == "in"),
            "bytes_out": sum(one.bytes for one in facts.traffic if one.direction == "out"),
        }

    def _result(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        facts = look_at(folder)
        report, problem, is_drawn = None, "", False
        try:
            result = JobResult.load(folder)
            report = result.summary()
            is_drawn = has_picture(result, facts.spec.protocol)
        except NotReady as error:
            problem = f"There is no result yet: {error}"
        except FedjobError as error:
            problem = str(error)
        return self._render(
            request,
            "result.html",
            report=report,
            tables=_shown_tables(report),
            problem=problem,
            has_picture=is_drawn,
            **self.head_facts(facts, "result"),
        )

    def _log(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        return self._render(request, "log.html", **self.log_facts(request, look_at(folder)))

    def log_facts(self, request: Request, facts: JobFacts) -> dict[str, Any]:
        """Return the lines of tasks that nodes let through, and the events, the newest last."""
        node = request.query_params.get("node", "")
        node = node if node in facts.spec.datasets else ""
        lines = list(read_logs(iter(facts.events), node=node or None))
        words = [line for event in facts.events for line in format_event(event)[0]]
        return {
            **self.head_facts(facts, "log"),
            "node": node,
            "lines": [str(line) for line in lines[-MAX_LOG_LINES:]],
            "words": words[-MAX_LOG_LINES:],
        }

    def _settings(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        facts = look_at(folder)
        shown = {name: text for name, text in settings_of(facts.spec).items() if text not in ("", "None")}
        try:
            plan = folder.plan.read_bytes().decode("utf-8", "replace")
        except OSError:
            plan = ""
        return self._render(
            request,
            "settings.html",
            settings=shown,
            plan_lines=plan.splitlines(),
            **self.head_facts(facts, "settings"),
        )


def _shown_tables(report: Report | None) -> list[dict[str, Any]]:
    """Return the tables of a report, with the columns that hold numbers."""
    found = []
    for one in report.tables if report is not None else ():
        columns = range(len(one.header))
        numeric = [bool(one.rows) and all(is_numeric(row[at]) for row in one.rows) for at in columns]
        found.append({"name": one.name, "header": one.header, "rows": one.rows, "numeric": numeric})
    return found


def _nodes(facts: JobFacts) -> list[dict[str, Any]]:
    """Return a row for each node: what it does, its rows, rounds, bytes and time."""
    spent = totals(facts.times)
    at_work = set(facts.live.asked) if facts.state in ACTIVE else set()
    early = is_moving(facts.state)  # who was not chosen by now may be yet
    rows = []
    for part in list(facts.participation)[:MAX_NODES_SHOWN]:
        live = facts.live.nodes.get(part.node)
        busy = facts.state in ACTIVE and live is not None and live.total > 0
        rows.append(
            {
                "node": part.node,
                "state": live.state if live is not None and facts.state in ACTIVE else "",
                "percent": 100 * live.done / live.total if busy and live is not None else None,
                "rounds": part.num_rounds,
                "rows": part.rows,
                "reason": "" if part.node in at_work or (early and part.reason == NOT_ASKED) else part.reason,
                "bytes": facts.bytes_sent.get(part.node, 0),
                "seconds": spent.get(part.node, {}),
                "measured": facts.live.measured.get(part.node, {}),
            }
        )
    return rows


def _grid(facts: JobFacts) -> Any:
    """Return the picture of who took part in the newest rounds; none before the first one."""
    rounds = sorted({entry.round for entry in facts.ledger if entry.round <= facts.round})[-MAX_ROUNDS_SHOWN:]
    nodes = sorted({*facts.spec.datasets, *facts.record.participants})[:MAX_NODES_SHOWN]
    if not rounds or not nodes:
        return ""
    kinds: dict[tuple[str, int], tuple[str, str]] = {}
    for entry in facts.ledger:
        for name, *_ in entry.inputs:
            kinds.setdefault((str(name), entry.round), ("answered", "took part"))
        for name, reason in entry.left_out.items():
            kinds[name, entry.round] = "out", f"left out: {reason}"
    return part_grid(nodes, rounds, kinds)


def _absences(facts: JobFacts) -> list[tuple[str, str, int, int, int]]:
    """Return node, reason, number of rounds, the first and the last of them, for each reason to be left out."""
    found: dict[tuple[str, str], list[int]] = {}
    for entry in facts.ledger:
        for node, reason in entry.left_out.items():
            found.setdefault((node, reason), []).append(entry.round)
    rows = [(node, reason, len(set(at)), min(at), max(at)) for (node, reason), at in sorted(found.items())]
    never = [(node, reason, 0, 0, 0) for node, reason in sorted(facts.record.absent.items())]
    return [*rows, *never][:MAX_NODES_SHOWN]
