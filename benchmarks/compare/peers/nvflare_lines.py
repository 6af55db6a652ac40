"""Rounds by NVFlare over slow lines: a server and clients as processes of their own, provisioned and started as for production.

https://nvflare.readthedocs.io/en/main/programming_guide/provisioning_system.html
https://nvflare.readthedocs.io/en/main/programming_guide/message_quantization.html

Each client is told to connect to its line (`connect_to`), which leads to the server. Connections have mutual TLS, as provisioned. The
filters are set as its example for language models sets them: quantised before they are sent and restored when they have come, both
ways. One round more than asked for is run: the end of a round is where a client is asked for the next.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from children import Children, free_ports, wait_for_port, wait_for_rounds
from lines import Carried, Lines

FETCH_S = 0.05
HERE = Path(__file__).resolve().parent
ADMIN = "admin@nvidia.com"
PROJECT = """
api_version: 3
name: compare
participants:
  - {name: localhost, type: server, org: compare, fed_learn_port: PORT, admin_port: PORT}
CLIENTS
  - {name: admin@nvidia.com, type: admin, org: compare, role: project_admin}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {template_file: [master_template.yml]}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {config_folder: config}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def over_lines(work: dict[str, Any]) -> dict[str, Any]:
    """Run the work behind lines; return when each round ended, the accuracy and the bytes of a round."""
    with tempfile.TemporaryDirectory(prefix="compare-nvflare-") as name:
        folder = Path(name)
        os.environ["HOME"] = name  # where NVFlare keeps settings of its own
        (port,) = free_ports(1)
        with Children(folder) as children, Lines(work["nodes"], port, work["mbit"]) as lines:
            kits = provision(folder, port, [line.port for line in lines.lines])
            try:
                start(children, kits, port, work)
                # By the first client's clock rounds are counted, so its line alone has carried whole rounds between them.
                with Carried(lines.lines[:1]) as carried:
                    found = run_job(folder, kits, work)
            except (TimeoutError, RuntimeError) as error:
                sys.exit(f"{children.what_failed()}\n{error}")
        return found | {"moved": dict(carried.of_a_round(found["ends"]))}


def provision(folder: Path, port: int, ports: list[int]) -> Path:
    """Make the startup kits of all; return their folder."""
    clients = [
        f"  - {{name: site-{number}, type: client, org: compare, connect_to: {{host: localhost, port: {own}}}}}"
        for number, own in enumerate(ports, 1)
    ]
    project = folder / "project.yml"
    project.write_text(PROJECT.replace("PORT", str(port)).replace("CLIENTS", "\n".join(clients)))
    command = [Path(sys.executable).parent / "nvflare", "provision", "-p", project, "-w", folder / "kits"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = folder / "kits" / "compare" / "prod_00"
    if made.returncode or not found.exists():
        raise RuntimeError(f"nvflare provision failed: {made.stdout[-500:]} {made.stderr[-500:]}")
    return found


def start(children: Children, kits: Path, port: int, work: dict[str, Any]) -> None:
    """Start the server and the clients, as the scripts of their kits do."""
    common = ("secure_train=true", "org=compare", "config_folder=config")
    module = "nvflare.private.fed.app"
    children.start(
        sys.executable, "-u", "-m", f"{module}.server.server_train", "-m", kits / "localhost",
        "-s", "fed_server.json", "--set", *common,
    )  # fmt: skip
    wait_for_port(port, work["deadline_s"])
    for number in range(1, work["nodes"] + 1):
        children.start(
            sys.executable, "-u", "-m", f"{module}.client.client_train", "-m", kits / f"site-{number}",
            "-s", "fed_client.json", "--set", *common, f"uid=site-{number}",
        )  # fmt: skip


def run_job(folder: Path, kits: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Submit the job, wait for its end, and return what the first client noted."""
    from digits import DigitsNet
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.client.config import ExchangeFormat
    from nvflare.recipe import ProdEnv

    out = folder / "out.json"
    recipe = FedAvgRecipe(
        name="compare",
        model=DigitsNet(),
        min_clients=work["nodes"],
        num_rounds=work["rounds"] + 1,
        train_script=str(HERE / "nvflare_digits.py"),
        train_args=f"{work['data']} {work['nodes']} {out}",
        server_expected_format=ExchangeFormat.PYTORCH,
    )
    recipe.add_client_config({"default_task_fetch_interval": FETCH_S})
    recipe.add_client_file(str(HERE / "digits.py"))
    if work["form"]:
        quantise(recipe, work["form"])
    environment = ProdEnv(startup_kit_location=str(kits / ADMIN), login_timeout=60.0)
    recipe.execute(environment)
    return wait_for_rounds(out, work["rounds"], work["deadline_s"])


def quantise(recipe: Any, form: str) -> None:
    """Add the filters to both sides, as NVFlare's example does."""
    from nvflare_filters import DequantizerWithoutGpu, QuantizerWithoutGpu

    recipe.add_server_output_filter(QuantizerWithoutGpu(form), tasks=["train"])
    recipe.add_server_input_filter(DequantizerWithoutGpu(), tasks=["train"])
    recipe.add_client_output_filter(QuantizerWithoutGpu(form), tasks=["train"])
    recipe.add_client_input_filter(DequantizerWithoutGpu(), tasks=["train"])
