"""The command `fedjob node audit`, which shows, verifies and exports the log of grants and tasks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fedjob.common.console import json_option, print_json, table, when
from fedjob.common.errors import ConfigError
from fedjob.common.files import by_users_umask, write_atomic
from fedjob.common.types import check_given
from fedjob.node.cli.home import home_option, open_database
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.audit import Audit, AuditRecord

_FIELDS = ("seq", "time", "kind", "subject", "status", "researcher", "dataset", "use", "plan", "job", "by")


@click.command()
@home_option
@click.option(
    "--verify", is_flag=True, help="Recompute the chain of hashes; the exit code is 1 if it is broken."
)
@click.option("--head", metavar="HASH", help="A head that you noted before, which the chain must contain.")
@click.option(
    "--export",
    "export",
    type=click.Path(path_type=Path),
    help="Write all records to a file: .csv, else JSON lines.",
)
@click.option("--force", is_flag=True, help="With --export: replace the file that is there.")
@click.option("--last", default=50, show_default=True, metavar="N", help="Number of newest records to show.")
@json_option
def audit(
    home: NodeHome,
    verify: bool,
    head: str | None,
    export: Path | None,
    force: bool,
    last: int,
    as_json: bool,
) -> None:
    """Show the audit log: one record for each change of a grant or of a task."""
    with open_database(home) as database:
        chain = Audit(database)
        if verify or head is not None or export is not None:
            num_records = chain.verify(
                "" if head is None else check_given(head, "a head that was noted before")
            )
            newest = chain.head()[1]
            if export is not None:
                if export.exists() and not force:
                    raise ConfigError(
                        f"{export} exists already: choose another name, or --force to replace it"
                    )
                with by_users_umask():
                    write_atomic(export, _exported(chain.records(), export.suffix == ".csv"), mode=0o666)
            if as_json:
                print_json({"verified": num_records, "head": newest})
                return
            where = f", written to {export}" if export is not None else ""
            click.echo(f"{num_records} records, unbroken{where}; head {newest}")
            return
        seq, _ = chain.head()
        found = list(chain.records(max(0, seq - last)))
    if as_json:
        print_json([record.to_plain() for record in found])
        return
    table(
        ("seq", "when", "kind", "subject", "what"),
        [(str(r.seq), when(r.at), r.kind, r.subject[:12], _summary(json.loads(r.body))) for r in found],
        empty="there are no records yet",
    )


def _summary(body: dict[str, Any]) -> str:
    status = body.get("status") or body.get("state") or ""
    reason = body.get("reason") or ""
    words = [str(body.get(name) or "") for name in ("researcher", "entry", "step", "dataset", "use", "job")]
    by = body.get("decided_by") or body.get("by") or ""
    first = f"{status} ({reason})" if reason else status
    return " ".join(filter(None, [first, *words, f"by {by}" if by else ""]))


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
