"""Fed-Heart-Disease as FLamby defines it: what every hospital computes on its own file."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.model_selection import train_test_split

import fedjob
from fedjob import TorchPlan

NAMES = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)
"""The columns of the four files; `num` is 0 for no disease."""

CHEST_PAINS = (2, 3, 4)
CARDIOGRAMS = (1, 2)
"""The levels of columns 2 and 6 over all hospitals, the first of each left out."""

NUM_FEATURES = 13
SPLIT_SEED = 43


def examples(frame):
    """Return features (rows, 13) and labels (rows,) of the complete rows of one hospital, not normalised."""
    rows = frame.drop(columns=["slope", "ca", "thal"]).dropna()
    levels = [rows["cp"] == level for level in CHEST_PAINS] + [
        rows["restecg"] == level for level in CARDIOGRAMS
    ]
    numbers = rows.drop(columns=["cp", "restecg", "num"]).to_numpy(dtype="float64")
    features = np.column_stack([numbers, *(level.to_numpy(dtype=bool) for level in levels)])
    return torch.tensor(features, dtype=torch.float32), torch.tensor(rows["num"].to_numpy() > 0)


def split(labels):
    """Return the rows to train on and those to test on, 66 to 34."""
    rows = np.arange(len(labels))
    enough = np.bincount(labels, minlength=2).min() > 2
    return train_test_split(
        rows,
        train_size=0.66,
        test_size=0.34,
        random_state=SPLIT_SEED,
        shuffle=True,
        stratify=labels if enough else None,
    )


def parts(dataset):
    """Yield (features, labels, training rows, test rows) of each hospital in a dataset: of one, or of all pooled."""
    frame = dataset.frame()
    hospitals = [part for _, part in frame.groupby("hospital")] if "hospital" in frame else [frame]
    for hospital in hospitals:
        features, labels = examples(hospital[list(NAMES)])
        yield (features, labels, *split(labels.numpy()))


def normalised(features, mean, std):
    """Return features minus `mean` over `std`, 0 where a feature does not vary."""
    return (features - mean) / torch.where(std == 0, torch.ones_like(std), std)


@fedjob.function
def training_sums(dataset):
    """Return what the mean and the standard deviation of the pooled training rows are computed from."""
    features = torch.cat([features[train] for features, _, train, _ in parts(dataset)]).double()
    return {"n": len(features), "sums": features.sum(0).numpy(), "squares": features.square().sum(0).numpy()}


class Heart(TorchPlan):
    """Logistic regression: one linear layer, sigmoid, binary cross entropy.

    The shared model is tested twice: on features normalised by the hospital's own training rows, as they are
    trained on, and by those of all hospitals pooled, `mean` and `std`, as the paper's pooled test is.
    """

    extra_args = ("optimizer", "mean", "std")
    aux_modules = ("scaffold",)

    def init_model(self, model_args):
        return torch.nn.Linear(NUM_FEATURES, 1)

    def init_optimizer(self, model, training_args):
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[training_args["optimizer"]]
        return kind(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        self.parts = list(parts(dataset))
        features = torch.cat([features[train] for features, _, train, _ in self.parts])
        labels = torch.cat([labels[train] for _, labels, train, _ in self.parts])
        self.own = features.mean(0), features.std(0)
        return normalised(features, *self.own), labels

    def testing_data(self, dataset, training_args):
        features = torch.cat([features[test] for features, _, _, test in self.parts])
        labels = torch.cat([labels[test] for _, labels, _, test in self.parts])
        pooled = torch.tensor(training_args["mean"]), torch.tensor(training_args["std"])
        return torch.stack([normalised(features, *self.own), normalised(features, *pooled)], dim=1), labels

    def training_step(self, model, batch):
        features, labels = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(features)[:, 0], labels.float())

    def testing_step(self, model, batch):
        features, labels = batch
        right = (model(features)[..., 0] > 0) == labels[:, None]
        own, pooled = right.float().mean(0)
        return {"accuracy": own, "pooled": pooled}
