from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError
from fedjob.node.containers.container import Container, container_name
from fedjob.node.execution.launcher import LAUNCHERS, Launch

LAUNCH = Launch(
    worker="7-1",
    job="job",
    memory_bytes=2 << 30,
    threads=2,
    gpus=(),
    hints={"image": "of-the-job", "engine": "/tmp/of-the-job"},
    options={"image": "hospital/fedjob:1"},
    folder="/srv/node/scratch/worker_7-1",
    data=("/data/heart, old.csv",),
    work_bytes=1 << 30,
    processes=99,
)


def pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


def test_a_container_has_no_network_no_capabilities_and_limits() -> None:
    words = Container().command(LAUNCH)
    assert words[:3] == ["podman", "run", "--rm"]
    assert words[-1] == "hospital/fedjob:1"
    for pair in (
        ("--network", "none"),
        ("--ipc", "private"),
        ("--cap-drop", "all"),
        ("--security-opt", "no-new-privileges"),
        ("--pids-limit", "99"),
        ("--memory", f"{2 << 30}b"),
        ("--memory-swap", f"{2 << 30}b"),
        ("--user", f"{os.getuid()}:{os.getgid()}"),
        ("--pull", "never"),
        ("--log-driver", "none"),
        ("--name", container_name(LAUNCH)),
        ("--preserve-fds", "1"),
    ):
        assert pair in pairs(words), pair
    assert "--read-only" in words
    assert not {"--privileged", "--env-host", "--pid", "--volume"} & set(words)


def test_a_container_sees_its_inputs_and_its_data_read_only_and_nothing_else_of_the_node() -> None:
    words = Container().command(LAUNCH)
    mounts = [value for name, value in pairs(words) if name == "--mount"]
    inbox = "/srv/node/scratch/worker_7-1/inbox"
    assert mounts == [
        f"type=bind,source={inbox},target={inbox},readonly",
        'type=bind,"source=/data/heart, old.csv","target=/data/heart, old.csv",readonly',
    ]
    work = next(value for name, value in pairs(words) if name == "--tmpfs" and "worker_7-1" in value)
    assert work.startswith(f"/srv/node/scratch/worker_7-1/work:rw,nosuid,nodev,size={1 << 30}")


def test_docker_gets_the_link_at_a_meeting_place_and_podman_inherits_it() -> None:
    docker = replace(LAUNCH, options={"image": "x", "engine": "/usr/bin/docker"})
    words = Container().command(docker)
    assert words[1:5] == [
        "-P",
        "-m",
        "fedjob.node.containers.link_handover",
        "/srv/node/scratch/worker_7-1/link",
    ]
    assert "--preserve-fds" not in words
    assert any(
        value.endswith("worker_7-1/link,readonly") for name, value in pairs(words) if name == "--mount"
    )
    assert Container().meeting_place(docker) == "/srv/node/scratch/worker_7-1/link/link"
    assert Container().meeting_place(LAUNCH) == ""


def test_a_container_is_ended_by_its_name() -> None:
    assert Container().ending(LAUNCH) == [
        *("podman", "rm", "--force", "--time", "0", "--volumes"),
        container_name(LAUNCH),
    ]
    other = replace(LAUNCH, folder="/srv/other/scratch/worker_7-1")
    assert container_name(other) != container_name(LAUNCH)


def test_devices_are_passed_as_the_owner_says() -> None:
    granted = replace(LAUNCH, gpus=(0, 2))
    assert [value for name, value in pairs(Container().command(granted)) if name == "--device"] == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=2",
    ]
    older = replace(granted, options={"image": "x", "gpus": "nvidia"})
    assert ("--gpus", '"device=0,2"') in pairs(Container().command(older))
    with pytest.raises(ConfigError, match="gpus=cdi"):
        Container().command(replace(granted, options={"image": "x", "gpus": "none"}))
    assert "--device" not in Container().command(LAUNCH)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs an image"),
        ({"image": "--privileged"}, "needs an image"),
        ({"image": "x", "volume": "/:/host"}, "found 'volume'"),
        ({"image": "x", "gpus": "all"}, "found 'all'"),
        ({"image": "x", "selinux": "off"}, "found 'off'"),
        ({"image": "x", "engine": "no-such-engine"}, "not installed"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_do(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LAUNCHERS.build("container", {}).check(options)


def test_the_image_is_made_from_files_that_are_there() -> None:
    root = Path(__file__).parents[3]
    lines = (root / "envs" / "images" / "worker.Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    assert copied
    for source in copied:
        assert source.startswith("dist/") or (root / source).exists(), source  # dist: of make wheel
    assert any(line.startswith("USER 65534") for line in lines)
