"""Rounds of a simulation by pfl: one process for each worker, which `torch.distributed` joins, as its guide tells.

https://apple.github.io/pfl-research/guides/simulation_distributed.html
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import ranks


def rounds(work: dict[str, Any]) -> dict[str, Any]:
    """Train, and return when each round ended and the loss at the end."""
    if ranks.RANK in os.environ:  # pfl reads its place among the workers when it is imported
        os.environ["PFL_WORKER_RANK"] = os.environ[ranks.RANK]
        os.environ["PFL_WORKER_ADDRESSES"] = os.environ[ranks.ADDRESSES]
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
    ranks.main(rounds)
