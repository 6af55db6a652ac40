"""Rounds of a simulation by torch alone: the training of the cohort's nodes and the mean of their models, and nothing else.

It is no framework but the floor of one: what the machine needs for the same operations of torch, with a process for each
worker, one model and one sum in memory, and no node, file, check or message besides.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import ranks


def rounds(work: dict[str, Any]) -> dict[str, Any]:
    """Train, and return when each round ended and the loss at the end."""
    import torch
    import torch.distributed as dist
    from images import BATCH_SIZE, LEARNING_RATE, Images, loss_of, model_of

    workers, rank = work["workers"], int(os.environ.get(ranks.RANK, "0"))
    torch.set_num_threads(1 if workers > 1 else work["threads"])
    if workers > 1:
        first = os.environ[ranks.ADDRESSES].split(",")[0]
        dist.init_process_group("gloo", init_method=f"tcp://{first}", rank=rank, world_size=workers)
    images, model = Images(work["data"]), model_of(work["model"])
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    shared = [value.detach().clone() for value in model.parameters()]
    draw = random.Random(0)
    ends: list[float] = []
    model.train()
    for _ in range(work["rounds"]):
        cohort = draw.sample(range(work["nodes"]), work["cohort"])
        total = [torch.zeros_like(value) for value in shared]
        for node in cohort[rank::workers]:
            inputs, labels = images.of_node(node)
            with torch.no_grad():
                for value, begun in zip(model.parameters(), shared, strict=True):
                    value.copy_(begun)
            order = torch.randperm(len(labels))
            for start in range(0, len(order), BATCH_SIZE):
                rows = order[start : start + BATCH_SIZE]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
                optimizer.step()
            for sum_, value in zip(total, model.parameters(), strict=True):
                sum_.add_(value.detach(), alpha=1 / len(cohort))
        if workers > 1:
            for sum_ in total:
                dist.all_reduce(sum_)
        shared = total
        ends.append(time.time())
    with torch.no_grad():
        for value, end in zip(model.parameters(), shared, strict=True):
            value.copy_(end)
    if workers > 1:
        dist.destroy_process_group()
    return {"ends": ends, "outcome": loss_of(model, images, work["nodes"])}


if __name__ == "__main__":
    ranks.main(rounds)
