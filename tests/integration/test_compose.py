"""The files for containers: compose.yaml and the Dockerfiles say what fedjob's own commands understand, and it runs."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from fedjob.cli import cli
from fedjob.node.config.config import NodeConfig
from fedjob.node.sandbox.seccomp import ALLOWED
from tests.e2e.test_hub import certificate
from tests.parts import program
from tests.processes import Processes

ENVS = Path(__file__).parents[2] / "envs"
COMPOSE = yaml.safe_load((ENVS / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGES = sorted((ENVS / "images").glob("*.Dockerfile"))
HOME, SECRETS = "/var/lib/fedjob", "/run/secrets"
KEYS = {
    "user": str,
    "read_only": bool,
    "tmpfs": list,
    "cap_drop": list,
    "init": bool,
    "stop_grace_period": str,
    "logging": dict,
    "image": str,
    "build": dict,
    "command": list,
    "environment": dict,
    "ports": list,
    "secrets": list,
    "volumes": list,
    "security_opt": list,
    "pids_limit": int,
    "mem_limit": str,
    "restart": str,
    "profiles": list,
    "healthcheck": dict,
}
"""What a service of the Compose Specification may have, as far as these do, and of which type it is."""
FOR_NAMESPACES = {
    "clone",
    "clone3",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "mount_setattr",
    "sethostname",
}
"""System calls that docs/sandbox.md asks an engine to allow."""
each_service = pytest.mark.parametrize("name", SERVICES)
each_image = pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)


def understood(words: list[str]) -> dict[str, object]:
    """Return the arguments and options of a command of fedjob, read as it would read them.

    Raises:
        click.UsageError: there is no such command or option.
    """
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context, command = click.Context(found, info_name=name, parent=context), found
    given, left, _ = command.make_parser(context).parse_args(list(words))
    assert left == []
    for param in command.params:
        assert not param.required or given.get(str(param.name)), f"{param.name} is missing"
    return dict(given)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, a pair of name and arguments for each."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


@each_service
def test_a_service_has_only_keys_that_compose_knows_each_of_its_type(name: str) -> None:
    service = SERVICES[name]
    assert {key: type(value) for key, value in service.items()} == {key: KEYS[key] for key in service}
    assert set(service["build"]) == {"context", "dockerfile"}
    assert (ENVS / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert set(service.get("healthcheck", {})) <= {"test", "interval", "timeout", "start_period", "retries"}
    for key in ("interval", "timeout", "start_period"):
        assert re.fullmatch(r"\d+[smh]", service.get("healthcheck", {}).get(key, "1s"))
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "secrets", "volumes"}


@each_service
def test_a_service_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "65532:65532"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    if service.get("restart"):
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["pids_limit"] > 0
        assert service["mem_limit"]
    if name != "hub":
        assert "ports" not in service, "a node opens none"


@each_service
def test_what_a_service_runs_is_what_fedjob_understands(name: str) -> None:
    service = SERVICES[name]
    given = understood(service["command"])
    for value in given.values():
        if isinstance(value, str) and value.startswith(SECRETS):
            assert value.removeprefix(f"{SECRETS}/") in service["secrets"]
    if service.get("healthcheck"):
        _, program_name, *words = service["healthcheck"]["test"]
        assert program_name == "fedjob"
        understood(words)
    known = {f"FEDJOB_{key.upper()}" for key in NodeConfig.__dataclass_fields__} | {"FEDJOB_HOME"}
    assert set(service["environment"]) <= known
    for port in service.get("ports", ()):
        assert port.partition(":")[2] == given["port"]
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    for volume in service["volumes"]:
        source = volume.partition(":")[0]
        assert source.startswith("./") or source in COMPOSE["volumes"]
    assert any(volume.endswith(f":{service['environment']['FEDJOB_HOME']}") for volume in service["volumes"])
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))
    assert not any(
        re.search(r"key|token|password|secret", key, re.IGNORECASE) for key in service["environment"]
    )


def test_the_engines_filter_leaves_the_sandbox_the_calls_that_it_makes() -> None:
    profile = next(
        option.partition("=")[2]
        for option in SERVICES["node"]["security_opt"]
        if option.startswith("seccomp=")
    )
    rules = json.loads((ENVS / profile).read_text(encoding="utf-8"))
    assert rules["defaultAction"] == "SCMP_ACT_ALLOW"
    refused = {name for rule in rules["syscalls"] for name in rule["names"]}
    assert {rule["action"] for rule in rules["syscalls"]} == {"SCMP_ACT_ERRNO"}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path("fedjob/node/sandbox").glob("*.py"))
    made = set(re.findall(r"\bcall\(\s*\"(\w+)\"", sources))
    assert {"bpf", "kexec_load", "init_module", "ptrace", "perf_event_open"} <= refused
    assert len(made) > 3
    assert not refused & (FOR_NAMESPACES | made | ALLOWED)
    needed = {"seccomp", "apparmor", "systempaths"}
    assert needed <= {option.partition("=")[0] for option in SERVICES["node"]["security_opt"]}


@each_image
def test_an_image_is_pinned_checks_hashes_and_has_no_root(path: Path) -> None:
    found = instructions(path)
    base = next(words for name, words in found if name == "ARG")
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert all(words.split()[0] == "${BASE}" for name, words in found if name == "FROM")
    users = [words for name, words in found if name == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    for name, words in found:
        if name == "RUN":
            for command in re.findall(r"pip install[^&;]*", words):
                assert "--no-deps" in command
                assert "--require-hashes" in command or re.search(r"/dist/(fedjob-)?\*\.whl", command)
                for lock in re.findall(r"/locks/(\w+\.txt)", command):
                    assert (ENVS / "locks" / lock).is_file()
        if name == "COPY" and not words.startswith("--from"):
            for source in words.split()[:-1]:
                assert source.startswith(("dist/", "wheel[s]/")) or (ENVS.parent / source).exists(), source


@each_image
def test_an_image_starts_what_fedjob_understands(path: Path) -> None:
    found = dict(instructions(path))
    command = json.loads(found["CMD"])
    if "ENTRYPOINT" not in found:
        assert command[0] == "python3"
        return
    assert json.loads(found["ENTRYPOINT"]) == ["fedjob"]
    given = understood(command)
    assert found["VOLUME"] == HOME
    environment = dict(pair.split("=", 1) for pair in shlex.split(found["ENV"]))
    assert environment["FEDJOB_HOME"] == HOME
    if "EXPOSE" in found:
        assert given["port"] == found["EXPOSE"]
    service = SERVICES[path.stem]
    assert service["command"] == command
    assert service["image"] == f"fedjob-{path.stem}"


@pytest.mark.timeout(240)
def test_the_services_run_as_they_are_written(
    processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Run the commands of compose.yaml in plain processes, with folders of the test in place of the containers'."""
    program("mosquitto")
    (tmp_path / "tls").mkdir()
    cert, key = certificate(tmp_path / "tls")
    port = str(free_port())
    files = {"hub_cert": cert, "hub_key": key, "hub_ca": cert, "invitation": tmp_path / "clinic-a.invitation"}

    def words_of(words: list[str], home: Path) -> list[str]:
        here = {
            "8443": port,
            "0.0.0.0": "127.0.0.1",
            **{f"{SECRETS}/{name}": str(p) for name, p in files.items()},
        }
        return ["fedjob", *(here.get(word, word).replace(HOME, str(home)) for word in words)]

    def environment(name: str, home: Path) -> dict[str, str]:
        return {key: value.replace(HOME, str(home)) for key, value in SERVICES[name]["environment"].items()}

    homes = {"hub": tmp_path / "hub", "join": tmp_path / "node", "node": tmp_path / "node"}
    for home in homes.values():
        home.mkdir(exist_ok=True)
    before = os.umask(0o022)
    try:
        hub = SERVICES["hub"]
        in_hub = environment("hub", homes["hub"])
        processes.start(*words_of(hub["command"], homes["hub"]), ready=r"hub ready: https://", env=in_hub)
        processes.run(*words_of(hub["healthcheck"]["test"][2:], homes["hub"]), env=in_hub)
        processes.run(
            "fedjob", "hub", "invite", "clinic-a", "--url", f"https://127.0.0.1:{port}",
            "--out", files["invitation"], env=in_hub,
        )  # fmt: skip
        in_node = environment("node", homes["node"])
        processes.run(
            *words_of(SERVICES["join"]["command"], homes["join"]), env=environment("join", homes["join"])
        )
        processes.start(
            *words_of(SERVICES["node"]["command"], homes["node"]), ready=r"node ready: clinic-a", env=in_node
        )
        check = processes.run(
            *words_of(SERVICES["node"]["healthcheck"]["test"][2:], homes["node"]), env=in_node
        )
        assert "\tno\t" not in check.stdout
    finally:
        os.umask(before)
