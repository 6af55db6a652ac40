"""The first screen: `fedjob` without arguments says what to do next in the homes that there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from fedjob._version import __version__
from fedjob.common.checks import printable, some_of
from fedjob.common.console import show_steps
from fedjob.common.errors import FedjobError
from fedjob.common.files import is_locked
from fedjob.common.lifecycle import ACTIVE, State
from fedjob.common.terminal.completion import rows_of
from fedjob.common.terminal.tables import width_of

MAX_NAMED = 3
"""Most jobs that are named in a line."""

Step = tuple[str, str]
"""What there is to do or to know, and the command for it; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeState:
    """The state of a home, as far as the next step depends on it.

    Args:
        role: `researcher`, `node` or `hub`.
        party: its name in the federation; empty for a hub, and before it has joined.
        running: whether the process of a node or a hub runs.
        num_pending: requests that wait for a node's owner.
        num_datasets, num_parties: of a node, of a hub.
        jobs: state -> names of a researcher's jobs, the newest first.
        last: of the newest job that has ended its name and its state.
        trouble: why the home can't be read; empty where it can.
    """

    role: str
    path: Path
    party: str = ""
    running: bool = False
    num_pending: int = 0
    num_datasets: int = 0
    num_parties: int = 0
    jobs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    last: tuple[str, str] = ("", "")
    trouble: str = ""


def show_first_screen() -> None:
    """Print what to do next in the homes of this user, or how to begin where there is none."""
    found = [state_of(role, path) for role, path in homes()]
    click.echo(f"fedjob {__version__}: train on data that never leaves its owners\n")
    sections = [(title_of(home), list(steps_of(home))) for home in found] or [
        ("no home yet", list(FIRST_STEPS))
    ]
    column = max(width_of(text) for _, steps in sections for text, command in steps if command) + 4
    for title, steps in sections:
        click.secho(printable(title), bold=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
        show_steps(steps, column)
        click.echo("")
    click.echo("all commands: fedjob --help; each has examples: fedjob COMMAND --help")


FIRST_STEPS: tuple[Step, ...] = (
    ("see it work, in a minute on this machine", "fedjob demo"),
    ("write a script that trains as it is", "fedjob new heart.py"),
    ("you were invited as a researcher", "fedjob init --id NAME --invite FILE"),
    ("you were invited as the owner of data", "fedjob node join FILE"),
    ("you run the hub of a federation", "fedjob hub start"),
)


def homes() -> Iterator[tuple[str, Path]]:
    """Yield role and folder of every home that commands find by themselves."""
    given = os.environ.get("FEDJOB_HOME")
    for role in ("researcher", "node", "hub"):
        path = Path(given).expanduser() if given else Path.home() / ".fedjob" / role
        others = [name for name in _SIGNS if (path / _SIGNS[name]).exists()]
        if others == [role] or (role == "researcher" and not others and (path / "membership.mpk").exists()):
            yield role, path


_SIGNS = {"node": "node.sqlite", "hub": "hub.sqlite", "researcher": "jobs"}
"""Role -> what stands in its homes only."""


def state_of(role: str, path: Path) -> HomeState:
    """Return the state of a home."""
    try:
        party = (path / "keys" / "party").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        party = ""
    if role == "node":
        database = path / "node.sqlite"
        return HomeState(
            role=role,
            path=path,
            party=party,
            running=is_locked(path / "lock"),
            num_pending=_count(database, "SELECT count(*) FROM grants WHERE status = 'pending'"),
            num_datasets=_count(database, "SELECT count(*) FROM datasets"),
        )
    if role == "hub":
        num = _count(path / "hub.sqlite", "SELECT count(*) FROM parties WHERE NOT revoked")
        return HomeState(role=role, path=path, running=is_locked(path / "hub.lock"), num_parties=num)
    return _researcher(path, party)


def _count(database: Path, query: str) -> int:
    rows = rows_of(database, query)
    return int(rows[0][0]) if rows else 0


def _researcher(path: Path, party: str) -> HomeState:
    from fedjob.researcher.storage.index import list_entries

    try:
        entries = list(reversed(list_entries(path)))
    except (FedjobError, OSError) as error:
        return HomeState(role="researcher", path=path, party=party, trouble=str(error))
    jobs: dict[str, list[str]] = {}
    last = ("", "")
    for entry in entries:
        name = entry.name or entry.id[:12]
        jobs.setdefault(entry.state, []).append(name)
        if not last[0] and entry.finished:
            last = (name, entry.state)
    return HomeState(role="researcher", path=path, party=party, jobs=jobs, last=last)


def title_of(home: HomeState) -> str:
    """Return whose home it is."""
    return f"{home.role} {home.party}".rstrip() + f", home {home.path}"


def steps_of(home: HomeState) -> Iterator[Step]:
    """Yield what there is to know and to do, the most urgent first."""
    if home.trouble:
        yield f"it can't be read: {home.trouble}", ""
        yield "look for what is wrong", "fedjob doctor"
    elif home.role == "node":
        yield from _of_node(home)
    elif home.role == "hub":
        yield from _of_hub(home)
    else:
        yield from _of_researcher(home)


def _of_node(home: HomeState) -> Iterator[Step]:
    if home.num_pending:
        one = home.num_pending == 1
        yield (
            f"{home.num_pending} request{'' if one else 's'} wait{'s' if one else ''} for your decision",
            "fedjob node grants list --pending",
        )
    if not home.num_datasets:
        yield "it offers no data yet", "fedjob node data add NAME PATH --tags TAG"
    if not home.running:
        yield "it does not run", "fedjob node start --detach"
    else:
        yield "it runs", "fedjob node status"
    yield "look at it in a browser", "fedjob node page"


def _of_hub(home: HomeState) -> Iterator[Step]:
    yield ("it runs", "fedjob hub status") if home.running else ("it does not run", "fedjob hub start")
    if not home.num_parties:
        yield "nobody has joined yet", "fedjob hub invite PARTY"
    else:
        yield f"{home.num_parties} part{'y' if home.num_parties == 1 else 'ies'}", "fedjob hub party list"
    yield "check machine, ports, certificate and broker", "fedjob hub doctor"


def _of_researcher(home: HomeState) -> Iterator[Step]:
    waiting = home.jobs.get(State.WAITING, ())
    if waiting:
        yield f"{_jobs(waiting)} wait{_s(waiting)} for owners", f"fedjob job why {_word(waiting[0])}"
    queued = home.jobs.get(State.QUEUED, ())
    if queued:
        yield f"{_jobs(queued)} wait{_s(queued)} to start at the nodes", f"fedjob job why {_word(queued[0])}"
    active = [name for state in sorted(ACTIVE) for name in home.jobs.get(state, ())]
    if active:
        yield f"{_jobs(active)} run{_s(active)}", f"fedjob job watch {_word(active[0])}"
    name, state = home.last
    if state == State.COMPLETED:
        yield f"the last result is of {name}", f"fedjob job result {_word(name)}"
    elif state:
        yield f"the last job that ended, {name}, is {state}", f"fedjob job why {_word(name)}"
    if not home.party:
        yield "it is in no federation yet", "fedjob init --id NAME --invite FILE"
    else:
        yield "which nodes answer, and with what data", "fedjob nodes; fedjob data"
    if not home.jobs:
        yield "write a script that trains as it is", "fedjob new heart.py"
        yield "start it as a job", "fedjob job submit heart.py"
        return
    if drafts := home.jobs.get(State.DRAFT, ()):
        yield f"{_jobs(drafts)} not submitted", "fedjob job list --state draft"
    yield "look at the jobs in a browser", "fedjob page"


def _jobs(names: Sequence[str]) -> str:
    return f"{len(names)} job{'' if len(names) == 1 else 's'} ({some_of(names, MAX_NAMED)})"


def _s(names: Sequence[str]) -> str:
    """Return the ending of the verb behind so many jobs."""
    return "s" if len(names) == 1 else ""


def _word(name: str) -> str:
    """Return a name as one word of a shell."""
    import shlex

    return shlex.quote(printable(name))
