"""Find jobs of a home by id, name, state or project; no network, no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fedjob.common.errors import AmbiguousJob, NoSuchJob, SpecError
from fedjob.common.lifecycle import ACTIVE, GROUPS, PENDING, State
from fedjob.common.types import check_given, check_prefix
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.index import JobEntry, list_entries, read_entry
from fedjob.researcher.storage.transitions import notice

Name = str | re.Pattern[str]


def find_entries(
    home: Path,
    *,
    name: Name | None = None,
    id: str | None = None,
    state: str | Sequence[str] | None = None,
    project: str | None = None,
    token: str | None = None,
    plan: str | None = None,
    limit: int | None = None,
    reverse: bool = False,
    look: Callable[[JobFolder], object] = notice,
) -> list[JobEntry]:
    """Return the jobs that match, in order of submission.

    A job that nobody runs any more is found as `lost`. Drafts are not among them,
    unless `state` asks for them.

    Args:
        name: exactly so, a pattern with `*`, or a compiled regular expression that matches from the start.
        id: how it begins, with or without `job_`.
        state: a state, a group (`pending`, `active`, `history`), or several.
        plan: the beginning of its text's sha256, or its class.
        limit: only so many of the newest.
        reverse: newest first.
        look: called with the folder of a job that has not ended, before it is shown.

    Raises:
        SpecError: an unknown state, a limit below 0, or an empty name, project, plan or beginning of an id.
    """
    for what, text in (
        ("the beginning of an id", id),
        ("a name", name),
        ("a project", project),
        ("a plan", plan),
    ):
        if isinstance(text, str):
            check_given(text, what)
    states = _states(state)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise SpecError(f"limit is a whole number of 0 or more, not {limit!r}")
    prefix = None if id is None else id if id.startswith("job_") else f"job_{id}"
    found = []
    for entry in list_entries(home):
        if (prefix is not None and not entry.id.startswith(prefix)) or not _is_named(entry.name, name):
            continue
        if (project is not None and entry.project != project) or (token is not None and entry.token != token):
            continue
        if plan is not None and not (entry.plan.startswith(plan) or entry.plan.endswith(f" {plan}")):
            continue
        if entry.state in PENDING | ACTIVE:
            folder = job_folder(home, entry.id)
            look(folder)
            entry = read_entry(folder)
        if entry.state in states if states is not None else entry.state != State.DRAFT:
            found.append(entry)
    if limit is not None:
        found = found[len(found) - min(limit, len(found)) :]
    return found[::-1] if reverse else found


def find_entry(
    home: Path,
    *,
    name: Name | None = None,
    id: str | None = None,
    state: str | Sequence[str] | None = None,
    project: str | None = None,
    plan: str | None = None,
) -> JobEntry | None:
    """Return the one job that matches, None for none; by its id a draft is found, too.

    Raises:
        AmbiguousJob: several match; they are listed.
        SpecError: too little is given of an id.
    """
    if state is None and id is not None:
        state = tuple(State)
    found = find_entries(home, name=name, id=id, state=state, project=project, plan=plan)
    if id is not None and (exact := [entry for entry in found if entry.id == id]):
        found = exact
    if len(found) > 1:
        shown = found[-10:]
        listed = "; ".join(f"{e.id} ({e.name or 'no name'}, {e.state})" for e in reversed(shown))
        more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        raise AmbiguousJob(f"{len(found)} jobs match: {listed}{more}; say which by the beginning of its id")
    if found and id is not None:
        check_prefix(id, found[0].id, start="job_")
    return found[0] if found else None


def the_folder(home: Path, id: str) -> JobFolder:
    """Return the folder of the one job whose id begins like this, or whose name this is.

    Raises:
        NoSuchJob: none; a deleted one is named as that.
        AmbiguousJob: several; they are listed.
    """
    check_given(id, "the id or the name of a job")
    named = find_entry(home, name=re.compile(re.escape(id) + r"\Z"))  # a * chooses nothing to act on
    entry = named or find_entry(home, id=id)
    if entry is not None:
        return job_folder(home, entry.id)
    from fedjob.researcher.storage.submissions import list_submissions

    full = id if id.startswith("job_") else f"job_{id}"
    gone = [s for s in list_submissions(home) if s.state == "job_deleted" and s.job_id.startswith(full)]
    if gone:
        raise NoSuchJob(f"{gone[-1].job_id} was deleted at {gone[-1].deleted_time}")
    raise NoSuchJob(f"no job of {home} has an id that begins with {id!r}, or that name: fedjob job list")


def _states(state: str | Sequence[str] | None) -> frozenset[str] | None:
    if state is None:
        return None
    wanted: set[str] = set()
    for word in [state] if isinstance(state, str) else state:
        if word in GROUPS:
            wanted |= GROUPS[word]
        elif word in set(State) or word == "unreadable":
            wanted.add(word)
        else:
            known = ", ".join([*GROUPS, *State])
            raise SpecError(f"there is no state {word!r}; expected one of {known}")
    return frozenset(wanted)


def _is_named(name: str, wanted: Name | None) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, re.Pattern):
        return wanted.match(name) is not None
    return (
        fnmatchcase(name, wanted.replace("[", "[[]").replace("?", "[?]")) if "*" in wanted else name == wanted
    )
