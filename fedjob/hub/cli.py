"""The commands `fedjob hub ...` of the person who runs a hub."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fedjob.common.console import HomeFolder, show_fact, show_rows, size
from fedjob.common.errors import ConfigError, FedjobError, SpecError
from fedjob.common.network.addresses import EVERY_ADDRESS
from fedjob.common.telemetry.logs import LOG_FORMATS, RotatedFile, formatter_of
from fedjob.common.terminal.completion import CompletedText, rows_of
from fedjob.common.terminal.going_on import still_going_on

if TYPE_CHECKING:
    from fedjob.hub.broker.child import Accounts
    from fedjob.hub.config.home import HubHome, Running
    from fedjob.hub.storage.bucket import Bucket, BucketAddress
    from fedjob.hub.storage.database import HubDatabase

DEFAULT_URL = "http://127.0.0.1:8844"
home_option = click.option(
    "--home",
    type=HomeFolder(),
    help="The hub's folder.  [default: $FEDJOB_HOME, else ~/.fedjob/hub]",
)
credentials_option = click.option(
    "--storage-credentials",
    "bucket_login",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=..., for s3://.  [default: the environment]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _parties(given: object) -> list[tuple[str, str]]:
    """Return the parties of a hub's home, each with its role, for a shell."""
    home = _home(None if given is None else Path(str(given)))
    rows = rows_of(home / "hub.sqlite", "SELECT party, role FROM parties ORDER BY party")
    return [(party, role) for party, role in rows]


_PARTY = CompletedText(_parties)


@click.group()
def hub() -> None:
    """Run a hub: the MQTT broker and file repository that researchers and nodes connect to."""


@hub.command()
@home_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8844,
    show_default=True,
    help="Port for everything; 0 means a free one.",
)
@click.option(
    "--mqtt-port",
    type=click.IntRange(0, 65535),
    help="A port for the broker beside --port; 0 means a free one.  [default: 1844 on loopback without TLS, else none: "
    "parties reach the broker through --port, as MQTT over WebSocket]",
)
@click.option(
    "--broker-kind",
    type=click.Choice(["auto", "mosquitto", "amqtt"]),
    default="auto",
    show_default=True,
    help="auto: Mosquitto where it is installed, else the embedded amqtt.",
)
@click.option(
    "--broker",
    "broker_url",
    default="",
    help="URL of an MQTT broker that runs elsewhere; the hub then starts none.",
)
@click.option(
    "--broker-management",
    default="",
    help="URL of the HTTP API of that broker where it is a RabbitMQ: the connections of revoked parties are ended by it.",
)
@click.option(
    "--storage",
    help="Where the objects are stored: a folder, or s3://BUCKET/PREFIX?endpoint=URL.  [default: in the home]",
)
@credentials_option
@click.option(
    "--storage-direct",
    is_flag=True,
    help="Parties fetch objects from the S3 store themselves, by URLs that the hub signs.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM certificate, for HTTP and MQTT.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Key of the certificate, a PEM file.")
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path),
    help="PEM certificate of the private authority that --tls-cert is from; invitations carry it from then on.",
)
@click.option(
    "--client-ca",
    type=click.Path(path_type=Path),
    help="PEM certificate of the authority that the parties' own certificates are from.  [default: the hub issues them]",
)
@click.option(
    "--only-certificates",
    is_flag=True,
    help="Refuse parties whose certificate does not arrive, because a proxy looks inside TLS.",
)
@click.option(
    "--tls-in-front",
    is_flag=True,
    help="A web server before the hub ends TLS: parties sign their requests.",
)
@click.option("--insecure", is_flag=True, help="Listen on other addresses than loopback without TLS.")
@click.option("--invited-only", is_flag=True, help="Require invitations on loopback too.")
@click.option(
    "--public-broker",
    default="",
    help="URL of the broker as parties reach it, where a proxy stands in front of it.",
)
@click.option(
    "--behind-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address of a web server before the hub, which says in X-Forwarded-For where requests come from; may be repeated.",
)
@click.option(
    "--read-url",
    "read_urls",
    multiple=True,
    help="URL of another server that serves the same objects; may be repeated.",
)
@click.option(
    "--federation",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The .federation file with the keys that sign the roster; the home keeps it, so give it once.",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    envvar="FEDJOB_LOG_FORMAT",
    show_default=True,
    help="Format of the log; json: one object a line. Or the variable FEDJOB_LOG_FORMAT.",
)
@click.option(
    "--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Where to log.  [default: stderr]"
)
@click.option(
    "--log-file-mb",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Size at which the log file is put aside and begun anew; 0 where something else does it, such as logrotate.",
)
@click.option(
    "--log-files",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Old log files that are kept.",
)
def start(
    home: Path | None,
    storage: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    federation: Path | None,
    log_format: str,
    log_file: Path | None,
    log_file_mb: float,
    log_files: int,
    **rest: Any,
) -> None:
    """Run the hub until Ctrl-C or SIGTERM.

    \b
    fedjob hub start
    fedjob hub start --host 0.0.0.0 --tls-cert hub.pem --tls-key hub.key
    fedjob hub start --storage 's3://fedjob/objects?endpoint=https://s3.example.org'
    """
    import asyncio
    import signal

    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.config.open_files import allow_open_files
    from fedjob.hub.config.tls import TlsFiles
    from fedjob.hub.supervisor import Hub, HubSettings
    from fedjob.identity.statements.federation_keys import FederationKeys

    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("expected --tls-cert and --tls-key together, found one of them")
    bucket = bucket_of(storage)
    if bucket is None and (rest["storage_direct"] or rest["bucket_login"]):
        raise SpecError("--storage-direct and --storage-credentials are for --storage s3://...")
    _log_to(log_format, log_file, int(log_file_mb * (1 << 20)), log_files)
    settings = HubSettings(
        home=_home(home),
        limits=HubLimits.load(_home(home)),
        storage=None if storage is None or bucket is not None else Path(storage),
        bucket=bucket,
        tls=None if tls_cert is None or tls_key is None else TlsFiles(tls_cert, tls_key),
        federation=None if federation is None else FederationKeys.load(federation),
        **rest,
    )

    few_files = allow_open_files()
    for warning in [*settings.check().warnings(), *filter(None, [few_files])]:
        click.echo(f"warning: {warning}", err=True)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with _starting() as say_ready:
            await Hub(settings, say_ready).run(stop)

    asyncio.run(run())


@contextmanager
def _starting() -> Iterator[Callable[[Running, Accounts], None]]:
    """Show in a terminal that the hub starts; give what takes that away and says that it is ready."""
    with ExitStack() as sign:
        if sys.stderr.isatty():
            sign.enter_context(still_going_on("starting the hub and its broker"))

        def say_ready(running: Running, accounts: Accounts) -> None:
            sign.close()
            _say_ready(running, accounts)

        yield say_ready


def _log_to(format_: str, file: Path | None, max_bytes: int, num_old: int) -> None:
    """Write the log, warnings and worse, to a file or to stderr."""
    import logging

    handler: logging.Handler = logging.StreamHandler()
    if file is not None:
        try:
            handler = RotatedFile(file, max_bytes=max_bytes, num_old=num_old)
        except OSError as error:
            raise ConfigError(f"--log-file: {file} can't be written: {error.strerror or error}") from error
    handler.setFormatter(formatter_of(format_, {}))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def bucket_of(storage: str | None) -> BucketAddress | None:
    """Return the bucket that `--storage` names; None for a folder.

    Raises:
        SpecError: it names neither.
    """
    from fedjob.hub.storage.bucket import SCHEME, BucketAddress

    if storage is None or "://" not in storage:
        return None
    if not storage.startswith(SCHEME):
        raise SpecError(
            f"--storage: expected a folder or s3://BUCKET/PREFIX, found {storage.partition('://')[0][:40]!r}://"
        )
    return BucketAddress.parse(storage)


def _open_bucket(storage: str | None, login: Path | None) -> Bucket | None:
    """Return the bucket that `--storage` names; None for a folder."""
    from fedjob.hub.storage.bucket import Bucket, BucketLogin

    address = bucket_of(storage)
    return None if address is None else Bucket(address, BucketLogin.load(login))


def _say_ready(running: Running, accounts: Accounts) -> None:
    kind = f"{running.broker_kind} {running.broker_version}".strip()
    click.echo(f"hub ready: {running.url} {running.broker_url} (broker: {kind})")
    address = urlsplit(running.url)
    if address.hostname in EVERY_ADDRESS:
        click.echo(
            "It listens on every address of this machine. Parties need a name of it: fedjob hub invite PARTY --url "
            f"{address.scheme}://NAME:{address.port}",
            err=True,
        )
    if running.broker_kind == "external":
        from fedjob.hub.broker.rabbitmq import SETTINGS_NAME

        click.echo(
            "The broker needs these users and rules; both files are kept up to date, reload it after changes:"
        )
        click.echo(f"password_file {accounts.passwords}\nacl_file {accounts.acl}")
        click.echo(
            f"A RabbitMQ asks the hub instead, by the settings in {accounts.acl.with_name(SETTINGS_NAME)}"
        )


@hub.command()
@home_option
@click.option("--limits", "with_limits", is_flag=True, help="Show every limit, too.")
@json_option
def status(home: Path | None, with_limits: bool, as_json: bool) -> None:
    """Show whether the hub runs, where, and what it stores. The exit code is 1 if it does not run.

    \b
    fedjob hub status
    fedjob hub status --limits
    """
    from dataclasses import asdict

    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.storage.parties import Parties
    from fedjob.hub.storage.rosters import RosterBook

    where = _existing(home)
    limits = HubLimits.load(where.folder)
    with _ledger(where) as ledger:
        count, num_bytes = _objects(ledger)
        facts: dict[str, Any] = {
            "home": str(where.folder),
            "federation": ledger.federation,
            "parties": _count(ledger, "SELECT count(*) FROM parties WHERE NOT revoked"),
            "jobs": _count(ledger, "SELECT count(DISTINCT job) FROM leases"),
            "objects": count,
            "size_bytes": num_bytes,
            **RosterBook(ledger).facts(Parties(ledger, limits).all()),
        }
    running = where.running()
    facts["running"] = running is not None
    if running is not None:
        facts |= {"pid": running.pid, "url": running.url, "broker_url": running.broker_url}
        facts |= {
            "broker": f"{running.broker_kind} {running.broker_version}".strip(),
            "storage": running.storage,
            "parties_show": running.guard,
        }
    if as_json:
        click.echo(json.dumps(facts | {"limits": asdict(limits)}, indent=2))
    else:
        changed = ", ".join(f"{name} = {value}" for name, value in limits.changed().items())
        facts["limits"] = changed or "the defaults (--limits shows them)"
        facts["running"] = "yes" if running is not None else "no"
        facts["objects"] = f"{count}, {size(facts.pop('size_bytes'))}"
        for name, value in facts.items():
            show_fact(name.replace("_", " "), str(value), 13)
        if with_limits:
            click.echo("\n".join(f"  {name:<26} {value}" for name, value in asdict(limits).items()))
    if running is None:
        raise click.exceptions.Exit(1)


@hub.command()
@home_option
@json_option
def doctor(home: Path | None, as_json: bool) -> None:
    """Check the hub's machine, process, ports, certificate and broker; print what to do about problems.

    \b
    fedjob hub doctor
    """
    from fedjob.doctor.findings import rows_of
    from fedjob.hub.doctor import examine

    with still_going_on("checking the hub"):
        findings = examine(_existing(home))
    show_rows(rows_of(findings), as_json)
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(1)


@hub.command()
@home_option
@click.option("--storage", help="The folder, or s3://..., that the hub was started with.")
@credentials_option
@json_option
def gc(home: Path | None, storage: str | None, bucket_login: Path | None, as_json: bool) -> None:
    """Remove the objects of jobs that expired without being ended, and files that a crash left behind.

    \b
    fedjob hub gc
    """
    from fedjob.hub.config.home import HubHome
    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.storage.objects import ObjectStore

    where = _existing(home)
    running = where.running()
    if running is not None:
        storage = running.storage
        bucket_login = bucket_login or (Path(running.storage_login) if running.storage_login else None)
    bucket = _open_bucket(storage, bucket_login)
    where = HubHome(where.folder, Path(storage) if storage and bucket is None else None)
    with still_going_on("removing what no job holds"), _ledger(where) as ledger:
        swept = ObjectStore(where.storage, ledger, HubLimits.load(where.folder), bucket=bucket).sweep()
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(swept)))
    else:
        removed = [
            f"{number} {what}{'' if number == 1 else 's'}"
            for number, what in (
                (swept.num_jobs, "job"),
                (swept.num_objects, "object"),
                (swept.num_files, "stray file"),
            )
            if number
        ]
        if removed:
            click.echo(f"removed {', '.join(removed)}: {size(swept.freed_bytes)}")
        else:
            click.echo("there was nothing to remove")


@hub.command()
@click.argument("party", type=_PARTY)
@home_option
@click.option(
    "--role",
    type=click.Choice(["node", "researcher"]),
    default="node",
    show_default=True,
    help="What the party is.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: PARTY.invitation]",
)
@click.option("--url", help="URL under which the party reaches the hub.  [default: where it runs]")
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, to travel in the invitation.  [default: that of `hub start --tls-ca`]",
)
def invite(
    party: str, home: Path | None, role: str, out: Path | None, url: str | None, tls_ca: Path | None
) -> None:
    """Write a one-time invitation for PARTY to a file, with the keys that sign the federation's roster.

    \b
    fedjob hub invite clinic-1
    fedjob hub invite alice --role researcher --url https://hub.example.org:8844
    """
    from fedjob.common.files import write_atomic
    from fedjob.common.http_client import check_http_url
    from fedjob.common.network.tls_trouble import check_authority
    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.config.tls import AUTHORITY_NAME
    from fedjob.hub.storage.parties import Parties
    from fedjob.hub.storage.rosters import RosterBook
    from fedjob.identity.membership import Invitation

    where = _existing(home)
    running = where.running()
    url = check_http_url(url or (DEFAULT_URL if running is None else running.url))
    _check_reachable(url)
    limits = HubLimits.load(where.folder)
    with _ledger(where) as ledger:
        known = {member.party: member for member in Parties(ledger, limits).all()}.get(party)
        code = Parties(ledger, limits).invite(party, role)
        pin = RosterBook(ledger).pin()
    kept = where.folder / AUTHORITY_NAME
    if tls_ca is None and url.startswith("https://") and kept.exists():
        tls_ca = kept
    if tls_ca is not None:
        check_authority(tls_ca)
    authority = "" if tls_ca is None else tls_ca.read_text(encoding="ascii")
    path = out or Path(f"{party}.invitation")
    if path.exists():
        try:
            Invitation.load(path)
        except FedjobError:
            raise ConfigError(f"{path} exists and is no invitation: name another file with --out") from None
    try:
        write_atomic(
            path, Invitation(url, party, role, code, None if pin is None else pin.keys, authority).dump()
        )
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error
    command = "fedjob node init" if role == "node" else "fedjob init"
    click.echo(
        f"{path}: good for {limits.invitation_s / 86400:.0f} days, once; its holder is {party} from then on"
    )
    if known is not None:
        now = "was revoked" if known.revoked else "is a member now"
        click.echo(
            f"note: {known.role} {party} {now}; whoever uses this invitation takes that place over, with a key of their "
            "own, and the old key and token stop working",
            err=True,
        )
    click.echo(f"there: {command} --id {party} --invite {path.name}")
    if pin is not None:
        click.echo(
            f"then: {pin.keys.signer} runs `fedjob federation sign`; the key to compare is {pin.keys.fingerprint}"
        )


def _check_reachable(url: str) -> None:
    if urlsplit(url).hostname in EVERY_ADDRESS:
        raise SpecError(
            f"{url} is no address that a party could reach, the hub listens on all of this machine's: give --url "
            f"{urlsplit(url).scheme}://NAME:{urlsplit(url).port}"
        )


@hub.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@click.option("--storage", type=click.Path(path_type=Path), help="The folder that the hub was started with.")
def hub_backup(file: Path, home: Path | None, storage: Path | None) -> None:
    """Write the hub's parties, objects and settings into FILE, while it runs or not; keep it safe.

    \b
    fedjob hub backup hub.backup
    """
    from fedjob.identity.home_backup import back_up
    from fedjob.identity.loopback import SECRET_NAME

    where = _existing(home)
    running = where.running()
    in_bucket = running is not None and "://" in running.storage
    elsewhere = Path(running.storage) if running is not None and not in_bucket else storage
    inside = where.folder / "storage"
    beside = {} if elsewhere is None or elsewhere.absolute() == inside else {"storage": elsewhere}
    leave_out = ("running.json", "hub.lock", "broker.log", SECRET_NAME, *(("storage",) if beside else ()))
    with still_going_on(f"writing {file}"):
        made = back_up(where.folder, file, role="hub", leave_out=leave_out, beside=beside)
    click.echo(f"{file}: {made.num_files} files, {size(made.size_bytes)}; its mode is 0600")
    if in_bucket:
        click.echo(
            "The objects lie in the bucket, and are not in it: give --storage to `fedjob hub restore`, too.",
            err=True,
        )


@hub.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@click.option("--storage", help="The s3://... in which the hub's objects lie.")
@credentials_option
def hub_restore(file: Path, home: Path | None, storage: str | None, bucket_login: Path | None) -> None:
    """Make a hub's home of the backup FILE; the folder must be empty, or not be there.

    \b
    fedjob hub restore hub.backup --home ~/.fedjob/hub
    """
    from fedjob.common.terminal.times import when
    from fedjob.identity.home_backup import restore

    bucket = _open_bucket(storage, bucket_login)
    if bucket is None and storage is not None:
        raise SpecError("--storage of restore is for s3://...: a folder's objects are in the backup")
    folder = _home(home)
    with still_going_on(f"reading {file}"):
        if bucket is not None:
            bucket.check()
        made = restore(folder, file, role="hub")
    with still_going_on("looking for the objects"):
        num_lost = _drop_lost_objects(folder, bucket)
    lost = f"; {num_lost} objects that it did not hold are forgotten" if num_lost else ""
    click.echo(f"{folder}: the hub as of {when(made.created)}{lost}. Next: fedjob hub start --home {folder}")


def _drop_lost_objects(folder: Path, bucket: Bucket | None) -> int:
    """Forget the objects that went between the copy of the ledger and that of the files; they are sent again."""
    from fedjob.hub.config.home import HubHome
    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.storage.objects import ObjectStore

    where = HubHome(folder)
    with _ledger(where) as ledger:
        return ObjectStore(where.storage, ledger, HubLimits(), bucket=bucket).drop_lost()


@hub.group()
def party() -> None:
    """List the parties of the federation (researchers and nodes), or revoke one."""


@party.command("list")
@home_option
@json_option
def party_list(home: Path | None, as_json: bool) -> None:
    """List all parties.

    \b
    fedjob hub party list
    fedjob hub party list --json
    """
    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.storage.parties import Parties

    with _ledger(_existing(home)) as ledger:
        members = Parties(ledger, HubLimits()).all()
    show_rows(
        [
            {
                "party": m.party,
                "role": m.role,
                "key": m.key if as_json else f"{m.key[:16]}...",
                **({"revoked": m.revoked} if as_json else {"status": "revoked" if m.revoked else "member"}),
            }
            for m in members
        ],
        as_json,
        empty="nobody has enrolled yet: fedjob hub invite PARTY",
    )


@party.command("revoke")
@click.argument("party", type=_PARTY)
@home_option
def party_revoke(party: str, home: Path | None) -> None:
    """Revoke PARTY at once: its token at the hub and its password at the broker stop working.

    \b
    fedjob hub party revoke clinic-1
    """
    from fedjob.hub.config.limits import HubLimits
    from fedjob.hub.storage.parties import Parties
    from fedjob.hub.storage.rosters import RosterBook

    with _ledger(_existing(home)) as ledger:
        Parties(ledger, HubLimits()).revoke(party)
        pin = RosterBook(ledger).pin()
    click.echo(f"revoked {party}")
    if pin is not None and party in pin.parties:
        click.echo(
            f"it stands in the roster still, so that another hub could serve it: {pin.keys.signer} takes it off with "
            f"`fedjob federation revoke {party}`",
            err=True,
        )


class _Closing:
    def __init__(self, ledger: HubDatabase) -> None:
        self._ledger = ledger

    def __enter__(self) -> HubDatabase:
        return self._ledger

    def __exit__(self, *_: object) -> None:
        self._ledger.close()


def _ledger(home: HubHome) -> _Closing:
    from fedjob.hub.storage.database import HubDatabase

    return _Closing(HubDatabase(home.ledger))


def _home(home: Path | None) -> Path:
    return home or Path(os.environ.get("FEDJOB_HOME") or "~/.fedjob/hub").expanduser()


def _existing(home: Path | None) -> HubHome:
    from fedjob.hub.config.home import HubHome

    folder = _home(home)
    if not (folder / "hub.sqlite").exists():
        raise ConfigError(
            f"expected a hub's home in {folder}, found none: run `fedjob hub start`, or give --home"
        )
    return HubHome(folder)


def _objects(ledger: HubDatabase) -> tuple[int, int]:
    count, size = ledger.read("SELECT count(*), coalesce(sum(size_bytes), 0) FROM objects")[0]
    return int(count), int(size)


def _count(ledger: HubDatabase, query: str) -> int:
    return int(ledger.read(query)[0][0])
