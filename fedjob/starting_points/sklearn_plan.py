"""A first training plan in scikit-learn. It trains as it is: `python FILE.py`.

Change one thing at a time, and look with `fedjob job check FILE.py` whether it would run.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedjob import FedAvg, Job, SklearnPlan

COLUMNS = ["age", "blood_pressure", "cholesterol"]  # the inputs: 1. write your columns here
TARGET = "sick"  # 0 or 1


class RiskEstimator(SklearnPlan):
    """Nodes get the text of this class, with the constants and imports that it uses, and nothing else of this file."""

    def init_estimator(self, model_args):
        """Return the estimator; the scaler counts over the rows of all nodes, in the first round."""
        return make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", alpha=model_args["alpha"]))

    def training_data(self, dataset, training_args):
        """Return inputs and targets of one node."""
        table = dataset.frame()[[*COLUMNS, TARGET]].dropna()
        return table[COLUMNS].to_numpy("float64"), table[TARGET].to_numpy()


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
    training_plan=RiskEstimator,
    # Two made-up hospitals in this process. 2. Put files of yours in their place.
    # 3. For real nodes leave out `nodes`, and name their data by tags: data={"tags": ["heart"]}
    nodes="local",
    data={
        "north": made_up(HERE.with_name(f"{HERE.stem}_north.csv"), seed=1),
        "south": made_up(HERE.with_name(f"{HERE.stem}_south.csv"), seed=2),
    },
    # the shape of the parameters, which must not depend on the rows of one node
    model_args={"num_features": len(COLUMNS), "classes": [0, 1], "alpha": 0.001},
    training_args={
        "epochs": 2,  # passes over the data in a round
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
