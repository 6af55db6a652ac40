"""The list of a node's tasks: a table in a terminal of 80 columns, and all of it in a pipe."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.terminal.tables import table_lines
from fedjob.common.types import new_job_id
from fedjob.identity.keys import Identity
from fedjob.node.cli.tasks import short_row
from fedjob.node.config.home import NodeHome
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.database import Database

NUMBERS = ("epoch", "attempt", "seq", "deaths", "acknowledged")
TEXTS = (
    "reply_to",
    "message",
    "after_stop",
    "ends",
    "detail",
    "reply",
    "project",
    "child",
    "inputs",
    "waits",
)
LIST = ("node", "tasks", "--home")


def a_node_with_tasks(root: Path) -> NodeHome:
    """Return the home of a node that has computed three tasks, two of which failed."""
    home = NodeHome(root / "hospital")
    home.create()
    Identity.load_or_create(home.keys, "hospital")
    database = Database(home.database)
    parent = hashlib.sha256(b"0").hexdigest()
    ended = [("completed", ""), ("failed", "limits_exceeded"), ("failed", "missing_packages")]
    for number, (state, reason) in enumerate(ended):
        row: dict[str, Any] = dict.fromkeys(NUMBERS, 0) | dict.fromkeys(TEXTS, "")
        row |= {
            "task_order": b"",
            "result": b"",
            "resources": b"",
            "researcher_key": "",
            "worker": 3 + number,
        }
        row |= {"key": hashlib.sha256(str(number).encode()).hexdigest(), "parent": parent if number else ""}
        row |= {"job": new_job_id(), "job_name": "digits" if number else "", "researcher": "alice"}
        row |= {"dataset": "ward-records", "round": 10 + number, "step": "train", "state": state}
        row |= {"reason": reason, "accepted": time.time() + number, "ended": time.time() + number + 0.42}
        columns = ", ".join(row)
        with database.transaction():
            database.execute(
                f"INSERT INTO tasks ({columns}) VALUES ({', '.join(':' + name for name in row)})", row
            )
    database.close()
    return home


def listed(home: NodeHome) -> list[dict[str, Any]]:
    database = Database(home.database)
    found = TaskStore(database).list_tasks()
    database.close()
    return found


def test_the_list_of_tasks_is_a_table_in_a_terminal_of_80_columns(tmp_path: Path) -> None:
    tasks = listed(a_node_with_tasks(tmp_path))
    rows = [short_row(task) for task in tasks]
    lines = table_lines(tuple(rows[0]), [tuple(row.values()) for row in rows], width=80)
    assert lines[0].split() == ["task", "job", "dataset", "state", "accepted"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith(tuple(t["key"][:12] for t in tasks))] == [
        task["key"][:12] for task in tasks
    ]
    text = "\n".join(lines)
    assert "missing_packages" in text
    assert "limits_exceeded" in text
    assert "digits of alice, round 12" in " ".join(rows[0].values())
    assert tasks[-1]["job"][:12] in text  # a job without a name


def test_a_wide_list_and_a_pipe_have_whole_ids_and_the_rest(tmp_path: Path) -> None:
    home = a_node_with_tasks(tmp_path)
    piped = CliRunner().invoke(cli, [*LIST, str(home.root)])
    wide = CliRunner().invoke(cli, [*LIST, str(home.root), "--wide"])
    assert piped.exit_code == 0, piped.output
    assert piped.output == wide.output
    header, *lines = piped.output.splitlines()
    assert header.split() == [
        *("task", "job", "name", "round", "step", "dataset", "researcher"),
        *("state", "reason", "worker", "parent", "accepted", "took"),
    ]
    for line, task in zip(lines, listed(home), strict=True):
        for name in ("key", "job", "step", "reason", "parent"):
            assert task[name] in line
        assert "0.42 s" in line or "0.41 s" in line


def test_json_has_every_task_whole(tmp_path: Path) -> None:
    home = a_node_with_tasks(tmp_path)
    shown = json.loads(CliRunner().invoke(cli, [*LIST, str(home.root), "--json"]).output)
    assert [task["key"] for task in shown] == [task["key"] for task in listed(home)]
    assert {len(task["key"]) for task in shown} == {64}


def test_a_node_without_tasks_says_so_in_either_form(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "hospital")
    home.create()
    Identity.load_or_create(home.keys, "hospital")
    for words in ((), ("--wide",), ("--state", "failed")):
        shown = CliRunner().invoke(cli, [*LIST, str(home.root), *words])
        assert (shown.exit_code, shown.output) == (0, "no tasks yet\n")
