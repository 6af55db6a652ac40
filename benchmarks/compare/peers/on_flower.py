"""Rounds by Flower: a SuperLink and SuperNodes as processes of their own, or its simulation on Ray.

https://flower.ai/docs/framework/how-to-run-flower-with-deployment-engine.html (without TLS, as its page for one machine has it)
https://flower.ai/docs/framework/how-to-run-simulations.html

Its settings for speed are taken: nothing is installed at run time, no telemetry, tasks looked for every 0.1 s instead of
every second, one core for each simulated node.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from children import Children, free_ports, wait_for_port

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
QUICK = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
PROJECT = """
[project]
name = "compare"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "compare"

[tool.flwr.app.components]
serverapp = "flower_app:server"
clientapp = "flower_app:client"

[tool.flwr.app.config]
"""


def main() -> None:
    """Run the work that the first argument has as JSON, and print what it found as JSON."""
    work = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="compare-flower-") as name:
        folder = Path(name)
        out = folder / "out.json"
        write_app(folder / "app", work | {"out": str(out)})
        with Children(folder) as children:
            try:
                run(children, folder, work)
                wait_for(out, work["deadline_s"])
            except (TimeoutError, RuntimeError, subprocess.TimeoutExpired) as error:
                sys.exit(f"{children.what_failed()}\n{error}")
        print(out.read_text())


def write_app(folder: Path, config: dict[str, Any]) -> None:
    """Write the app that `flwr run` takes."""
    folder.mkdir()
    for each in ("flower_app.py", "images.py"):
        shutil.copy(HERE / each, folder)
    taken = {
        key: config[key] for key in ("params", "tensors", "nodes", "cohort", "rounds", "data", "model", "out")
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in taken.items()]
    (folder / "pyproject.toml").write_text(PROJECT + "\n".join(lines) + "\n")


def run(children: Children, folder: Path, work: dict[str, Any]) -> None:
    """Start what Flower needs, and submit the run."""
    home = folder / "home"
    home.mkdir()
    place = QUICK | {"FLWR_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    port, *ports = free_ports(1 + work["nodes"] if not work["data"] else 1)
    link = [BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port]
    link += ["--disable-runtime-dependency-installation"]
    children.start(*link, *(["--simulation"] if work["data"] else []), **place)
    wait_for_port(port, work["deadline_s"])
    for number, own in enumerate(ports):
        children.start(
            BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", own,
            "--node-config", f"partition-id={number} num-partitions={work['nodes']}", **place,
        )  # fmt: skip
    for own in ports:
        wait_for_port(own, work["deadline_s"])
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "compare"\n\n[superlink.compare]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    settings: list[str] = []
    if work["data"]:
        settings = [
            "--federation-config",
            f"num-supernodes={work['nodes']} client-resources-num-cpus=1 init-args-num-cpus={work['workers']}",
        ]
    submitted = children.start(BIN / "flwr", "run", folder / "app", "compare", *settings, **place)
    if submitted.wait(work["deadline_s"]):
        raise RuntimeError(f"flwr run ended with {submitted.returncode}")


def wait_for(out: Path, seconds: float) -> None:
    """Wait until the app has written what it found."""
    until = time.monotonic() + seconds
    while not (out.exists() and out.read_text().endswith("}")):
        if time.monotonic() > until:
            raise TimeoutError(f"Flower did not finish in {seconds:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
