"""The commands `fedjob node init`, `start`, `stop` and `status`."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.config import Scalar
from fedjob.common.console import json_option, size
from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.common.files import private
from fedjob.common.telemetry.logs import LOG_FORMATS
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.times import when
from fedjob.node.cli.home import home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.config import NodeConfig
    from fedjob.node.config.home import NodeHome
    from fedjob.node.daemon.daemon import Daemon


log = logging.getLogger(__name__)

BROKER_WITHIN_S = 15.0
"""A broker that has not answered for so long is waited for with a word."""

WAITING_S = 0.5
"""Between two looks at whether the federation has signed."""

START_WITHIN_S = 30.0


@click.command()
@home_option
@click.option("--id", "name", required=True, help="The node's name in the federation.")
@click.option("--hub", help="URL of the hub; a hub on this machine needs no invitation.")
@click.option(
    "--invite", type=click.Path(path_type=Path, dir_okay=False), help="Invitation file from the hub's owner."
)
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, if it has one; it is copied into the home.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path, dir_okay=False),
    help="This party's own certificate, where the hub issues none; it stays where it is.",
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="Key of --tls-cert.")
@click.option(
    "--proxy",
    help="Proxy on the way to the hub, http://[USER:PASSWORD@]HOST:PORT, or none.  [default: as the environment says]",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with a private key to use; by default a new one is made.",
)
def init(
    home: NodeHome,
    name: str,
    hub: str | None,
    invite: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy: str | None,
    key: Path | None,
) -> None:
    """Make a node's home and join a federation.

    \b
    fedjob node init --id clinic-1 --invite clinic-1.invitation
    fedjob node init --id clinic-1 --hub http://127.0.0.1:8844
    """

    from fedjob.identity.client_certificate import own_certificate
    from fedjob.node.joining import init_node

    if hub is None and invite is None:
        raise SpecError("expected the address of the hub: give --hub URL, or --invite FILE")
    own = own_certificate(tls_cert, tls_key)
    with still_going_on("joining the federation"):
        init_node(home, name, hub=hub, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own)
    click.echo(f"node {name} lives in {home.root}. Next: fedjob node data add NAME PATH; fedjob node start")


@click.command()
@home_option
@click.option("--workers", type=click.IntRange(min=0), help="Number of tasks that run at the same time.")
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    help="Format of the log; json: one object a line, on stderr as well.  [default: the setting log_format]",
)
@click.option(
    "--detach", is_flag=True, help="Return when the node is ready, and keep it running in the background."
)
def start(home: NodeHome, workers: int | None, log_format: str | None, detach: bool) -> None:
    """Run the node until `fedjob node stop`, SIGTERM or Ctrl-C.

    \b
    fedjob node start
    fedjob node start --workers 2 --detach
    """

    from fedjob.node.daemon.settings import Settings

    home.check()
    options: dict[str, Scalar | None] = {"workers": workers, "log_format": log_format}
    for fault in Settings(home, options)().faults:
        click.echo(f"fedjob: the strictest settings hold, approval on: {fault}", err=True)
    if detach:
        start_detached(home, options)
    else:
        start_here(home, options)


def start_here(home: NodeHome, options: Mapping[str, Scalar | None] = MappingProxyType({})) -> None:
    """Run the node in this process until it is stopped.

    Args:
        options: settings that were given on the command line.
    """

    from fedjob.identity.membership import load_membership
    from fedjob.messaging.clock import clock_text
    from fedjob.node.config.home_lock import locked
    from fedjob.node.daemon.settings import Settings, write_start
    from fedjob.node.sandbox.support import REFUSED, find_support
    from fedjob.node.startup import clock_of_hub, log_to, open_daemon, served, wait_for_hub

    opened = home.create()
    log_to(home, Settings(home, dict(options))().config)
    if text := str(opened):
        _tell(text)
    stopping = threading.Event()

    def waits(text: str) -> None:
        write_start(home, text)
        _tell(text)

    with locked(home):
        write_start(home)
        with _stopping_on_signals(stopping.set):
            roster = wait_for_hub(home, stopping, waits)
            if roster is None:
                return
        if text := clock_text(clock_of_hub(load_membership(home.root))):
            _tell(text)
        config = Settings(home, dict(options))().config
        if (support := find_support()).in_force(config.sandbox) == REFUSED:
            _tell(support.advice)
        daemon = open_daemon(home, roster, options=dict(options))
        with _stopping_on_signals(daemon.stop), served(home, config, daemon.pulse) as unserved:
            if unserved:
                _tell(unserved)
            threading.Thread(target=_print_ready, args=(home, daemon), daemon=True).start()
            daemon.run()


def _tell(text: str) -> None:
    """Say in the log and on the terminal what keeps the node from its work."""
    log.warning("%s", text)
    if not _logs_to_stderr():
        click.echo(f"fedjob: {text}", err=True)
        sys.stderr.flush()


def _logs_to_stderr() -> bool:
    """True if what is logged is on the terminal already, as JSON."""
    return any(type(handler) is logging.StreamHandler for handler in logging.getLogger("fedjob").handlers)


def _print_ready(home: NodeHome, daemon: Daemon) -> None:
    """Print that the node is ready, or once that it waits for the broker or the federation, and why.

    It is ready when the daemon has written so: whoever then asks for the status reads the same.
    """
    from fedjob.common.checks import printable
    from fedjob.node.daemon.settings import live_facts

    in_terminal = sys.stderr.isatty() and not _logs_to_stderr()
    with still_going_on("connecting to the broker") if in_terminal else nullcontext():
        is_ready = daemon.ready.wait(BROKER_WITHIN_S)
    if not is_ready:
        why = live_facts(home).get("trouble") or "fedjob node status says why"
        click.echo(f"fedjob: the node waits for the broker: {printable(str(why))}", err=True)
        sys.stderr.flush()
        daemon.ready.wait()
    if text := daemon.roster.waiting(home.node):
        click.echo(f"fedjob: the node waits for the federation: {text}", err=True)
        sys.stderr.flush()
        while live_facts(home).get("roster", {}).get("waiting", text):
            time.sleep(WAITING_S)
    click.echo(f"node ready: {home.node}")
    sys.stdout.flush()


@contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at SIGTERM and Ctrl-C, on a thread of its own: in a signal handler it could deadlock."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def listen() -> None:
        try:
            number = receiver.recv(1)
        except OSError:  # it ended before this thread began
            return
        if number:
            stop()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    old = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.close()
        receiver.close()


def start_detached(home: NodeHome, options: Mapping[str, Scalar | None] = MappingProxyType({})) -> None:
    """Start the node in a process of its own; return when it is ready, or waits for its hub."""

    from fedjob.node.config.home_lock import running_pid

    if (pid := running_pid(home)) is not None:
        raise ConfigError(f"a node runs in {home.root} already (process {pid}): stop it first")
    home.create()
    output = home.logs / "start.log"
    command = [sys.executable, "-m", "fedjob", "node", "start", "--home", str(home.root)]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    with open(output, "wb", opener=private) as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )

    with still_going_on("starting the node"):
        printed = _wait_until_started(process, output)
    if "node ready:" in printed:
        click.echo(f"node ready: {home.node} (process {process.pid}, log {home.log})")
    elif "the node waits for" in printed:
        click.echo(
            f"{printed.strip()}\nit waits in the background (process {process.pid}, log {home.log})",
            err=True,
        )
    elif process.poll() is not None:
        raise FedjobError(
            f"the node did not start: {printed.strip().removeprefix('fedjob: ') or 'no reason'}"
        )
    else:
        process.terminate()
        raise FedjobError(
            f"the node was not ready within {START_WITHIN_S:.0f} s; see {output} and {home.log}"
        )


def _wait_until_started(process: subprocess.Popen[bytes], output: Path) -> str:
    """Return what a node has printed once it is ready, waits for somebody or has ended, or when its time is up."""
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        has_ended = process.poll() is not None
        printed = output.read_text(encoding="utf-8", errors="replace")
        if "node ready:" in printed or "the node waits for" in printed:
            return printed
        if has_ended or time.monotonic() > deadline:
            return printed
        time.sleep(0.05)


@click.command()
@home_option
def stop(home: NodeHome) -> None:
    """Stop the running node; unfinished tasks continue at the next start.

    \b
    fedjob node stop
    """

    from fedjob.node.owner.node_state import stop_node

    with still_going_on("stopping the node"):
        stopped = stop_node(home)
    click.echo("node stopped" if stopped else f"no node runs in {home.root}")


@click.command()
@home_option
@json_option
def status(home: NodeHome, as_json: bool) -> None:
    """Show whether the node runs, its queue, its workers, and the messages it dropped.

    \b
    fedjob node status
    fedjob node status --json
    """

    from fedjob.node.owner.node_state import node_facts
    from fedjob.node.owner.settings import settings_in_force

    with open_database(home):
        pass  # a folder that is no node's home is refused before anything is read of it
    settings = settings_in_force(home)
    facts = node_facts(home, settings)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _show(facts, settings.config)


def _show(facts: Mapping[str, Any], config: NodeConfig) -> None:
    from fedjob.identity.statements.federation_keys import fingerprint_of
    from fedjob.node.daemon.connection_watch import TWIN_TEXT
    from fedjob.node.owner.node_state import SANDBOXES

    state = "stopped"
    if facts["running"]:
        state = f"running (process {facts['pid']}), " + (
            "connected" if facts["connected"] else f"not connected: {facts['trouble'] or 'it is starting'}"
        )
    click.echo(f"node {facts['node']}: {state}")
    if facts["twin"]:
        click.echo(f"identity  {TWIN_TEXT}")
    if facts["version_trouble"]:
        click.echo(f"version   {facts['version_trouble']}")
    if facts["clock"]:
        click.echo(f"clock     {facts['clock']}")
    click.echo(f"home      {facts['home']}")
    click.echo(f"key       {fingerprint_of(facts['key'])}")
    click.echo(f"trust     {facts['roster']['trust'].removeprefix('trust ')}")
    for text in filter(None, (facts["roster"]["waiting"], facts["roster"]["trouble"])):
        click.echo(f"          {text}")
    off = " (user code runs without its owner's approval!)" if config.approval == "off" else ""
    click.echo(f"approval  {config.approval}{off}")
    click.echo(f"encrypted {facts['encryption']}")
    click.echo(f"sandbox   {SANDBOXES.get(facts['sandbox'], facts['sandbox'])}")
    if facts["sandbox_advice"]:
        click.echo(f"          {facts['sandbox_advice']}")
    if facts["lacking"]:
        click.echo(f"libraries NO TASK CAN RUN: {facts['lacking']}")
    for fault in facts["settings_faults"]:
        click.echo(f"settings  NOT READABLE, the strictest hold until they are: {fault}")
    click.echo(f"data      {', '.join(facts['datasets']) or 'no datasets'}")
    count = facts["pending_grants"]
    click.echo(f"grants    {_number(count, 'request')} {'waits' if count == 1 else 'wait'} for a decision")
    click.echo(f"tasks     {_counts(facts['queue'])}; the last ended {when(facts['last_task'], 'never')}")
    if config.workers == 0:
        click.echo("workers   none: tasks are queued only; fedjob node config set workers 1 lets them begin")
    click.echo(
        f"workers   {config.workers} at a time with {_number(config.torch_threads, 'thread')}; "
        f"{_number(len(facts['worker_processes']), 'process')}"
    )
    click.echo(f"hours     {config.hours or 'always'}{'' if facts['open'] else ' (closed now)'}")
    lent = facts["resources"]
    click.echo(
        f"lends     {lent['cpus']:g} cpus, {size(lent['memory_bytes'])}, {_number(len(lent['gpus']), 'gpu')}"
    )
    for held in facts["held"]:
        click.echo(
            f"held      {held['job']}: {held['cpus']:g} cpus, {size(held['memory_bytes'])}, "
            f"gpus {held['gpus'] or 'none'}{' (reserved)' if held['reserved_until'] else ''}"
        )
    click.echo(f"outbox    {facts['undelivered']} replies without a receipt")
    click.echo(f"dropped   {_counts(facts['dropped'])}")


def _number(count: int, what: str) -> str:
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count} {what}{ending}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
