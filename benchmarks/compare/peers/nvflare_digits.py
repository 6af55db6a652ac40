"""The script of an NVFlare client that trains the CNN on its digits; the first notes when it was asked, and the accuracy.

Arguments: the folder of the digits, the number of nodes, the file for what the first client notes.
"""

from __future__ import annotations

import json
import sys
import time

import nvflare.client as flare
import torch
from digits import BATCH_SIZE, LEARNING_RATE, Digits, DigitsNet


def main() -> None:
    """Answer every round; a round is the time from one request to the next."""
    torch.set_num_threads(1)
    flare.init()
    folder, nodes, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    data, model = Digits(folder), DigitsNet()
    inputs, labels = (torch.from_numpy(part.copy()) for part in data.of_node(number, nodes))
    begins: list[float] = []
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        begins.append(time.time())
        model.load_state_dict({name: torch.as_tensor(value) for name, value in received.params.items()})
        if number == 0:
            with open(out, "w") as file:
                json.dump({"ends": begins[1:], "outcome": data.accuracy(model)}, file)
        train(model, inputs, labels)
        params = {name: value.detach().clone() for name, value in model.state_dict().items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": len(labels)}))


def train(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Train one epoch."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
