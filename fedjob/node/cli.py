"""`fedjob node`: make, run and look after a node."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from fedjob.common.codec import unpack
from fedjob.common.config import load_config, set_config
from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.node.database import Database
from fedjob.node.datasets import Datasets, describe_dataset
from fedjob.node.grants import Grant, Grants
from fedjob.node.opening import init_node, locked, log_to, open_daemon, running_pid
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.taskstore import TaskStore

START_WITHIN_S = 30.0
STOP_WITHIN_S = 30.0


def _default_home() -> Path:
    given = os.environ.get("FEDJOB_HOME")
    return Path(given) if given else Path.home() / ".fedjob" / "node"


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--home`, and its body a `NodeHome`."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        callback=lambda ctx, param, value: NodeHome(value or _default_home()),
        expose_value=True,
        help="The node's folder; default $FEDJOB_HOME, then ~/.fedjob/node.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@contextmanager
def _database(home: NodeHome) -> Iterator[Database]:
    home.check()
    database = Database(home.database)
    try:
        yield database
    finally:
        database.close()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Run a node: data, grants, tasks."""


# --- life ---------------------------------------------------------------------------------


@node.command()
@home_option
@click.option("--id", "name", required=True, help="The node's name in the federation.")
@click.option("--hub", help="URL of the hub; one on loopback enrols without an invitation.")
@click.option("--invite", type=click.Path(path_type=Path, dir_okay=False), help="The hub's invitation file.")
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, where it has one; keep the file where it is.",
)
def init(home: NodeHome, name: str, hub: str | None, invite: Path | None, tls_ca: Path | None) -> None:
    """Make a node's home and join a federation."""
    if hub is None and invite is None:
        raise SpecError("say where the hub is: --hub URL, or --invite FILE")
    init_node(home, name, hub=hub, invite=invite, tls_ca=tls_ca)
    click.echo(f"node {name} lives in {home.root}. Next: fedjob node data add NAME PATH; fedjob node start")


@node.command()
@home_option
@click.option("--workers", type=int, help="Tasks that run at the same time.")
@click.option("--detach", is_flag=True, help="Return when the node is ready; it goes on in the background.")
def start(home: NodeHome, workers: int | None, detach: bool) -> None:
    """Run the node until it is told to stop."""
    home.check()
    load_config(NodeConfig, home.root, options={"workers": workers})  # complain before anything is started
    if detach:
        _start_detached(home, workers)
        return
    log_to(home)
    with locked(home):
        daemon = open_daemon(home, options={"workers": workers})
        with _stopping_on_signals(daemon.stop):
            threading.Thread(target=_say_ready, args=(home, daemon.ready), daemon=True).start()
            daemon.run()


def _say_ready(home: NodeHome, ready: threading.Event) -> None:
    if ready.wait(60.0):
        click.echo(f"node ready: {_name_of(home)}")
        sys.stdout.flush()


@contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, on a thread of its own, at SIGTERM and Ctrl-C: in a handler it could deadlock."""
    heard, says = socket.socketpair()
    says.setblocking(False)

    def listen() -> None:
        if heard.recv(1):
            stop()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    old = signal.set_wakeup_fd(says.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        says.close()
        heard.close()


def _start_detached(home: NodeHome, workers: int | None) -> None:
    if (pid := running_pid(home)) is not None:
        raise ConfigError(f"a node runs in {home.root} already (process {pid}): stop it first")
    home.create()
    output = home.logs / "start.log"
    command = [sys.executable, "-m", "fedjob", "node", "start", "--home", str(home.root)]
    if workers is not None:
        command += ["--workers", str(workers)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        said = output.read_text(encoding="utf-8", errors="replace")
        if "node ready:" in said:
            click.echo(f"node ready: {_name_of(home)} (process {process.pid}, log {home.log})")
            return
        if process.poll() is not None:
            raise FedjobError(
                f"the node did not start: {said.strip().removeprefix('fedjob: ') or 'no reason'}"
            )
        time.sleep(0.05)
    process.terminate()
    raise FedjobError(f"the node was not ready within {START_WITHIN_S:.0f} s; see {output} and {home.log}")


@node.command()
@home_option
def stop(home: NodeHome) -> None:
    """Stop the running node; unfinished tasks go on at the next start."""
    pid = running_pid(home)
    if pid is None:
        click.echo(f"no node runs in {home.root}")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN_S
    while running_pid(home) == pid:
        if time.monotonic() > deadline:
            raise FedjobError(f"process {pid} has not ended within {STOP_WITHIN_S:.0f} s")
        time.sleep(0.05)
    click.echo("node stopped")


@node.command()
@home_option
@json_option
def status(home: NodeHome, as_json: bool) -> None:
    """Show whether the node runs, its queue, its workers, and what it dropped."""
    config = load_config(NodeConfig, home.root)
    with _database(home) as database:
        pid = running_pid(home)
        row = database.row("SELECT facts FROM live")
        live = unpack(row["facts"]) if row is not None and pid is not None else {}
        queue = {
            row["status"]: row["n"]
            for row in database.rows("SELECT status, count(*) AS n FROM tasks GROUP BY status")
        }
        facts = {
            "node": _name_of(home),
            "home": str(home.root),
            "running": pid is not None,
            "pid": pid,
            "connected": bool(live.get("connected")),
            "approval": config.approval,
            "workers": config.workers,
            "threads": config.torch_threads,
            "datasets": len(Datasets(database).all()),
            "pending_grants": len(Grants(database).all("pending")),
            "queue": queue,
            "undelivered": database.rows("SELECT count(*) AS n FROM outbox")[0]["n"],
            "worker_processes": live.get("workers", {}).get("warm", []),
            "fork_server": live.get("workers", {}).get("fork_server", False),
            "dropped": live.get("counters", {}),
        }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    state = "stopped"
    if pid is not None:
        state = f"running (process {pid}), " + ("connected" if facts["connected"] else "not connected")
    click.echo(f"node {facts['node']}: {state}")
    click.echo(f"home      {home.root}")
    off = " (user code runs without its owner's approval!)" if config.approval == "off" else ""
    click.echo(f"approval  {config.approval}{off}")
    click.echo(f"data      {facts['datasets']} dataset{'' if facts['datasets'] == 1 else 's'}")
    click.echo(f"grants    {facts['pending_grants']} wait for a decision")
    click.echo(f"tasks     {_counts(queue)}")
    click.echo(
        f"workers   {config.workers} at a time with {config.torch_threads} threads; "
        f"{len(facts['worker_processes'])} processes"
    )
    click.echo(f"outbox    {facts['undelivered']} replies without a receipt")
    click.echo(f"dropped   {_counts(live.get('counters', {}))}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _name_of(home: NodeHome) -> str:
    return (home.keys / "party").read_text(encoding="utf-8").strip()


# --- data -----------------------------------------------------------------------------------


@node.group()
def data() -> None:
    """The datasets that this node offers."""


@data.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@home_option
@click.option("--tags", default="", help="Comma-separated words that researchers search for.")
@click.option("--reader", help="How to read it; guessed from the path where it can be.")
@click.option(
    "--option", "options", multiple=True, metavar="K=V", help="An option of the reader; repeatable."
)
@click.option("--mock", type=click.Path(path_type=Path), help="A safe stand-in of the same form.")
@click.option("--min-rows", type=int, default=0, help="Nothing is computed on fewer rows.")
def data_add(
    name: str,
    path: Path,
    home: NodeHome,
    tags: str,
    reader: str | None,
    options: tuple[str, ...],
    mock: Path | None,
    min_rows: int,
) -> None:
    """Offer the data at PATH under NAME; they stay where they are."""
    pairs: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise SpecError(f"--option takes KEY=VALUE, not {option!r}")
        pairs[key] = value
    words = [tag.strip() for tag in tags.split(",") if tag.strip()]
    with _database(home) as database:
        dataset = describe_dataset(
            name, path, tags=words, reader=reader, options=pairs, mock=mock, min_rows=min_rows
        )
        Datasets(database).add(dataset)
    click.echo(
        f"dataset {name}: {dataset.num_rows} rows, {len(dataset.columns)} columns, {_size(dataset.size_bytes)}, "
        f"read as {dataset.reader}"
    )
    names = [str(column["name"]) for column in dataset.columns]
    if (
        dataset.reader == "csv"
        and not pairs.keys() & {"header", "names"}
        and 2 * sum(map(_is_number, names)) > len(names)
    ):
        click.echo(
            f"note: the first row was taken for the names of the columns ({', '.join(names[:4])}, ...): if it is "
            f"data, `fedjob node data remove {name}` and add it again with --option header=no",
            err=True,
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@data.command("list")
@home_option
@json_option
def data_list(home: NodeHome, as_json: bool) -> None:
    """List the datasets."""
    with _database(home) as database:
        found = Datasets(database).all()
    if as_json:
        click.echo(json.dumps([_plain(dataset) for dataset in found], indent=2))
        return
    _table(
        ("name", "tags", "reader", "rows", "columns", "size", "min rows", "mock", "path"),
        [
            (
                d.name,
                ",".join(d.tags),
                d.reader,
                str(d.num_rows),
                str(len(d.columns)),
                _size(d.size_bytes),
                str(d.min_rows),
                "yes" if d.mock else "no",
                d.path,
            )
            for d in found
        ],
        empty="no datasets yet: fedjob node data add NAME PATH",
    )


@data.command("show")
@click.argument("name")
@home_option
@json_option
def data_show(name: str, home: NodeHome, as_json: bool) -> None:
    """Show a dataset, its columns and their types."""
    with _database(home) as database:
        dataset = Datasets(database).get(name)
    if as_json:
        click.echo(json.dumps(_plain(dataset), indent=2))
        return
    for key in ("name", "path", "mock", "reader", "num_rows", "min_rows"):
        click.echo(f"{key:<10}{getattr(dataset, key) or '-'}")
    click.echo(f"{'size':<10}{_size(dataset.size_bytes)}")
    click.echo(f"{'tags':<10}{', '.join(dataset.tags) or '-'}")
    click.echo(f"{'options':<10}{', '.join(f'{k}={v}' for k, v in dataset.options.items()) or '-'}")
    _table(
        ("column", "type"), [(str(c["name"]), str(c["type"])) for c in dataset.columns], empty="no columns"
    )


@data.command("remove")
@click.argument("name")
@home_option
def data_remove(name: str, home: NodeHome) -> None:
    """Offer a dataset no more; the data stay where they are."""
    with _database(home) as database:
        Datasets(database).remove(name)
    click.echo(f"dataset {name} is no longer offered")


def _plain(dataset: Any) -> dict[str, Any]:
    plain = asdict(dataset)
    plain["columns"] = [dict(column) for column in dataset.columns]
    return plain


# --- grants -----------------------------------------------------------------------------------


@node.group()
def grants() -> None:
    """Who may run which plan on which data."""


@grants.command("list")
@home_option
@click.option("--pending", is_flag=True, help="Only what waits for a decision.")
@json_option
def grants_list(home: NodeHome, pending: bool, as_json: bool) -> None:
    """List what was asked for, and what was decided."""
    with _database(home) as database:
        found = Grants(database).all("pending" if pending else None)
    if as_json:
        click.echo(json.dumps([grant.to_plain() for grant in found], indent=2))
        return
    _table(
        ("id", "status", "researcher", "dataset", "use", "plan", "sha256", "job", "asked"),
        [
            (
                g.id,
                g.status,
                g.subject.researcher,
                g.subject.dataset,
                g.subject.use,
                g.subject.entry,
                g.subject.plan[:12] or "-",
                g.job_name or "-",
                _when(g.requested),
            )
            for g in found
        ],
        empty="nothing waits for a decision" if pending else "nobody has asked for anything yet",
    )


@grants.command("show")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--code", is_flag=True, help="Print the plan's text: what would run, byte for byte.")
@json_option
def grants_show(grant_id: str, home: NodeHome, code: bool, as_json: bool) -> None:
    """Show one grant."""
    with _database(home) as database:
        store = Grants(database)
        grant = store.get(grant_id)
        text = _text(store, grant) if grant.subject.plan else ""
    if as_json:
        plain = grant.to_plain()
        click.echo(json.dumps({**plain, "code": text} if code else plain, indent=2))
        return
    if code and text:
        click.echo(text, nl=not text.endswith("\n"))
        return
    plain = grant.to_plain()
    plain.update(requested=_when(grant.requested), decided=_when(grant.decided))
    for key, value in plain.items():
        click.echo(f"{key:<14}{_clean(str(value or '-'))}")
    if text:
        from fedjob.common.plans.source import imported_packages, missing_packages

        click.echo(f"{'imports':<14}{', '.join(imported_packages(text)) or '-'}")
        click.echo(f"{'not installed':<14}{', '.join(missing_packages(text)) or '-'}")
        click.echo(
            f"{'lines':<14}{text.count(chr(10))}; read them: fedjob node grants show {grant.id} --code"
        )


@grants.command("approve")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--note", default="", help="The researcher will read it.")
def grants_approve(grant_id: str, home: NodeHome, note: str) -> None:
    """Allow exactly this text, for this researcher, on this dataset."""
    grant = _decide(home, grant_id, approve=True, note=note)
    what = f"plan {grant.subject.entry} ({grant.subject.plan[:12]})" if grant.subject.plan else grant.protocol
    click.echo(
        f"approved: {grant.subject.researcher} may run {what} on {grant.subject.dataset} ({grant.subject.use})"
    )


@grants.command("reject")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--reason", required=True, help="The researcher will read it.")
def grants_reject(grant_id: str, home: NodeHome, reason: str) -> None:
    """Forbid it."""
    grant = _decide(home, grant_id, approve=False, note=reason)
    click.echo(f"rejected: {grant.subject.entry} of {grant.subject.researcher} on {grant.subject.dataset}")


def _decide(home: NodeHome, grant_id: str, *, approve: bool, note: str) -> Grant:
    with _database(home) as database:
        store = Grants(database)
        return store.decide(store.get(grant_id).id, approve=approve, note=note, by=getpass.getuser())


def _text(store: Grants, grant: Grant) -> str:
    data = store.text_of(grant.subject.plan)
    if data is None:
        raise FedjobError(
            f"the text of grant {grant.id} is damaged: reject it, and let it be asked for again"
        )
    return data.decode()


# --- tasks and settings ---------------------------------------------------------------------------


@node.command()
@home_option
@click.option("--state", help="Only tasks in this state: accepted, running, done, failed, cancelled.")
@json_option
def tasks(home: NodeHome, state: str | None, as_json: bool) -> None:
    """List what was computed here, for whom, and what came of it."""
    with _database(home) as database:
        found = TaskStore(database).list_tasks(state)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    _table(
        ("task", "job", "round", "step", "dataset", "researcher", "status", "reason", "accepted", "took"),
        [
            (
                task["key"][:12],
                task["job"],
                str(task["round"]),
                task["step"],
                task["dataset"],
                task["researcher"],
                task["status"],
                task["reason"] or "-",
                _when(task["accepted"]),
                f"{task['ended'] - task['accepted']:.2f} s" if task["ended"] else "-",
            )
            for task in found
        ],
        empty="no tasks yet",
    )


@node.group()
def config() -> None:
    """The node's settings."""


@config.command("show")
@home_option
@json_option
def config_show(home: NodeHome, as_json: bool) -> None:
    """Show every setting."""
    values = asdict(load_config(NodeConfig, home.root))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        click.echo(f"{key} = {value}")


@config.command("get")
@click.argument("key")
@home_option
def config_get(key: str, home: NodeHome) -> None:
    """Print one setting."""
    values = asdict(load_config(NodeConfig, home.root))
    if key not in values:
        raise ConfigError(
            f"there is no setting {key!r}. Known: {', '.join(f.name for f in fields(NodeConfig))}"
        )
    click.echo(values[key])


@config.command("set")
@click.argument("key")
@click.argument("value")
@home_option
def config_set(key: str, value: str, home: NodeHome) -> None:
    """Change one setting; a running node follows within a second."""
    home.check()
    click.echo(f"{key} = {set_config(NodeConfig, home.root, key, value)}")


# --- drawing -----------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Draw a table on a terminal; in a pipe, print tab-separated lines."""
    if not rows:
        click.echo(empty, err=not sys.stdout.isatty())
        return
    if not sys.stdout.isatty():
        for row in (header, *rows):
            click.echo("\t".join(_clean(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_clean(cell)) for cell in row))
    Console().print(table)


def _clean(text: str) -> str:
    """Keep what a researcher wrote from steering the owner's terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _when(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
