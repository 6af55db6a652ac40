"""The description of datasets anew, after their data have changed: by the command line, or by a daemon's process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import FedjobError
from fedjob.node.data.datasets import Datasets, RegisteredDataset, changes_of, described_anew
from fedjob.node.data.versions import Versions

WITHIN_S = 3600.0
"""Time that a daemon's process may take to read one dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redescription:
    """The outcome of looking at one dataset whose data changed.

    Args:
        changes: in words, what is different; empty where the description is the same.
        problem: why the data can't be read any more; empty if they can.
    """

    name: str
    changes: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return (
                f"dataset {self.name} changed since it was described and can't be read as it is registered: "
                f"{self.problem}; remove it and add it again with what it needs now"
            )
        return (
            f"dataset {self.name} changed and was described anew: {self.changes or 'same rows and columns'}"
        )


def describe_changed(datasets: Datasets, name: str = "") -> list[Redescription]:
    """Describe those datasets anew whose data are not those of their description; return what was found of each.

    Args:
        name: of the only one to look at; empty for all.
    """
    found, versions = [], datasets.versions()
    for dataset in datasets.all() if not name else [datasets.get(name)]:
        version = versions.of_parts(dataset.parts())
        if version == dataset.version:
            continue
        try:
            if not version:
                gone = [path for path in dataset.parts().values() if not versions.of(path)]
                raise FedjobError(f"there is nothing at {', '.join(gone) or dataset.path}")
            now = described_anew(dataset, version)
        except Exception as error:  # a reader may raise anything about a file that somebody is writing
            found.append(Redescription(name=dataset.name, problem=f"{error}" or type(error).__name__))
            continue
        datasets.describe_anew(now)
        found.append(Redescription(name=dataset.name, changes=changes_of(dataset, now)))
    return found


class Redescriber:
    """The part of a daemon that has changed datasets described anew, each version of one once.

    The daemon imports no reader: a process of its own reads the data, as `fedjob node data refresh`.

    Args:
        home: root of the node's home.
        later: has something done on a thread.
    """

    def __init__(self, home: Path, versions: Versions, later: Callable[[Callable[[], None]], None]) -> None:
        self._home = home
        self._versions = versions
        self._later = later
        self._lock = threading.Lock()
        self._seen: dict[str, str] = {}

    def is_changed(self, dataset: RegisteredDataset) -> bool:
        """Tell whether the data are others than those that were described, and begin to describe them if so."""
        version = self._versions.of_parts(dataset.parts())
        if version == dataset.version:
            return False
        with self._lock:
            begun = self._seen.get(dataset.name) == version
            self._seen[dataset.name] = version
        if not begun and version:
            self._later(lambda: self._describe(dataset.name))
        return True

    def _describe(self, name: str) -> None:
        command = [sys.executable, "-m", "fedjob", "node", "data", "refresh", name, "--home", str(self._home)]
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return  # it stays named as changed, and the next version is tried
