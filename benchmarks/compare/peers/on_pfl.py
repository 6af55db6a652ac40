"""Rounds of a simulation by pfl: one process for each worker, which `torch.distributed` joins, as its guide tells.

https://apple.github.io/pfl-research/guides/simulation_distributed.html
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from typing import Any

WORKER = "COMPARE_PFL_WORKER"


def main() -> None:
    """Run the work that the first argument has as JSON, and print what it found as JSON."""
    work = json.loads(sys.argv[1])
    workers = work["workers"]
    if workers == 1 or os.environ.get(WORKER):
        found = rounds(work)
        if os.environ.get("PFL_WORKER_RANK", "0") == "0":
            print(json.dumps(found))
        return
    addresses = ",".join(f"localhost:{port}" for port in free_ports(workers))
    started = []
    try:
        for rank in range(workers):
            place = {"PFL_WORKER_ADDRESSES": addresses, "PFL_WORKER_RANK": str(rank), WORKER: "1"}
            started.append(subprocess.Popen([sys.executable, *sys.argv], env=os.environ | place))
        codes = [each.wait() for each in started]
    finally:
        for each in started:
            each.kill()
    if any(codes):
        sys.exit(f"the workers of pfl ended with {codes}")


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def rounds(work: dict[str, Any]) -> dict[str, Any]:
    """Train, and return when each round ended and the loss at the end."""
    import torch
    from images import BATCH_SIZE, LEARNING_RATE, Images, loss_of, model_of
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    # One thread for each of several workers; a single process has all cores.
    torch.set_num_threads(1 if work["workers"] > 1 else work["threads"])
    images = Images(work["data"])
    model = model_of(work["model"])
    model.loss = lambda inputs, labels: torch.nn.functional.cross_entropy(model.train()(inputs), labels)
    model.metrics = lambda inputs, labels: {}
    draw = random.Random(0)
    data = FederatedDataset(
        lambda node: PyTorchTensorDataset(images.of_node(node)), lambda: draw.randrange(work["nodes"])
    )
    ends: list[float] = []

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
            ends.append(time.time())
            return False, Metrics()

    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work["rounds"],
            evaluation_frequency=work["rounds"] + 1,
            train_cohort_size=work["cohort"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH_SIZE
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    return {"ends": ends, "outcome": loss_of(model, images, work["nodes"])}


if __name__ == "__main__":
    main()
