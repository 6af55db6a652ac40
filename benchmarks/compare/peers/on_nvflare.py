"""Rounds by NVFlare: its simulator with a process for each client, all at a time, and clients in the process that talks.

https://nvflare.readthedocs.io/en/main/user_guide/nvflare_cli/fl_simulator.html

The simulator has no TLS and no signatures. Clients ask for a task every 50 ms instead of every half second. One round more than asked for is run: the end of a round is where a client is
asked for the next.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

FETCH_S = 0.05
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the work that the first argument has as JSON, and print what it found as JSON."""
    work = json.loads(sys.argv[1])
    if work["mbit"]:
        from nvflare_lines import over_lines

        found = over_lines(work)
        print()
        print(json.dumps(found))
        return
    import numpy as np
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe import SimEnv

    with tempfile.TemporaryDirectory(prefix="compare-nvflare-") as name:
        folder = Path(name)
        begin = folder / "begin.npy"
        np.save(begin, np.zeros((work["tensors"], work["params"] // work["tensors"]), dtype=np.float32))
        out = folder / "out.json"
        recipe = NumpyFedAvgRecipe(
            name="compare",
            initial_ckpt=str(begin),
            min_clients=work["nodes"],
            num_rounds=work["rounds"] + 1,
            train_script=str(HERE / "nvflare_client.py"),
            train_args=str(out),
        )
        recipe.add_client_config({"default_task_fetch_interval": FETCH_S})
        environment = SimEnv(
            num_clients=work["nodes"], num_threads=work["nodes"], workspace_root=str(folder / "workspace")
        )
        recipe.execute(environment)
        print()
        print(out.read_text())


if __name__ == "__main__":
    main()
