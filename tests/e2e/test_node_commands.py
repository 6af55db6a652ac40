"""`fedjob node`, typed by an owner."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import requests

from tests.processes import Processes, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Processes, str]]:
    folder = tmp_path_factory.mktemp("commands")
    with Processes(folder / "logs") as processes:
        hub = processes.start(
            "fedjob", "hub", "start", "--home", folder / "hub", "--port", "0", "--mqtt-port", "0"
        )
        yield processes, hub.wait_for(r"hub ready: (\S+)").group(1)


class Owner:
    """Types `fedjob node ...` with a home."""

    def __init__(self, processes: Processes, home: Path) -> None:
        self.processes = processes
        self.home = home

    def types(self, *words: str | Path, expect: int = 0) -> str:
        done = self.processes.run("fedjob", "node", *words, "--home", self.home, expect=expect)
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stderr


@pytest.fixture(scope="module")
def owner(shared: tuple[Processes, str], tmp_path_factory: pytest.TempPathFactory) -> Owner:
    made = Owner(shared[0], tmp_path_factory.mktemp("owner") / "home")
    made.types("init", "--id", "clinic", "--hub", shared[1])
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("age,sex\n63,m\n41,f\n56,f\n")
    return path


def test_init_again_is_harmless_and_another_id_is_refused(
    shared: tuple[Processes, str], owner: Owner
) -> None:
    owner.types("init", "--id", "clinic", "--hub", shared[1])
    assert "another --home" in owner.types("init", "--id", "other", "--hub", shared[1], expect=1)
    assert "--hub URL, or --invite FILE" in owner.types("init", "--id", "clinic", expect=1)


def test_the_owner_sees_how_a_table_was_read(owner: Owner, tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes("Größe;krank\n1,75;0\n1,8;1\n;;\n".encode("cp1252"))
    done = owner.processes.run("fedjob", "node", "data", "add", "export", path, "--home", owner.home)
    assert "dataset export: 2 rows, 2 columns" in done.stdout
    assert "columns: Größe float, krank int" in done.stdout
    assert "note: read with encoding=cp1252 separator=semicolon decimal=comma" in done.stderr
    assert "note: 1 row without any value at the end is left out" in done.stderr
    refused = owner.types("data", "add", "other", path, "--option", "separator=comma", expect=1)
    assert "a comma does not divide its rows alike" in refused
    assert "give --option separator=semicolon" in refused
    path.write_text("a,b\n")
    assert "export.csv has no rows" in owner.types("data", "add", "empty", path, expect=1)
    owner.types("data", "remove", "export")


@pytest.mark.parametrize(("package", "name"), [("pandas", "t.csv"), ("pyarrow", "t.parquet")])
def test_without_the_packages_of_a_reader_one_line_says_what_to_install(
    package: str, name: str, owner: Owner, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("a,b\n1,2\n")
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('none', name={package!r})\n")
    command = ("fedjob", "node", "data", "add", "lacking", tmp_path / name, "--home", owner.home)
    done = owner.processes.run(*command, env={"PYTHONPATH": str(tmp_path)}, expect=None)
    assert done.returncode != 0
    assert done.stderr == (
        f"fedjob: reader {name[2:]} needs the package {package}, which is not installed here: pip install 'fedjob[training]'\n"
    )


def test_what_is_said_of_a_dataset_is_changed_in_place(owner: Owner, table: Path) -> None:
    owner.types("data", "add", "words", table, "--tags", "a", "--min-rows", "2")
    (before,) = (d for d in json.loads(owner.types("data", "list", "--json")) if d["name"] == "words")
    said = owner.types(
        "data", "set", "words", "--tags", "b, c", "--min-rows", "3", "--contact", "Ann, DPO, 12"
    )
    assert "tags = ['b', 'c'], min_rows = 3" in said
    (after,) = (d for d in json.loads(owner.types("data", "list", "--json")) if d["name"] == "words")
    assert (after["tags"], after["min_rows"], after["contacts"][0]["name"]) == (["b", "c"], 3, "Ann")
    assert (after["version"], after["added"]) == (before["version"], before["added"])
    assert "fewer" in owner.types("data", "set", "words", "--min-rows", "4", expect=1)
    assert "expected something to change" in owner.types("data", "set", "words", expect=1)
    assert "there is no dataset 'wrods'; did you mean 'words'?" in owner.types(
        "data", "set", "wrods", "--tags", "x", expect=1
    )
    owner.types("data", "remove", "words")


def test_data_are_added_listed_shown_and_removed(owner: Owner, table: Path) -> None:
    said = owner.types("data", "add", "people", table, "--tags", "a,b", "--min-rows", "2")
    assert "3 rows, 2 columns" in said
    (listed,) = json.loads(owner.types("data", "list", "--json"))
    assert (listed["name"], listed["tags"], listed["min_rows"]) == ("people", ["a", "b"], 2)
    assert [c["name"] for c in listed["columns"]] == ["age", "sex"]
    shown = owner.types("data", "show", "people")
    assert "age" in shown
    assert "table.csv" in shown
    assert "already" in owner.types("data", "add", "people", table, expect=1)
    assert "did you mean 'people'" in owner.types("data", "show", "peeple", expect=1)
    owner.types("data", "remove", "people")
    assert json.loads(owner.types("data", "list", "--json")) == []


def test_data_that_can_not_be_offered_are_refused_with_what_to_do(owner: Owner, table: Path) -> None:
    numpy.savez(table.with_name("mock.npz"), x=numpy.zeros(3))
    other = table.with_name("mock.csv")
    other.write_text("age,weight\n1,2\n")
    add = ("data", "add", "people", table)
    assert "No such file" in owner.types("data", "add", "people", table.with_name("none.csv"), expect=1)
    assert "fewer than --min-rows" in owner.types(*add, "--min-rows", "9", expect=1)
    assert "KEY=VALUE" in owner.types(*add, "--option", "header", expect=1)
    assert "there is no reader" in owner.types(*add, "--reader", "cvs", expect=1)
    assert "a tag has" in owner.types(*add, "--tags", "a b", expect=1)
    assert json.loads(owner.types("data", "list", "--json")) == []
    owner.types(*add, "--mock", other)  # its form may differ: the owner is warned
    owner.types("data", "remove", "people")


def test_settings_are_checked_and_kept(owner: Owner) -> None:
    owner.types("config", "set", "threads", "3")
    assert owner.types("config", "get", "threads").strip() == "3"
    assert json.loads(owner.types("config", "show", "--json"))["threads"] == 3
    assert "did you mean 'threads'" in owner.types("config", "set", "thread", "3", expect=1)
    assert "1 or more" in owner.types("config", "set", "job_workers", "0", expect=1)
    assert "there is no setting" in owner.types("config", "get", "thread", expect=1)


def test_a_node_starts_in_the_background_says_how_it_is_and_stops(owner: Owner) -> None:
    assert "node ready: clinic" in owner.types("start", "--detach")
    try:
        assert "already" in owner.types("start", expect=1)
        assert "already" in owner.types("start", "--detach", expect=1)
        wait_until(
            lambda: json.loads(owner.types("status", "--json"))["connected"],
            timeout_s=30,
            what="the connection",
        )
        status = json.loads(owner.types("status", "--json"))
        assert (status["running"], status["approval"], status["queue"]) == (True, "on", {})
        assert "approval  on" in owner.types("status")
        owner.types("config", "set", "approval", "off")
        assert "without its owner's approval" in owner.types("status")
        with (owner.home / "config.toml").open("a", encoding="utf-8") as file:
            file.write('verifier_options = "issuer"\n')  # by hand: the command would refuse it
        wait_until(
            lambda: json.loads(owner.types("status", "--json"))["settings_faults"],
            timeout_s=10,
            what="the daemon to see that its settings can't be read",
        )
        assert owner.types("config", "get", "approval").strip() == "on"
        assert "NOT READABLE" in owner.types("status")
        assert "the strictest hold" in (owner.home / "logs" / "node.log").read_text(encoding="utf-8")
        assert "nothing is changed" in owner.types("config", "set", "approval", "off", expect=1)
        owner.types("config", "unset", "verifier_options")
        assert owner.types("config", "get", "approval").strip() == "off"
    finally:
        assert "node stopped" in owner.types("stop")
        owner.types("config", "set", "approval", "on")
    assert "no node runs" in owner.types("stop")
    assert json.loads(owner.types("status", "--json"))["running"] is False


def test_the_lock_of_a_killed_daemon_does_not_count_and_ctrl_c_ends_one_politely(owner: Owner) -> None:
    command = ("fedjob", "node", "start", "--home", owner.home)
    first = owner.processes.start(*command, ready="node ready: clinic")
    first.kill()
    second = owner.processes.start(*command, ready="node ready: clinic")
    os.kill(second.pid, signal.SIGINT)
    assert second.wait(timeout_s=30) == 0
    assert "Traceback" not in second.log()


def test_a_node_logs_lines_of_json_into_a_file_that_may_be_moved_away_and_serves_its_health(
    owner: Owner, free_port: Callable[[], int]
) -> None:
    port = free_port()
    owner.types("config", "set", "metrics_port", str(port))
    assert "65535" in owner.types("config", "set", "metrics_port", "70000", expect=1)
    log = owner.home / "logs" / "node.log"
    log.unlink(missing_ok=True)
    command = ("fedjob", "node", "start", "--log-format", "json", "--home", owner.home)
    node = owner.processes.start(*command, ready="node ready: clinic")
    try:

        def health() -> int:
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code

        wait_until(lambda: health() == 200, timeout_s=30, what="a healthy node")
        assert (
            "fedjob_node_connected 1.0" in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        )
        log.rename(owner.home / "logs" / "node.log.moved")
        with (owner.home / "config.toml").open("a", encoding="utf-8") as file:
            file.write('verifier_options = "issuer"\n')
        wait_until(log.exists, timeout_s=30, what="a log that is begun anew")
        wait_until(lambda: health() == 503, timeout_s=30, what="a failing check")
    finally:
        owner.types("config", "unset", "verifier_options")
        owner.types("config", "unset", "metrics_port")
        node.stop()
    moved = [json.loads(line) for line in (owner.home / "logs" / "node.log.moved").read_text().splitlines()]
    written = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["node"] for line in (*moved, *written)} == {"clinic"}
    assert any(line["message"].startswith("connected to the broker") for line in moved)
    assert any("the strictest hold" in line["message"] for line in written)
    printed = [line for line in node.log().splitlines() if line.startswith("{")]
    assert {json.loads(line)["message"] for line in printed} >= {line["message"] for line in written}


def test_empty_lists_are_empty_json_and_unknown_ids_are_named(owner: Owner) -> None:
    assert json.loads(owner.types("grants", "list", "--json")) == []
    assert json.loads(owner.types("tasks", "--json")) == []
    for words in (("show",), ("approve",)):
        assert "there is no grant 'abc'" in owner.types("grants", *words, "abc", expect=1)
    assert "not a node's home" in Owner(owner.processes, owner.home / "nothing").types("tasks", expect=1)
