"""A first remote function: one question instead of a training plan. It runs as it is: `python FILE.py`.

Change one thing at a time, and look with `fedjob job check FILE.py` whether it would run.
"""

from pathlib import Path

import numpy as np
import pandas as pd

import fedjob
from fedjob import Job


@fedjob.function
def mean_by_group(dataset, column, group):
    """Return the mean of a column and the number of rows, by group.

    Nodes get the text of this function, with the constants and imports that it uses, and nothing else of this file.
    Their owners read it: a short function that returns little is approved soon.
    """
    table = dataset.frame()[[column, group]].dropna()
    return table.groupby(group)[column].agg(["mean", "count"])


def made_up(path, seed=0):
    """Write a table of patients who do not exist, unless the file is there."""
    if not path.exists():
        draw = np.random.default_rng(seed)
        table = pd.DataFrame({"age": draw.normal(60, 10, 300).round(), "sex": draw.choice(["f", "m"], 300)})
        table.to_csv(path, index=False)
    return str(path)


HERE = Path(__file__).resolve()

job = Job(
    mean_by_group.bind(column="age", group="sex"),  # 1. write your columns here
    # Two made-up hospitals in this process. 2. Put files of yours in their place.
    # 3. For real nodes leave out `nodes`, and name their data by tags: data={"tags": ["heart"]}
    nodes="local",
    data={
        "north": made_up(HERE.with_name(f"{HERE.stem}_north.csv"), seed=1),
        "south": made_up(HERE.with_name(f"{HERE.stem}_south.csv"), seed=2),
    },
    seed=1,
)

if __name__ == "__main__":  # not when `fedjob job check` or `submit` reads this file
    result = job.run()  # at real nodes it waits until their owners have approved the function
    for node, answer in result.value.items():
        answer.to_csv(HERE.with_name(f"{HERE.stem}_of_{node}.csv"))
