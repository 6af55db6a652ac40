"""The app that Flower runs: each node adds a number of its own to the parameters, or trains a model on its images.

It is copied into an app's folder; what it needs comes in the run's configuration.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and write when each ended and what came out."""
    config = context.run_config
    ends: list[float] = []

    def note(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            ends.append(time.time())

    if config["data"]:
        from images import model_of

        arrays = ArrayRecord(model_of(config["model"]).state_dict())
    else:
        parts = config["tensors"]
        zeros = np.zeros(config["params"] // parts, dtype=np.float32)
        arrays = ArrayRecord({str(number): Array(zeros) for number in range(parts)})
    strategy = FedAvg(
        fraction_train=config["cohort"] / config["nodes"],
        fraction_evaluate=0.0,
        min_train_nodes=config["cohort"],
        min_evaluate_nodes=0,
        min_available_nodes=config["nodes"],
    )
    result = strategy.start(
        grid=grid, initial_arrays=arrays, num_rounds=config["rounds"], evaluate_fn=note, timeout=600
    )
    with open(config["out"], "w") as file:
        json.dump({"ends": ends, "outcome": outcome(result.arrays, config)}, file)


def outcome(arrays: ArrayRecord, config: Mapping[str, Any]) -> float:
    """Return the loss of the model, or the parameters' value."""
    if config["data"]:
        from images import Images, loss_of, model_of

        model = model_of(config["model"])
        model.load_state_dict(arrays.to_torch_state_dict())
        return loss_of(model, Images(config["data"]), config["nodes"])
    return float(arrays.to_numpy_ndarrays()[0].mean())


@client.train()
def train(message: Message, context: Context) -> Message:
    """Compute one node's share of a round."""
    number = int(context.node_config["partition-id"])
    arrays = message.content["arrays"]
    examples = 8
    if context.run_config["data"]:
        trained, examples = step_through(arrays, context.run_config, number)
    else:
        trained = ArrayRecord(
            {name: Array(array.numpy() + np.float32(1 + 0.01 * number)) for name, array in arrays.items()}
        )
    content = RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": examples})})
    return Message(content=content, reply_to=message)


def step_through(arrays: ArrayRecord, config: Mapping[str, Any], number: int) -> tuple[ArrayRecord, int]:
    """Train one epoch on the node's images; return the parameters and the number of images."""
    import torch
    from images import BATCH_SIZE, LEARNING_RATE, Images, model_of

    torch.set_num_threads(1)
    model = model_of(config["model"])
    model.load_state_dict(arrays.to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    inputs, labels = Images(config["data"]).of_node(number)
    for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return ArrayRecord(model.state_dict()), len(labels)
