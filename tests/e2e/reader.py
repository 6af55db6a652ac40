"""A reader of the pages: their home, with a federation on the same machine, and what they type."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy

from tests import preloaded
from tests.e2e.federation import Federation, Node
from tests.pages import ROOT, Block, blocks
from tests.processes import end_processes_of

BLOCK_TIMEOUT_S = 120.0
HOSPITALS = ("cleveland", "hungarian", "va")
OWN = "cleveland"
"""The node whose owner types `fedjob node ...`."""
PRINTED_HUB = "http://127.0.0.1:8844"
"""Where a hub listens unless it is told otherwise; that of a test has another port."""
REQUESTS = """
import fedjob
from fedjob import Job

@fedjob.function
def {name}(dataset):
    return dataset.num_rows

job = Job({name}, data="cleveland/heart")
if __name__ == "__main__":
    job.run()
"""
BIN = Path(sys.executable).parent


def start_hospitals(federation: Federation) -> None:
    """Start the three hospitals of the pages, with the datasets that the pages name."""
    for index, node in enumerate(federation.add_nodes(*HOSPITALS)):
        about = make_data(federation.folder / f"data of {node.name}", index)
        node.add("heart", about / "heart.csv", "heart", mock=about / "mock.csv")
        node.add("scans", about / "scans", "scans", reader="files")
        node.add("registry", about / "registry.csv", "registry")
        node.add("letters", about / "letters.csv", "letters")
    federation.start_nodes()


def make_data(folder: Path, index: int) -> Path:
    """Make up the data of one hospital: tables of hearts, patients and letters, and a folder of scans."""
    rng = numpy.random.default_rng(index)
    folder.mkdir(parents=True)
    for name, num_rows in (("heart.csv", 60 + 10 * index), ("mock.csv", 20)):
        write_hearts(folder / name, num_rows, rng)
    patients = "".join(f"P-{number:04d},{50 + number % 30}\n" for number in range(5 * index, 5 * index + 20))
    (folder / "registry.csv").write_text(f"patient_id,age\n{patients}")
    (folder / "letters.csv").write_text('letter,year\n"a mild case, a good outcome",2020\n"a case",2021\n')
    (folder / "scans").mkdir()
    for number in range(20):
        (folder / "scans" / f"scan-{number:02d}.bin").write_bytes(bytes(100 + number))
    return folder


def write_hearts(path: Path, num_rows: int, rng: numpy.random.Generator) -> None:
    """Write made-up rows with the columns of the heart disease data of the UCI repository."""
    lines = ["age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"]
    for _ in range(num_rows):
        age, sex, pain = rng.integers(30, 78), rng.integers(2), rng.integers(1, 5)
        risk = (age - 54) / 9 + sex + (pain == 4) + rng.normal()
        exang = int(rng.random() < 1 / (1 + numpy.exp(0.8 - risk)))
        num = min(4, max(0, int(risk + 0.5 * exang)))
        chol = "?" if rng.random() < 0.05 else str(rng.integers(150, 400))
        lines.append(
            f"{age},{sex},{pain},{rng.integers(100, 180)},{chol},{rng.integers(2)},{rng.integers(3)},"
            f"{rng.integers(90, 200)},{exang},{rng.integers(40) / 10},{rng.integers(1, 4)},{rng.integers(4)},"
            f"{(3, 6, 7)[rng.integers(3)]},{num}"
        )
    path.write_text("\n".join(lines).replace("?", "") + "\n")


class Reader:
    """Somebody who types the blocks of a page, one after another, in one folder.

    Their home folder holds the researcher's home, the node's and the hub's, where fedjob looks for them.

    Args:
        federation: that they are part of.
        folder: empty, to work in.
    """

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation = federation
        self.folder = folder
        self.home = federation.folder / "home"
        self._script: Script | None = None
        self._made_nodes = False
        if not self.home.exists():
            homes = self.home / ".fedjob"
            homes.mkdir(parents=True)
            (homes / "node").symlink_to(federation.folder / OWN)
            (homes / "hub").symlink_to(federation.folder / "hub")
            self.fedjob("init", "--id", "lab", "--hub", federation.url)
            self.fedjob("init", "--id", "bob", "--hub", federation.url, "--home", str(self.home / "bob"))
            self.save("first.py", REQUESTS.format(name="first"))  # so that a page finds a task and a job
            self._checked(
                preloaded.run([str(folder / "first.py")], env=self.environment, cwd=folder, timeout_s=60)
            )
        for block in blocks(ROOT / "docs" / "plans.md"):
            if block.file == "heart.py":
                self.save("heart.py", block.text)
        hearts = (federation.folder / f"data of {OWN}" / "heart.csv").read_text()
        (folder / "heart.csv").write_text(hearts)
        (folder / "processed.va.data").write_text(hearts.partition("\n")[2])
        (folder / "password.txt").write_text("open sesame\n")

    @property
    def node(self) -> Node:
        return self.federation.nodes[OWN]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDJOB_")}
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**kept, "HOME": str(self.home), "PATH": path, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}

    def said(self) -> str:
        """Return what the page's Python has printed so far."""
        return self._script.said() if self._script is not None else ""

    def save(self, name: str, text: str) -> None:
        """Save a block as a file, as its fence says."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: it did not go as printed.
        """
        __tracebackhide__ = True
        if block.excerpt is None and block.file:
            self.save(block.file, block.text)
        elif block.runs and block.language == "python":
            self._script = self._script or Script(self.folder, self.environment)
            self._script.run(block)
        elif block.runs:
            self.type(block)

    def type(self, block: Block) -> None:
        """Type the commands of a block: those of fedjob alone, one by one, anything else into a shell."""
        __tracebackhide__ = True
        lines = block.commands()
        self._made_nodes = self._made_nodes or "fedjob node init" in block.text
        if any(line.startswith("fedjob node grants") and " ID" in line for line in lines):
            self.have_two_requests()
        if not all(re.match(r"fedjob\s[^|;&<>$`]*$", line) for line in lines):
            self._check(
                block,
                subprocess.run(
                    ["bash", "-euc", self._filled_in_text(block.text)],
                    cwd=self.folder,
                    env=self.environment,
                    capture_output=True,
                    text=True,
                    timeout=BLOCK_TIMEOUT_S,
                    check=False,
                ),
            )
            return
        for line in lines:
            self._check(block, self.fedjob(*self._filled_in(shlex.split(line)[1:]), check=False))

    def fedjob(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of fedjob in a process of its own."""
        command = [str(BIN / "fedjob"), *words]
        done = preloaded.run(command, env=self.environment, cwd=self.folder, timeout_s=BLOCK_TIMEOUT_S)
        return self._checked(done) if check else done

    @staticmethod
    def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
        return done

    def have_two_requests(self) -> None:
        """Have a researcher ask the owner for two things: what a page about decisions begins with."""
        self.node.cli("config", "set", "approval", "on")
        for name in (f"rows_{secrets.token_hex(4)}" for _ in range(2)):
            self.save(f"{name}.py", REQUESTS.format(name=name))
            self.fedjob("job", "request", f"{name}.py")

    def _filled_in(self, words: Sequence[str]) -> list[str]:
        """Put what a reader has in place of what is printed: the id that a list shows for `ID`, the hub's URL."""
        there = {"ID": lambda: self.latest(words), PRINTED_HUB: lambda: self.federation.url}
        return [there[word]() if word in there else word for word in words]

    def _filled_in_text(self, text: str) -> str:
        lines = [
            re.sub(r"\bID\b", lambda _, line=line: self.latest(line.split()[1:]), line)
            for line in text.split("\n")
        ]
        return "\n".join(lines).replace(PRINTED_HUB, self.federation.url)

    def _names_of_datasets(self) -> set[str]:
        return {str(dataset["name"]) for dataset in self.node.json("data", "list")}

    def latest(self, words: Sequence[str]) -> str:
        """Return the id that a command with `ID` is about: the newest grant in a fitting state, task or job."""
        if list(words[:2]) == ["node", "grants"]:
            wanted = "granted" if words[2] == "revoke" else "pending"
            fitting = [grant for grant in self.node.json("grants", "list") if grant["status"] == wanted]
            return str(max(fitting, key=lambda grant: grant["requested"])["id"])
        if words[0] == "node":
            return str(self.node.json("tasks")[0]["key"])
        return str(json.loads(self.fedjob("job", "list", "--json").stdout)[-1]["id"])

    @staticmethod
    def _check(block: Block, done: subprocess.CompletedProcess[str]) -> None:
        __tracebackhide__ = True
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"{block.place}: {done.args} ended with {done.returncode}:\n{said}"
        assert "Traceback" not in said, f"{block.place}: {said}"

    def __enter__(self) -> Reader:
        self._settings = (self.node.home / "config.toml").read_bytes()
        self._datasets = self._names_of_datasets()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._script is not None:
            self._script.close()
        (self.node.home / "config.toml").write_bytes(self._settings)
        for name in sorted(
            self._names_of_datasets() - self._datasets
        ):  # another page may match them by a tag
            self.node.cli("data", "remove", name)
        if self._made_nodes:  # searches of later pages would wait for them
            for line in self.fedjob("hub", "party", "list").stdout.splitlines():
                party, role = line.split()[:2]
                if role == "node" and party not in HOSPITALS:
                    self.fedjob("hub", "party", "revoke", party)
        end_processes_of(self.folder)


class Script:
    """The process that runs a page's blocks of Python, see `tests.page_process`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._said = folder.with_name(folder.name + ".said")
        address = str(folder.with_name("s"))
        with socket.socket(socket.AF_UNIX) as door, self._said.open("wb") as said:
            with suppress(FileNotFoundError):
                os.unlink(address)
            door.bind(address)
            door.listen(1)
            self._process = preloaded.server().start(
                [str(ROOT / "tests" / "page_process.py"), address],
                stdout=said,
                stderr=said,
                env=environment,
                cwd=folder,
            )
            door.settimeout(0.2)
            deadline = time.monotonic() + BLOCK_TIMEOUT_S
            while True:
                with suppress(TimeoutError):
                    self._line, _ = door.accept()
                    break
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
        self._line.settimeout(BLOCK_TIMEOUT_S)
        self._stream = self._line.makefile("rw", encoding="utf-8")

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            AssertionError: it raised an error, or did not end in time.
        """
        __tracebackhide__ = True
        try:
            self._stream.write(json.dumps({"line": block.line, "text": block.text}) + "\n")
            self._stream.flush()
            answer = self._stream.readline()
        except TimeoutError:
            self._process.kill()
            raise AssertionError(
                f"{block.place} still runs after {BLOCK_TIMEOUT_S:g} s\n{self.said()}"
            ) from None
        error = json.loads(answer)["error"] if answer else "the process has ended"
        assert not error, f"{block.place}: {error}\n{self.said()[-3000:]}"

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        self._stream.close()
        self._line.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
