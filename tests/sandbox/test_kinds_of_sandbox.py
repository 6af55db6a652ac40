"""The kinds of sandbox, closed around real processes: what is seen from inside, and what is found where they are forbidden."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedjob.node.sandbox.enclosure import LANDLOCK, NAMESPACES
from fedjob.node.sandbox.support import REFUSED, find_support
from tests.parts import forbidden

# a process that closes a sandbox around its child, which then tries what is asked for
INSIDE = """
import json, os, socket, sys
from pathlib import Path
kind, folder, home, data, secret = sys.argv[1:]
from fedjob.node.sandbox.closing import close_sandbox
from fedjob.node.sandbox.enclosure import Enclosure
from fedjob.node.sandbox.namespaces import enter_server_namespaces, fork_first_process
from fedjob.node.sandbox.system_files import system_paths
enclosure = Enclosure(kind=kind, folder=folder, hidden=home, data=(data,), work_bytes=1 << 20, processes=64)
if kind == "namespaces":
    enter_server_namespaces()
    pid = fork_first_process(os.open("/proc/self/ns/pid", os.O_RDONLY))
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.environ["OWNERS_PASSWORD"] = "1234"
output = close_sandbox(enclosure, system_paths(home), ())
def fill():
    with open(enclosure.work + "/output/large", "wb") as file:
        for _ in range(4):
            file.write(bytes(1 << 20))
def count():
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    return len(names)
def tried(action):
    try:
        return repr(action())[:200]
    except BaseException as error:
        return "! " + type(error).__name__
print(json.dumps({
    "data": tried(lambda: Path(data).read_text()),
    "change the data": tried(lambda: Path(data).write_text("x")),
    "key": tried(lambda: Path(secret).read_text()),
    "home": tried(lambda: os.listdir(home)),
    "listed": tried(lambda: os.listdir(Path(data).parent)),
    "shadow": tried(lambda: Path("/etc/shadow").read_bytes()),
    "write": tried(lambda: Path(enclosure.work, "output", "x").write_text("x")),
    "usr": tried(lambda: Path("/usr/x").write_text("x")),
    "tcp": tried(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "udp": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "environment": tried(lambda: "OWNERS_PASSWORD" in os.environ),
    "parent": tried(lambda: os.kill(os.getppid() or -1, 0)),
    "processes": tried(count),
    "descriptors": tried(lambda: sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1]),
    "large": tried(fill) if kind == "namespaces" else "",
}))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "keys").mkdir(parents=True)
    (tmp_path / "home" / "keys" / "ed25519").write_text("of the node")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patients.csv").write_text("age\n50\n")
    (tmp_path / "data" / "others.csv").write_text("age\n51\n")
    for name in ("inbox", "root", "work"):
        (tmp_path / "home" / "scratch" / "worker_1-1" / name).mkdir(parents=True)
    return tmp_path / "home"


def inside(kind: str, home: Path, data: Path, *before: str) -> dict[str, Any]:
    """Close a sandbox around a process, and return what it found."""
    folder, secret = home / "scratch" / "worker_1-1", home / "keys" / "ed25519"
    words = [*before, sys.executable, "-P", "-c", INSIDE, kind, *map(str, (folder, home, data, secret))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", [NAMESPACES, LANDLOCK])
def test_a_worker_sees_its_dataset_and_nothing_of_the_node(kind: str, home: Path) -> None:
    if kind not in (find_support().kind, find_support((kind,)).kind):
        forbidden("sandbox of this kind")
    found = inside(kind, home, home.parent / "data" / "patients.csv")
    assert found["data"] == repr("age\n50\n")
    refused = ("change the data", "key", "home", "shadow", "usr", "tcp", "udp")
    assert {name: found[name] for name in refused if not found[name].startswith("!")} == {}
    assert found["environment"] == "False"
    assert found["write"] == "1"
    if kind == NAMESPACES:
        assert found["listed"] == "['patients.csv']", "the folder's other files are not there"
        assert found["processes"] == "1"
        assert found["large"] == "! OSError", "what it may write is limited"
    else:
        assert found["listed"].startswith("!")
        assert found["parent"] == "! PermissionError"


def test_data_around_the_nodes_home_do_not_show_the_home(home: Path) -> None:
    """Even an owner who registers the folder that the home lies in shows no key."""
    if find_support().kind != NAMESPACES:
        forbidden("sandbox of this kind")
    found = inside(NAMESPACES, home, home.parent)
    assert found["key"].startswith("!")
    assert found["home"] == "[]"


def test_landlock_is_not_closed_where_the_data_hold_the_nodes_home(home: Path) -> None:
    if find_support((LANDLOCK,)).kind != LANDLOCK:
        forbidden("Landlock")
    with pytest.raises(AssertionError, match="the node's home lies in"):
        inside(LANDLOCK, home, home.parent)


def test_where_namespaces_are_forbidden_landlock_is_found_and_holds(home: Path) -> None:
    if shutil.which("unshare") is None or find_support((LANDLOCK,)).kind != LANDLOCK:
        forbidden("sandbox of this kind")
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "forbidden"]
    ask = "from fedjob.node.sandbox.support import find_support; s = find_support(); print(s.kind, dict(s.problems))"
    done = subprocess.run(
        [*words, sys.executable, "-P", "-c", ask],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    if done.returncode:
        forbidden("sandbox of this kind")
    assert done.stdout.startswith("landlock {'namespaces': "), done.stdout
    found = inside(LANDLOCK, home, home.parent / "data" / "patients.csv", *words)
    assert found["data"] == repr("age\n50\n")
    assert found["key"].startswith("!")
    assert found["tcp"].startswith("!")


def test_where_nothing_can_be_closed_it_is_refused_and_said_why() -> None:
    found = find_support(())
    assert found.kind == REFUSED
    assert found.in_force("on") == REFUSED
    assert found.in_force("none") == "none"
    assert "fedjob node config set sandbox none" in found.advice
    assert "docs/sandbox.md" in found.advice


def test_a_kind_that_does_not_exist_is_a_problem_and_no_crash() -> None:
    found = find_support(("walls",))
    assert (found.kind, set(found.problems)) == (REFUSED, {"walls"})
    assert os.getpid()
