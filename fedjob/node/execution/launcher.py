"""The launchers of worker processes: by forking, or behind a command of the owner's choice.

A launcher is found by name: `process` and `container` are built in; others are installed as entry
points of the group `fedjob.launcher`. The node's owner chooses one (setting
`launcher`). A job may carry hints for it, under its name in `resources["launcher"]`;
what the owner has set in `launcher_options` goes before what a job asks for.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        options: those that the owner has set.
        folder: of this worker at the node: its inputs come to `inbox` in it, what it gives to `work`.
        data: files and folders of the one dataset.
        work_bytes: that it may write to `work`.
        processes: that it may have, threads counted.
    """

    worker: str
    job: str
    memory_bytes: int
    threads: int
    gpus: tuple[int, ...]
    hints: Mapping[str, Any]
    folder: str = ""
    data: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    work_bytes: int = 1 << 30
    processes: int = 256


class Launcher(ABC):
    """Decides how one worker process is started; a frozen dataclass without fields that must be given.

    A worker that is started by a command closes the same sandbox around itself as one that is forked, before it reads
    an order. A launcher whose command is a sandbox of its own, such as a container, says so with `isolates`: the worker
    then only gives up what else it has, and the command has to show it `Launch.folder` under the same name (`inbox` in it read-only,
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

    def interpreter(self, launch: Launch) -> str:
        """Return the interpreter in the worker's own command line; by default the one that the node runs in."""
        return sys.executable

    def meeting_place(self, launch: Launch) -> str:
        """Return the path of a unix socket at which the worker gets its link; empty where it inherits it as number 3."""
        return ""

    def ending(self, launch: Launch) -> list[str]:
        """Return a command that ends what `command` has started elsewhere, run when the worker ends; none by default."""
        return []

    def check(self, options: Mapping[str, str]) -> None:  # noqa: B027 - few launchers have what to check
        """Refuse options that the owner has set.

        Raises:
            ConfigError: says what is expected.
        """


@dataclass(frozen=True, slots=True)
class Process(Launcher):
    """Fork each worker from a process that has imported torch: milliseconds instead of seconds."""

    name: ClassVar[str] = "process"

    def command(self, launch: Launch) -> list[str]:
        """See `Launcher.command`."""
        return []


LAUNCHERS: Registry[Launcher] = Registry(
    "launcher",
    {
        "process": "fedjob.node.execution.launcher:Process",
        "container": "fedjob.node.containers.container:Container",
    },
)


def hints_for(name: str, resources: Mapping[str, Any], options: str) -> dict[str, Any]:
    """Return what a job hints to the launcher of that name, with the owner's options on top."""
    asked = resources.get("launcher")
    hints = asked.get(name) if isinstance(asked, Mapping) else None
    return {**(dict(hints) if isinstance(hints, Mapping) else {}), **read_options(options)}
