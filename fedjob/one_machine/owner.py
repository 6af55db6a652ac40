"""The owner of a node on this machine, as code plays them: each method is a command that an owner types."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fedjob.common.checks import checked
from fedjob.common.errors import NotReady
from fedjob.common.notebooks import html
from fedjob.one_machine.commands import Commands
from fedjob.one_machine.data_files import as_file, check_dataset_name
from fedjob.researcher.connection.catalogue import Listing

_COLUMNS = ("id", "status", "researcher", "plan", "dataset", "asked")
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnersRequest:
    """One request of a researcher, as its owner sees it in `fedjob node grants list`.

    Args:
        plan: the class or function that would run; empty for an operation of fedjob's own.
        asked: when, in this machine's time.
    """

    id: str
    status: str
    researcher: str
    plan: str
    dataset: str
    asked: str


class SandboxOwner:
    """The owner of one node.

    Args:
        node: the node's id.
        home: its folder.
    """

    def __init__(self, node: str, home: Path, commands: Commands) -> None:
        self.node = node
        self.home = home
        self._commands = commands

    def run(self, *words: str) -> str:
        """Do `fedjob node WORDS --home HOME` and return what it prints.

        Raises:
            FedjobError: it failed; says why.
        """
        return self._commands.run("node", *words, "--home", str(self.home), log=self.node).strip()

    def command(self, *words: str) -> str:
        """Return the command line `fedjob node WORDS --home HOME`, to type in a terminal."""
        return shlex.join(["fedjob", "node", *words, "--home", str(self.home)])

    @checked
    def add(
        self,
        name: str,
        data: Any,
        *,
        tags: Sequence[str] | None = None,
        mock: Any = None,
        reader: str | None = None,
        min_rows: int | None = None,
        options: Mapping[str, Any] | None = None,
        description: str = "",
        contact: str = "",
    ) -> str:
        """Offer another dataset, at once; returns what the command prints.

        Args:
            data: a DataFrame, a path, a pair of arrays or tensors (inputs, targets), or a torch Dataset of such pairs.
            tags: None for its name alone.
            mock: synthetic data of the same form.
            reader: None guesses it from the file.
            min_rows: no number about fewer rows leaves the node.
            options: of the reader, such as `{"target": "sick"}`.
            description: for researchers.
            contact: whom to ask about the data.

        Raises:
            SpecError: the data are none of these, or not there.
        """
        check_dataset_name(name)
        place = self.home.parent / "data" / self.node
        path = as_file(data, place / name, f"{self.node}/{name}")
        words = ["data", "add", name, str(path), "--tags", ",".join([name] if tags is None else tags)]
        if mock is not None:
            words += ["--mock", str(as_file(mock, place / f"{name}-mock", f"{self.node}/{name}, the mock"))]
        if reader is not None:
            words += ["--reader", reader]
        if min_rows is not None:
            words += ["--min-rows", str(min_rows)]
        for option, text in (("--description", description), ("--contact", contact)):
            words += [option, text] if text else []
        for key, value in (options or {}).items():
            words += ["--option", f"{key}={value}"]
        return self.run(*words)

    @checked
    def requests(self, status: str = "pending", *, wait_s: float = 0.0) -> Listing[OwnersRequest]:
        """Return the requests of researchers.

        Args:
            status: such as `pending` or `granted`; `all` for every one.
            wait_s: seconds to wait for one at most, because what was sent a moment ago may still be on its way.
        """
        deadline = time.monotonic() + wait_s
        while True:
            found = json.loads(self.run("grants", "list", "--json"))
            asked = [_request(each) for each in found if status in ("all", each["status"])]
            if asked or time.monotonic() > deadline:
                return Listing(asked, _COLUMNS)
            time.sleep(_LOOK_EVERY_S)

    def approve(self, id: str | None = None, *options: str, wait_s: float = 30.0) -> Listing[OwnersRequest]:
        """Approve one request, or all that wait; returns what was approved.

        Args:
            id: of the request, or how it begins; None for all.
            options: of `fedjob node grants approve`, such as `"--runs", "1"`.
            wait_s: seconds to wait for a request at most.

        Raises:
            NotReady: there is no such request.
            FedjobError: the command failed; says why.
        """
        return self._decide("approve", id, options, wait_s)

    def reject(self, id: str | None = None, *options: str, wait_s: float = 30.0) -> Listing[OwnersRequest]:
        """Reject one request, or all that wait; see `approve`."""
        return self._decide("reject", id, options, wait_s)

    def _decide(
        self, verdict: str, id: str | None, options: Sequence[str], wait_s: float
    ) -> Listing[OwnersRequest]:
        found = [each for each in self.requests(wait_s=wait_s) if each.id.startswith(id or "")]
        if not found or id == "":
            which = "no request" if id is None else f"no request {id!r}"
            raise NotReady(
                f"{which} waits for the owner of {self.node} ({wait_s:g} s waited): ask with job.request() or "
                f"job.submit() first; `{self.command('grants', 'list')}` lists all"
            )
        for each in found:
            self.run("grants", verdict, each.id, *options)
        return Listing(found, _COLUMNS)

    def __repr__(self) -> str:
        return f"<Owner of {self.node}: {self.command('grants', 'list')}>"

    def _repr_html_(self) -> str:
        facts = {"home": str(self.home), "requests": self.command("grants", "list")}
        return html.panel(f"Owner of {self.node}", html.facts(facts))


def _request(plain: Mapping[str, Any]) -> OwnersRequest:
    return OwnersRequest(
        id=plain["id"],
        status=plain["status"],
        researcher=plain["researcher"],
        plan=plain["entry"],
        dataset=plain["dataset"],
        asked=datetime.fromisoformat(plain["requested"]).astimezone().isoformat(" ", "minutes"),
    )
