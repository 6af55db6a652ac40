"""The launchers of worker processes: by forking, or behind a command of the owner's choice.

A launcher is found by name: `process` is built in; others are installed as entry
points of the group `fedjob.launcher`. The node's owner chooses one (setting
`launcher`). A job may carry hints for it, under its name in `resources["launcher"]`;
what the owner has set in `launcher_options` goes before what a job asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.common.registry import Registry
from fedjob.node.config.options import read_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A worker process that is to be started.

    Args:
        worker: the daemon's name for it.
        memory_bytes, threads, gpus: what it gets of the machine.
        hints: the job's hints for this launcher, overridden by the options that the owner has set.
        folder: of this worker at the node: its inputs come to `inbox` in it, what it gives to `work`.
        data: files and folders of the one dataset.
    """

    worker: str
    job: str
    memory_bytes: int
    threads: int
    gpus: tuple[int, ...]
    hints: Mapping[str, Any]
    folder: str = ""
    data: tuple[str, ...] = ()


class Launcher(ABC):
    """Decides how one worker process is started; a frozen dataclass without fields that must be given.

    A worker that is started by a command closes the same sandbox around itself as one that is forked, before it reads
    an order. A launcher whose command is a sandbox of its own, such as a container, says so with `isolates`: the worker
    then closes nothing, and the command has to show it `Launch.folder` under the same name (`inbox` in it read-only,
    `work` to write to), `Launch.data` read-only, and nothing else of the node: no home, no network, no other process.
    """

    name: ClassVar[str]
    isolates: ClassVar[bool] = False

    @abstractmethod
    def command(self, launch: Launch) -> list[str]:
        """Return the words that go before the worker's own command line, or none to fork it.

        The command must run what follows it, in its own process or as its child, with the same open files.
        It is called on the daemon's loop: it computes, and waits for nothing.
        """


@dataclass(frozen=True, slots=True)
class Process(Launcher):
    """Fork each worker from a process that has imported torch: milliseconds instead of seconds."""

    name: ClassVar[str] = "process"

    def command(self, launch: Launch) -> list[str]:
        """See `Launcher.command`."""
        return []


LAUNCHERS: Registry[Launcher] = Registry("launcher", {"process": "fedjob.node.execution.launcher:Process"})


def hints_for(name: str, resources: Mapping[str, Any], options: str) -> dict[str, Any]:
    """Return what a job hints to the launcher of that name, with the owner's options on top."""
    asked = resources.get("launcher")
    hints = asked.get(name) if isinstance(asked, Mapping) else None
    return {**(dict(hints) if isinstance(hints, Mapping) else {}), **read_options(options)}
