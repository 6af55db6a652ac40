"""A trial of one kind of sandbox, in a process of its own: is it closed, and does it hold?

    python -P -m fedjob.node.sandbox.trial KIND

It ends with 0 if the sandbox holds; else the last line of its standard error says why not.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from fedjob.node.sandbox.closing import close_sandbox
from fedjob.node.sandbox.enclosure import NAMESPACES, Enclosure
from fedjob.node.sandbox.namespaces import enter_server_namespaces, fork_first_process
from fedjob.node.sandbox.system_files import system_paths


def main(kind: str) -> int:
    """Close a sandbox of that kind around a child process, and try to read a file that it must not see."""
    with tempfile.TemporaryDirectory(prefix="fedjob-sandbox-") as home:
        folder = Path(home, "worker")
        for inside in ("inbox", "root", "work"):
            (folder / inside).mkdir(parents=True)
        secret = Path(home, "secret")
        secret.write_text("of the node")
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            problem = _problem(kind, Enclosure(kind=kind, folder=str(folder), hidden=home), secret)
        except (OSError, KeyError) as error:
            problem = str(error)
        if problem:
            os.write(2, f"{problem}\n".encode())
        os._exit(1 if problem else 0)


def _problem(kind: str, enclosure: Enclosure, secret: Path) -> str:
    """Return why a sandbox of that kind does not hold; empty where it does."""
    if kind == NAMESPACES:
        enter_server_namespaces()
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        pid = fork_first_process(own)
        if pid:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    close_sandbox(enclosure, system_paths(enclosure.hidden), ())
    try:
        secret.read_bytes()
    except OSError:
        return ""
    return "it was closed, and a file of the node could be read all the same"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
