"""The view of jobs side by side: in which settings they differ, and what they measured in one picture."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import FedjobError
from fedjob.researcher.page.charts import legend
from fedjob.researcher.page.comparison import (
    MAX_COMPARED,
    differences,
    last_values,
    metric_names,
    plan_changes,
    settings_of,
)
from fedjob.researcher.page.desk import ResearcherDesk
from fedjob.researcher.page.job_facts import JobFacts, look_at, seconds_of
from fedjob.researcher.page.metric_charts import compared_charts
from fedjob.researcher.storage.index import list_entries

MAX_OFFERED = 200


class SideBySide:
    """The comparison of jobs."""

    def __init__(self, desk: ResearcherDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the address of the comparison."""
        return [Route("/compare", self._compare, methods=["GET"])]

    def _compare(self, request: Request) -> Response:
        ids = list(dict.fromkeys(request.query_params.getlist("job")))
        jobs, problems = self._opened(ids[:MAX_COMPARED])
        if len(ids) > MAX_COMPARED:
            problems.append(f"{MAX_COMPARED} jobs are compared at once; {len(ids)} were chosen.")
        entries = [entry for entry in list_entries(self._desk.home) if entry.state != "unreadable"]
        measured = {_name(one, jobs): one.measured for one in jobs}
        metrics = metric_names(measured.values())
        texts = [_plan(one) for one in jobs]
        return self._desk.templates.render(
            request,
            "compare.html",
            title="Compare jobs",
            jobs=[(_name(one, jobs), one, _took(one)) for one in jobs],
            problems=problems,
            chosen=[one.spec.id for one in jobs],
            entries=entries[::-1][:MAX_OFFERED],
            differences=differences([settings_of(one.spec) for one in jobs]) if len(jobs) > 1 else [],
            charts=compared_charts(measured, metrics),
            legend=legend({name: number for number, name in enumerate(measured)}),
            metrics=metrics,
            values={name: last_values(rows, metrics) for name, rows in measured.items()},
            changes=plan_changes(texts[0], texts[1]) if len(texts) == 2 and texts[0] != texts[1] else [],
        )

    def _opened(self, ids: list[str]) -> tuple[list[JobFacts], list[str]]:
        found, problems = [], []
        for id_ in ids:
            folder = self._desk.find(id_)
            if folder is None:
                problems.append(f"There is no job {id_[:80]} here.")
                continue
            try:
                found.append(look_at(folder))
            except FedjobError as error:
                problems.append(str(error))
        return found, problems


def _name(one: JobFacts, jobs: list[JobFacts]) -> str:
    """Return the name of a job; with the beginning of its id where it has none, or another has the same."""
    name, short = one.spec.name, one.spec.id[:12]
    if not name:
        return short
    return name if sum(each.spec.name == name for each in jobs) == 1 else f"{name} ({short})"


def _plan(one: JobFacts) -> str:
    try:
        return one.folder.plan.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _took(one: JobFacts) -> Any:
    began, ended = seconds_of(one.record.started), seconds_of(one.record.finished)
    return max(0.0, (ended or one.now) - began) if began else None
