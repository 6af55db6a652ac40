"""Federated averaging on handwritten digits in MNIST's own files, each node with digits of its own."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedjob import FedAvg, Job, TorchPlan


class Digits(TorchPlan):
    """A network with one hidden layer on images of 8 x 8 pixels."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        images, labels = dataset.arrays()
        return torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch[0]).argmax(1), batch[1]


def write_idx(path: Path, values: np.ndarray) -> None:  # type: ignore[type-arg]
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.mark.feature("BF-66")
def test_nodes_with_different_digits_learn_all_of_them(tmp_path: Path) -> None:
    found = load_digits()
    mostly = {"low": found.target < 5, "high": found.target >= 5}
    turn = np.arange(len(found.target)) % 5 == 0  # a fifth of each node's images are of the other half
    data = {}
    for node, own in mostly.items():
        chosen = own ^ turn
        folder = tmp_path / node
        folder.mkdir()
        write_idx(folder / "train-images-idx3-ubyte", found.images[chosen])
        write_idx(folder / "train-labels-idx1-ubyte", found.target[chosen])
        data[node] = str(folder)
    job = Job(
        FedAvg(),
        training_plan=Digits,
        data=data,
        nodes="local",
        training_args={"lr": 0.2, "epochs": 2, "test_ratio": 0.2},
        rounds=8,
        seed=1,
        validate_at_end=True,
        breakpoint_every=8,
        home=tmp_path / "home",
    )
    history = job.run(progress=False).history
    final = history[(history.phase == "validate") & (history.metric == "accuracy")].set_index("node").value
    assert final["all"] > 0.9
    assert final["low"] > 0.85
    assert final["high"] > 0.85
