"""The command `fedjob node audit`, which shows, verifies and exports the log of grants and tasks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import json_option, print_json, table
from fedjob.common.errors import AuditBroken, ConfigError
from fedjob.common.files import by_users_umask, write_atomic
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.times import when
from fedjob.common.types import check_given
from fedjob.node.cli.home import home_option, open_database

if TYPE_CHECKING:
    from fedjob.identity.audit_heads import HeldHead
    from fedjob.node.config.home import NodeHome
    from fedjob.node.storage.audit import AuditRecord


_FIELDS = ("seq", "time", "kind", "subject", "status", "researcher", "dataset", "use", "plan", "job", "by")


@click.group(invoke_without_command=True)
@home_option
@click.option("--last", default=50, show_default=True, metavar="N", help="Number of newest records to show.")
@json_option
@click.pass_context
def audit(context: click.Context, home: NodeHome, last: int, as_json: bool) -> None:
    """Show the audit log: one record for each change of a grant, task, dataset or setting."""

    from fedjob.node.owner.audit_words import summary_of
    from fedjob.node.storage.audit import Audit

    context.obj = home
    if context.invoked_subcommand is not None:
        return
    with open_database(home) as database:
        chain = Audit(database)
        seq, _ = chain.head()
        found = list(chain.records(max(0, seq - last)))
    if as_json:
        print_json([record.to_plain() for record in found])
        return
    table(
        ("seq", "when", "kind", "subject", "what"),
        [(str(r.seq), when(r.at), r.kind, r.subject[:12], summary_of(json.loads(r.body))) for r in found],
        empty="there are no records yet",
    )


def _home_of(context: click.Context, home: NodeHome) -> NodeHome:
    """Return the home that a subcommand is for: `--home` may stand before it or behind it."""
    source = context.get_parameter_source("home")
    return home if source is click.core.ParameterSource.COMMANDLINE else context.obj


@audit.command()
@home_option
@click.option(
    "--against",
    multiple=True,
    metavar="FILE|HASH",
    help="Heads that somebody else holds, as `fedjob verify --heads` writes them, or the hash of a record.",
)
@click.option(
    "--chain",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Verify the records in a file that `audit export` wrote, instead of those of this home.",
)
@json_option
@click.pass_context
def verify(
    context: click.Context, home: NodeHome, against: tuple[str, ...], chain: Path | None, as_json: bool
) -> None:
    """Recompute the chain of hashes; the exit code is 1 if it is broken, or does not fit the heads that others hold.

    \b
    fedjob node audit verify
    fedjob node audit verify --against heads.jsonl
    """

    from fedjob.node.storage.audit import Audit, check_chain

    home = _home_of(context, home)
    held, hashes = _held(against)
    with open_database(home) as database, still_going_on("verifying the audit log"):
        heads = [head for head in held if head.is_signed and _is_own(home, head)]
        if chain is None:
            num_records = Audit(database).verify(heads=heads, hashes=hashes)
            newest = Audit(database).head()[1]
        else:
            num_records, newest = check_chain(_read_export(chain), heads=heads, hashes=hashes)
    others = len(held) - len(heads)
    if as_json:
        print_json({"verified": num_records, "head": newest, "held": len(heads), "not_of_this_node": others})
        return
    fits = f"; it fits to {len(heads)} heads that others hold" if heads else ""
    click.echo(f"{num_records} records, unbroken; head {newest}{fits}")
    if others:
        click.echo(
            f"{others} heads in these files are not signed by this node's key: they prove nothing about it"
        )


@audit.command()
@home_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@click.pass_context
def export(context: click.Context, home: NodeHome, file: Path, force: bool) -> None:
    """Verify the chain and write all records to FILE: .csv for a spreadsheet, else JSON lines.

    \b
    fedjob node audit export audit.csv
    fedjob node audit export audit.jsonl --force
    """

    from fedjob.node.storage.audit import Audit

    with open_database(_home_of(context, home)) as database:
        chain = Audit(database)
        with still_going_on("verifying the audit log"):
            num_records = chain.verify()
        if file.exists() and not force:
            raise ConfigError(f"{file} exists already: choose another name, or --force to replace it")
        with by_users_umask(), still_going_on(f"writing {file}"):
            write_atomic(file, _exported(chain.records(), file.suffix == ".csv"), mode=0o666)
        click.echo(f"{num_records} records, unbroken, written to {file}; head {chain.head()[1]}")


def _held(against: tuple[str, ...]) -> tuple[list[HeldHead], list[str]]:
    """Return the heads in files, and the hashes, that were given."""

    from fedjob.identity.audit_heads import read_held_head
    from fedjob.node.storage.audit import check_head_hash

    heads: list[HeldHead] = []
    hashes: list[str] = []
    for given in against:
        text = check_given(given, "a head that was noted before, or a file of heads")
        path = Path(text)
        if not path.is_file():
            if "/" in text or path.suffix:
                raise ConfigError(f"there is no file {text}: `fedjob verify JOB --heads FILE` writes one")
            hashes.append(check_head_hash(text))
            continue
        with path.open("rb") as lines:
            heads += [read_held_head(line) for line in lines if line.strip()]
    return heads, hashes


def _is_own(home: NodeHome, head: HeldHead) -> bool:
    from fedjob.identity.keys import Identity

    own = Identity.load_or_create(home.keys)
    return (head.node, head.key) == (own.party, own.public_key_hex)


def _read_export(path: Path) -> Iterator[AuditRecord]:
    from fedjob.node.storage.audit import record_of

    try:
        with path.open("rb") as lines:
            for line in lines:
                yield record_of(json.loads(line))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}: `fedjob node audit export FILE` writes one") from error
    except (OSError, ValueError) as error:
        raise AuditBroken(f"{path} can't be read as an exported audit log: {error}") from error


def _exported(records: Iterable[AuditRecord], as_csv: bool) -> bytes:
    if not as_csv:
        return "".join(json.dumps(record.to_plain()) + "\n" for record in records).encode()
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow((*_FIELDS, "body", "hash"))
    for record in records:
        body = json.loads(record.body)
        known = {
            "seq": record.seq,
            "time": datetime.fromtimestamp(record.at, UTC).isoformat(),
            "kind": record.kind,
            "subject": record.subject,
            "status": body.get("status") or body.get("state") or "",
            "by": body.get("decided_by") or body.get("by") or "",
        }
        cells = [known.get(name, body.get(name, "")) for name in _FIELDS]
        rows.writerow([_cell(cell) for cell in (*cells, record.body, record.hash)])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Return a cell that no spreadsheet runs as a formula, because researchers choose some texts."""
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
