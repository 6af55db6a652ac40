"""The commands `fedjob job wait`, `watch` and `logs`, from the job's home or, for a watcher, through the hub.

Exit codes: 0 completed, 1 ended otherwise, 2 cannot connect or not allowed,
3 the time is up and the job goes on, 130 interrupted and the job goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, print_json
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME, folder_of, job_argument

if TYPE_CHECKING:
    from fedjob.researcher.monitoring.stream import EventSource
    from fedjob.researcher.storage.event import JobEvent
    from fedjob.researcher.storage.folder import JobFolder

TIMEOUT = 3
INTERRUPTED = 130


@click.command()
@job_argument
@HOME
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    help="Seconds to wait at most; the job continues after them.",
)
@click.option("-q", "--silent", is_flag=True, help="Print no events.")
@click.option(
    "--no-grants",
    is_flag=True,
    help="Return as soon as an owner has to decide, instead of waiting for the decision.",
)
@click.option(
    "--on-interrupt",
    type=click.Choice(["ask", "leave", "kill"]),
    default="ask",
    help="What Ctrl+C does to the job.",
)
def wait(
    job_id: str, home: Path | None, timeout_s: float | None, silent: bool, no_grants: bool, on_interrupt: str
) -> None:
    """Wait for a job's end; its events are printed to stderr.

    Exit codes: 0 completed, 1 ended otherwise, 2 cannot connect or not allowed,
    3 time is up and the job goes on, 130 interrupted and the job goes on.

    \b
    fedjob job wait heart --timeout 600
    """
    from fedjob.common.errors import NoSuchJob
    from fedjob.researcher.runner.wait import wait_through

    with _exit_codes():
        try:
            folder = folder_of(home, job_id)
        except NoSuchJob as error:
            _wait_as_watcher(job_id, home, error, silent)
            return
        record = wait_through(
            folder,
            lambda: _shown(silent),
            timeout_s=timeout_s,
            for_grants=not no_grants,
            on_interrupt=on_interrupt,
        )
        click.echo(f"{folder.path.name} {record.state}")


@contextmanager
def _shown(silent: bool) -> Iterator[Callable[[JobEvent], None] | None]:
    """Yield a function that prints an event to stderr, in a terminal with a status line; None if silent."""
    from fedjob.researcher.monitoring.display import Display

    if silent:
        yield None
        return
    with closing(Display()) as display:
        yield display.tell


def _wait_as_watcher(job_id: str, home: Path | None, missing: Exception, silent: bool) -> None:
    with _followed(job_id, home, missing) as job:
        with _shown(silent) as show_event:
            for event in job.events(follow=True):
                if show_event is not None:
                    show_event(event)
        click.echo(f"{job.id} {job.state}")
        if not job.success:
            sys.exit(1)


@contextmanager
def _exit_codes() -> Iterator[None]:
    from fedjob.common.errors import JobFailed, WaitTimeout

    try:
        yield
    except JobFailed as error:
        click.echo(f"fedjob: {printable(str(error))}", err=True)
        sys.exit(1)
    except WaitTimeout as error:
        click.echo(f"fedjob: {error}", err=True)
        sys.exit(TIMEOUT)
    except KeyboardInterrupt:
        click.echo(
            "\nthe job is left running: fedjob job wait waits for it again, fedjob job kill ends it",
            err=True,
        )
        sys.exit(INTERRUPTED)


@contextmanager
def _followed(job_id: str, home: Path | None, missing: Exception) -> Iterator[Any]:
    """Follow another researcher's job through the hub; `job_id` must be its whole id."""
    from fedjob.common.errors import SpecError
    from fedjob.common.types import check_job_id
    from fedjob.researcher.jobs.session import connect

    try:
        check_job_id(job_id)
    except SpecError:
        raise missing from None
    with connect(home=home) as session:
        yield session.follow(job_id)


@click.command()
@job_argument
@HOME
@click.option("--since", type=click.IntRange(0), default=0, help="Print only events with a greater number.")
@click.option("--type", "types", multiple=True, help="Only events of this type; may be repeated.")
@click.option("--plain", is_flag=True, help="A line for each event in a terminal, too.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line; the last has terminal: true."
)
def watch(
    job_id: str, home: Path | None, since: int, types: tuple[str, ...], plain: bool, as_json: bool
) -> None:
    """Follow a job to its end. The exit codes are those of `wait`.

    In a terminal it is a table that is redrawn: rounds, time left, and of each node its state and metrics. In a pipe,
    and with --since, --type or --plain, each event is a line.

    \b
    fedjob job watch heart
    fedjob job watch heart --json --type metrics
    """
    from fedjob.common.errors import NoSuchJob, NotReady
    from fedjob.researcher.monitoring.stream import FolderSource, stream
    from fedjob.researcher.runner.revival import look

    with _exit_codes():
        try:
            folder = folder_of(home, job_id)
        except NoSuchJob as error:
            with _followed(job_id, home, error) as job:
                _show(job.events(follow=True, since=since, type=types or None), as_json, whole=bool(types))
                _terminal(job.id, job.state, job.reason, as_json)
            return
        if look(folder).state == "draft":
            raise NotReady(f"{folder.path.name} is a draft: submit it first")
        source = FolderSource(folder, since, look=lambda: look(folder))
        if sys.stdout.isatty() and not (as_json or types or since or plain):
            _living_table(folder, source)
        else:
            _show(stream(source, follow=True, type=types or None), as_json, whole=bool(types))
        record = look(folder)
        _terminal(folder.path.name, record.state, record.reason, as_json)


def _living_table(folder: JobFolder, source: EventSource) -> None:
    """Redraw the table of a job until it has ended; what stands there then stays."""
    from fedjob.common.terminal.redrawn import Redrawn
    from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
    from fedjob.researcher.monitoring.stream import stream
    from fedjob.researcher.storage.spec import load_spec

    spec = load_spec(folder.spec)
    title = f"{spec.name} ({folder.path.name[:12]})" if spec.name else folder.path.name[:12]
    screen = Redrawn(sys.stdout)
    display = NotebookDisplay(
        title,
        lambda: tuple(sorted(spec.datasets)),
        spec.rounds,
        draw=lambda _: screen.draw(display.view().terminal(screen.width, colours=screen.colours)),
    )

    def pause(seconds: float) -> None:
        display.show()  # the time that is left goes on where nothing happens
        time.sleep(seconds)

    try:
        for event in stream(source, follow=True, sleep=pause):
            display.tell(event)
    finally:
        display.show()
        screen.close()


def _show(events: Any, as_json: bool, *, whole: bool) -> None:
    from fedjob.researcher.monitoring.display import lines

    for line in lines(events, as_json, whole=whole):
        click.echo(line if as_json else printable(line))
        sys.stdout.flush()


def _terminal(id_: str, state: str, reason: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"terminal": True, "job": id_, "state": state, "reason": reason}))
    if state != "completed":
        sys.exit(1)


@click.command()
@job_argument
@HOME
@click.option("--node", help="Print only the logs of this node.")
@json_option
def logs(job_id: str, home: Path | None, node: str | None, as_json: bool) -> None:
    """Print the logs of a job's tasks that their nodes have released.

    \b
    fedjob job logs heart --node clinic-1
    """
    from fedjob.common.errors import NoSuchJob
    from fedjob.researcher.monitoring.logs import read_logs
    from fedjob.researcher.runner.revival import look
    from fedjob.researcher.storage.event_log import read_events

    with still_going_on("reading the job's events"):
        try:
            folder = folder_of(home, job_id)
            look(folder)
            lines = list(read_logs(read_events(folder.events), node=node))
        except NoSuchJob as error:
            with _followed(job_id, home, error) as job:
                lines = list(job.logs(node))
    if as_json:
        print_json([line.to_plain() for line in lines])
        return
    for line in lines:
        click.echo(printable(str(line)))
    if not lines:
        click.echo("no task of this job has written anything that its node lets through", err=True)
