"""A first training plan in PyTorch. It trains as it is: `python FILE.py`.

Change one thing at a time, and look with `fedjob job check FILE.py` whether it would run.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedjob import FedAvg, Job, TorchPlan

COLUMNS = ["age", "blood_pressure", "cholesterol"]  # the inputs: 1. write your columns here
TARGET = "sick"  # 0 or 1


class RiskNetwork(TorchPlan):
    """Nodes get the text of this class, with the constants and imports that it uses, and nothing else of this file."""

    def init_model(self, model_args):
        """Return the model; `model_args` is what the job below gives."""
        return torch.nn.Sequential(
            torch.nn.Linear(len(COLUMNS), model_args["hidden"]),
            torch.nn.ReLU(),
            torch.nn.Linear(model_args["hidden"], 1),
        )

    def init_optimizer(self, model, training_args):
        """Return the optimizer; it is made anew in every round, and its state is kept at the node."""
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):
        """Return inputs and targets of one node: arrays, tensors, a torch Dataset or a DataLoader."""
        table = dataset.frame()[[*COLUMNS, TARGET]].dropna()
        inputs = table[COLUMNS].to_numpy("float32")
        inputs = (inputs - inputs.mean(axis=0)) / (
            inputs.std(axis=0) + 1e-6
        )  # scaled by this node's own rows
        return inputs, table[[TARGET]].to_numpy("float32")

    def training_step(self, model, batch):
        """Return the loss of one batch."""
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)

    def testing_step(self, model, batch):
        """Return predictions and targets; fedjob computes the metrics that `test_metric` names."""
        inputs, targets = batch
        return torch.sigmoid(model(inputs)), targets


def made_up(path, seed=0):
    """Write a table of patients who do not exist, unless the file is there."""
    if not path.exists():
        draw = np.random.default_rng(seed)
        table = pd.DataFrame(draw.normal([60, 130, 220], [10, 15, 40], (300, 3)).round(1), columns=COLUMNS)
        risk = (table.age - 60) / 10 + (table.cholesterol - 220) / 40
        table[TARGET] = (draw.random(300) < 1 / (1 + np.exp(-2 * risk))).astype(int)
        table.to_csv(path, index=False)
    return str(path)


HERE = Path(__file__).resolve()

job = Job(
    FedAvg(),
    training_plan=RiskNetwork,
    # Two made-up hospitals in this process. 2. Put files of yours in their place.
    # 3. For real nodes leave out `nodes`, and name their data by tags: data={"tags": ["heart"]}
    nodes="local",
    data={
        "north": made_up(HERE.with_name(f"{HERE.stem}_north.csv"), seed=1),
        "south": made_up(HERE.with_name(f"{HERE.stem}_south.csv"), seed=2),
    },
    model_args={"hidden": 8},
    training_args={
        "lr": 0.05,
        "epochs": 2,  # passes over the data in a round
        "batch_size": 32,
        "test_ratio": 0.2,  # the part of each node's rows that is kept for validation
        "test_on_global_updates": True,  # measure the shared model in every round
        "test_metric": ["accuracy", "roc_auc"],
    },
    rounds=5,
    seed=1,
)

if __name__ == "__main__":  # not when `fedjob job check` or `submit` reads this file
    result = job.run()  # at real nodes it waits until their owners have approved the plan
    result.save(HERE.with_name(f"{HERE.stem}_model.safetensors"), force=True)
