"""Installs of one role: what `fedjob[hub]` and `fedjob[node]` bring is enough, and what is missing is named."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker

from envs.lock import LOCKS, read_lock
from fedjob.common.console import how_to_install
from tests.processes import Processes

ROOT = Path(__file__).parents[2]
LACKING = "this node lacks torch, numpy, safetensors: pip install 'fedjob[training]'"
ASK = """
import fedjob

@fedjob.function
def rows(dataset):
    return dataset.num_rows

try:
    fedjob.Job(rows, data={"tags": ["heart"]}).run(progress=False)
except fedjob.FedjobError as error:
    print(error)
"""


def environment_of(lock: str, folder: Path) -> Path:
    """Make a virtual environment with the packages of a lock file alone, linked to those of this one; return its Python."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True, timeout=60
    )
    place = next(folder.glob("lib/python*/site-packages"))
    for package in read_lock((LOCKS / f"{lock}.txt").read_text(encoding="utf-8")):
        if package.marker and not Marker(package.marker).evaluate():
            continue
        found = importlib.metadata.distribution(package.name)
        for first in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (place / first).exists():
                (place / first).symlink_to(str(found.locate_file(first)))
    (place / "fedjob.pth").write_text(f"{ROOT}\n")
    about = Path(str(importlib.metadata.distribution("fedjob").locate_file("")))
    for found in about.glob("fedjob-*.dist-info"):
        (place / found.name).symlink_to(found)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def hub_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_of("hub", tmp_path_factory.mktemp("hub-install") / "venv")


@pytest.fixture(scope="module")
def node_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_of("node", tmp_path_factory.mktemp("node-install") / "venv")


@pytest.mark.timeout(240)
def test_a_hub_and_a_node_without_the_training_libraries_serve_and_say_what_a_task_lacks(
    hub_python: Path, node_python: Path, processes: Processes, tmp_path: Path
) -> None:
    hub = processes.start(
        hub_python,
        "-m",
        "fedjob",
        "hub",
        "start",
        "--home",
        tmp_path / "hub",
        "--port",
        "0",
        "--mqtt-port",
        "0",
    )
    url = hub.wait_for(r"hub ready: (http://\S+)")[1]
    checked = processes.run(hub_python, "-m", "fedjob", "hub", "doctor", "--home", tmp_path / "hub")
    assert "not installed" not in checked.stdout

    node, lab = tmp_path / "node", tmp_path / "lab"
    (tmp_path / "heart.csv").write_text("age,sex\n61,1\n47,0\n")

    def types(*words: str | Path, expect: int = 0) -> str:
        done = processes.run(node_python, "-m", "fedjob", "node", *words, "--home", node, expect=expect)
        return done.stdout + done.stderr

    types("init", "--id", "clinic", "--hub", url)
    said = types("data", "add", "heart", tmp_path / "heart.csv", expect=1)
    assert (
        "reader csv needs the package pandas, which is not installed here: pip install 'fedjob[training]'"
        in said
    )
    processes.run(
        "fedjob", "node", "data", "add", "heart", tmp_path / "heart.csv", "--tags", "heart", "--home", node
    )
    types("config", "set", "approval", "off")
    processes.start(node_python, "-m", "fedjob", "node", "start", "--home", node, ready="node ready: clinic")
    assert "heart" in types("data", "list")
    status = json.loads(types("status", "--json"))
    assert (status["running"], status["connected"], status["lacking"]) == (True, True, LACKING)

    processes.run("fedjob", "init", "--id", "lab", "--hub", url, "--home", lab)
    (tmp_path / "ask.py").write_text(ASK)
    asked = processes.run("python", tmp_path / "ask.py", env={"FEDJOB_HOME": str(lab)})
    assert f"clinic: missing_packages: {LACKING}" in asked.stdout


def test_what_another_role_needs_is_named_with_its_extra(
    hub_python: Path, node_python: Path, processes: Processes, tmp_path: Path
) -> None:
    demo = processes.run(hub_python, "-m", "fedjob", "demo", "--home", tmp_path / "demo", expect=1).stderr
    assert "torch" in demo
    assert "pip install 'fedjob[demo]'" in demo
    hub = processes.run(
        node_python, "-m", "fedjob", "hub", "start", "--home", tmp_path / "hub", expect=1
    ).stderr
    assert "pip install 'fedjob[hub]'" in hub
    in_python = processes.run(hub_python, "-c", "import fedjob; fedjob.Job", expect=1).stderr
    assert (
        "fedjob.Job needs the package 'torch', which is not installed here: pip install 'fedjob[researcher]'"
        in in_python
    )
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("package", "role", "command"),
    [
        ("uvicorn", "hub", "pip install 'fedjob[hub]'"),
        ("uvicorn", "", "pip install 'fedjob[hub]'"),
        ("torch", "researcher", "pip install 'fedjob[researcher]'"),
        ("torch", "demo", "pip install 'fedjob[demo]'"),
        ("torch", "node", "pip install 'fedjob[training]'"),
        ("sklearn", "", "pip install 'fedjob[training]'"),
        ("paho", "node", "pip install 'fedjob[node]'"),
        ("paho", "researcher", "pip install 'fedjob[researcher]'"),
        ("jwt", "researcher", "pip install 'fedjob[oidc]'"),
        ("nothing_of_ours", "node", "pip install nothing_of_ours"),
    ],
)
def test_a_missing_package_names_the_extra_of_the_role_that_brings_it(
    package: str, role: str, command: str
) -> None:
    assert how_to_install(package, role) == command
