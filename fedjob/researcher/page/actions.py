"""The forms of the researcher's page that change something: each does what a command does, by the same function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import SpecError
from fedjob.common.pages.guard import field_of
from fedjob.common.pages.orders import carry_out
from fedjob.researcher.page.desk import ResearcherDesk
from fedjob.researcher.runner.control import cancel, kill, stop
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.transitions import notice

MAX_CHANGES = 32
MAX_CHANGES_CHARS = 8000


class ResearcherActions:
    """What the page changes."""

    def __init__(self, desk: ResearcherDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the addresses that take a form."""
        found: dict[str, Callable[[Request], Response]] = {
            "cancel": self._cancel,
            "stop": self._stop,
            "kill": self._kill,
            "restart": self._restart,
            "clone": self._clone,
            "submit": self._submit,
        }
        return [Route(f"/jobs/{{id}}/{verb}", handler, methods=["POST"]) for verb, handler in found.items()]

    def _cancel(self, request: Request) -> Response:
        return self._of_job(
            request, lambda folder: "It was withdrawn." if cancel(folder) else _nothing(folder, "cancel")
        )

    def _stop(self, request: Request) -> Response:
        return self._of_job(
            request, lambda folder: "It ends after its round." if stop(folder) else _nothing(folder, "stop")
        )

    def _kill(self, request: Request) -> Response:
        def change(folder: JobFolder) -> str:
            return f"It is {notice(folder).state}." if kill(folder) else _nothing(folder, "kill")

        return self._of_job(request, change)

    def _restart(self, request: Request) -> Response:
        def change(folder: JobFolder) -> str:
            rounds = _rounds(field_of(request.state.form, "rounds"))
            job = self._desk.orders.open_job(folder).restart(None, rounds)
            return f"Attempt {job.attempts} has begun, from the last breakpoint."

        return self._of_job(request, change)

    def _clone(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        made: list[str] = []

        def change() -> str:
            changes = changes_of(field_of(request.state.form, "changes"))
            name = field_of(request.state.form, "name")
            if name:
                changes["name"] = name
            made.append(self._desk.orders.open_job(folder).clone(**changes).id)
            return "This is the clone, a draft: nothing was sent yet."

        response = carry_out(request, f"/jobs/{folder.path.name}", change)
        if made:
            response.headers["location"] = f"/jobs/{made[0]}"
        return response

    def _submit(self, request: Request) -> Response:
        def change(folder: JobFolder) -> str:
            self._desk.orders.submit(folder)
            return "It was submitted, and runs in a process of its own."

        return self._of_job(request, change)

    def _of_job(self, request: Request, change: Callable[[JobFolder], str]) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        return carry_out(request, f"/jobs/{folder.path.name}", lambda: change(folder))


def changes_of(text: str) -> dict[str, Any]:
    """Return the arguments that a clone changes, from lines `FIELD=VALUE` with JSON as value, as `--set` takes them.

    Raises:
        SpecError: a line is none, or there are too many.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) > MAX_CHANGES or len(text) > MAX_CHANGES_CHARS:
        raise SpecError(f"expected at most {MAX_CHANGES} lines and {MAX_CHANGES_CHARS} characters of changes")
    changes: dict[str, Any] = {}
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name.isidentifier():
            raise SpecError(f"expected a change a line, FIELD=VALUE such as rounds=20, found {line[:80]!r}")
        try:
            changes[name] = json.loads(value)
        except (ValueError, RecursionError):
            changes[name] = value
    return changes


def _rounds(text: str) -> int | None:
    """Return a number of rounds that a form gives; None where it was left empty.

    Raises:
        SpecError: it is none.
    """
    if not text:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) < 8 and int(text) >= 1):
        raise SpecError(f"rounds: expected a whole number from 1, found {text[:40]!r}")
    return int(text)


def _nothing(folder: JobFolder, verb: str) -> str:
    """Refuse an order for which the job is in the wrong state.

    Raises:
        SpecError: always.
    """
    raise SpecError(f"the job is {notice(folder).state}: there is nothing to {verb}")
