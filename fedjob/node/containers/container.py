"""Workers in containers: one container for each, by podman or docker, with nothing of the machine but what it needs."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.errors import ConfigError
from fedjob.node.execution.launcher import Launch, Launcher

OPTIONS = {
    "image": "",
    "engine": "podman",
    "python": "python3",
    "gpus": "cdi",
    "selinux": "",
}
"""Name of an option -> its default; an empty image is refused."""

GPU_WAYS = ("cdi", "nvidia", "none")
MEETING_NAME = "link"


@dataclass(frozen=True, slots=True)
class Container(Launcher):
    """Start each worker in a container of its own: `--rm`, no network, read-only, no capabilities, its limits.

    The owner's `launcher_options` alone decide; what jobs hint is not looked at:

        image: that has this version of fedjob, see `envs/images/worker.Dockerfile`; it is never pulled.
        engine: `podman`, `docker`, or the path of one of them.
        python: the interpreter in the image.
        gpus: how granted devices are passed: `cdi`, `nvidia` (the older way of docker), or `none` refuses them.
        selinux: `disable` where labels keep the container from files of the node.
    """

    name: ClassVar[str] = "container"
    isolates: ClassVar[bool] = True

    def command(self, launch: Launch) -> list[str]:
        """See `Launcher.command`."""
        options = _read(launch.options)
        words = [options["engine"], "run", *_identity(launch), *_limits(launch), *_walls(options)]
        words += [*_mounts(launch, options), *_devices(launch, options), options["image"]]
        if not _inherits(options):
            meeting = os.path.join(launch.folder, MEETING_NAME)
            handing = (sys.executable, "-P", "-m", "fedjob.node.containers.link_handover", meeting)
            words = [*handing, *words]
        return words

    def interpreter(self, launch: Launch) -> str:
        """See `Launcher.interpreter`."""
        return _read(launch.options)["python"]

    def meeting_place(self, launch: Launch) -> str:
        """See `Launcher.meeting_place`: podman passes the link on itself, docker has no way to."""
        folder = os.path.join(launch.folder, MEETING_NAME)
        return "" if _inherits(_read(launch.options)) else os.path.join(folder, MEETING_NAME)

    def ending(self, launch: Launch) -> list[str]:
        """See `Launcher.ending`: a container outlives the command that started it."""
        options = _read(launch.options)
        now = ["--time", "0"] if _inherits(options) else []
        return [options["engine"], "rm", "--force", *now, "--volumes", container_name(launch)]

    def check(self, options: Mapping[str, str]) -> None:
        """See `Launcher.check`."""
        found = _read(options)
        if shutil.which(found["engine"]) is None:
            raise ConfigError(
                f"the container engine {found['engine']!r} is not installed: install podman or docker, or name its "
                "path with engine=PATH in launcher_options"
            )


def container_name(launch: Launch) -> str:
    """Return the name of a worker's container: no two nodes of a machine have the same."""
    place = hashlib.sha256(launch.folder.encode()).hexdigest()[:12]
    return f"fedjob-{launch.worker}-{place}"


def _read(given: Mapping[str, str]) -> dict[str, str]:
    if unknown := sorted(given.keys() - OPTIONS.keys()):
        raise ConfigError(f"launcher_options of `container` are {', '.join(OPTIONS)}; found {unknown[0]!r}")
    options = {**OPTIONS, **given}
    if not options["image"] or options["image"].startswith("-"):
        raise ConfigError(
            "the launcher `container` needs an image: set launcher_options to image=NAME first, then launcher to container"
        )
    if options["gpus"] not in GPU_WAYS:
        raise ConfigError(
            f"gpus of the launcher `container` is {', '.join(GPU_WAYS)}; found {options['gpus']!r}"
        )
    if options["selinux"] not in ("", "disable"):
        raise ConfigError(
            f"selinux of the launcher `container` is empty or disable; found {options['selinux']!r}"
        )
    return options


def _inherits(options: Mapping[str, str]) -> bool:
    """Whether the engine passes open files on: podman does, docker's containers are started by another process."""
    return "docker" not in os.path.basename(options["engine"])


def _identity(launch: Launch) -> Iterator[str]:
    yield "--rm"
    yield from ("--name", container_name(launch), "--hostname", "worker", "--label", "fedjob=worker")
    yield from (
        "--user",
        f"{os.getuid()}:{os.getgid()}",
        "--workdir",
        "/",
        "--pull",
        "never",
        "--entrypoint",
        "",
    )


def _limits(launch: Launch) -> Iterator[str]:
    memory = f"{launch.memory_bytes}b"
    yield from ("--memory", memory, "--memory-swap", memory, "--pids-limit", str(launch.processes))
    yield from ("--ulimit", "core=0", "--ulimit", "nofile=1024", "--shm-size", f"{launch.work_bytes}b")


def _walls(options: Mapping[str, str]) -> Iterator[str]:
    yield from ("--network", "none", "--ipc", "private", "--read-only", "--cap-drop", "all")
    yield from ("--security-opt", "no-new-privileges", "--log-driver", "none")
    if options["selinux"] == "disable":
        yield from ("--security-opt", "label=disable")
    if _inherits(options):
        yield from ("--preserve-fds", "1", "--read-only-tmpfs=false", "--http-proxy=false", "--no-hosts")
        if os.getuid() != 0:
            yield from ("--userns", "keep-id")


def _mounts(launch: Launch, options: Mapping[str, str]) -> Iterator[str]:
    work = os.path.join(launch.folder, "work")
    yield from ("--tmpfs", f"{work}:rw,nosuid,nodev,size={launch.work_bytes},mode=1777")
    yield from ("--tmpfs", "/tmp:rw,nosuid,nodev,size=64m,mode=1777")
    shown = [os.path.join(launch.folder, "inbox"), *launch.data]
    if not _inherits(options):
        shown.append(os.path.join(launch.folder, MEETING_NAME))
    for path in shown:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(
            ["type=bind", f"source={path}", f"target={path}", "readonly"]
        )
        yield from ("--mount", text.getvalue())
    yield from ("--env", "HOME=/tmp", "--env", "PYTHONDONTWRITEBYTECODE=1")


def _devices(launch: Launch, options: Mapping[str, str]) -> Iterator[str]:
    if not launch.gpus:
        return
    if options["gpus"] == "none":
        raise ConfigError(
            "the task was granted devices, and launcher_options pass none: set gpus=cdi or gpus=nvidia"
        )
    if options["gpus"] == "nvidia":
        yield from ("--gpus", f'"device={",".join(map(str, launch.gpus))}"')
        return
    for number in launch.gpus:
        yield from ("--device", f"nvidia.com/gpu={number}")
