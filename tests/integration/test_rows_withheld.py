"""Attempts to take one patient out of a hospital whose owner sets a minimum of rows, through every number that leaves.

Each attempt is an honest plan, or an operation by name, with questions chosen to isolate a row. It must succeed at a hospital
without a minimum, so that it is an attempt, and fail at one with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob import (
    PCA,
    CoxRegression,
    Ditto,
    Evaluation,
    FedAvg,
    Filter,
    Items,
    KMeans,
    LinearRegression,
    LogisticRegression,
    Outliers,
    Plan,
    PoissonRegression,
    PrivateSetIntersection,
    QFedAvg,
    SklearnPlan,
    Statistics,
    TorchPlan,
    function,
)
from fedjob.protocols.base import LOSS, VALIDATE
from fedjob.protocols.function import STEP as CALL
from fedjob.protocols.function import Function
from fedjob.protocols.steps import Steps
from tests.hospital import Hospital, Left

ROWS, MIN_ROWS, PATIENT = 200, 20, 37
ZERO = {"bias": torch.zeros(1)}
ARGS = {"lr": 0.5, "batch_size": 1000}
SHAPE = {"num_features": 1, "classes": [0, 1]}
TEST = {"test_ratio": 1 / ROWS, "test_metric": "mse"}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    x = rng.uniform(10, 100, ROWS).round(4)
    ill = (x + rng.normal(0, 30, ROWS) > 55).astype(int)
    frame = pd.DataFrame(
        {
            "x": x,
            "age": rng.permutation(np.linspace(20, 90, ROWS)).round(3),
            "sex": rng.choice(["f", "m"], ROWS),
            "ill": ill,
            "time": rng.exponential(5, ROWS).round(2) + 0.01,
            "rare": 0,
            "code": "common",
            "id": [f"p{number}" for number in range(ROWS)],
        }
    )
    frame["count"] = rng.poisson(2, ROWS)
    frame["also"] = frame["x"]
    frame["inches"] = frame["x"] * 2.54
    frame["old"] = (frame["age"] > 55).astype(int)
    frame.loc[frame["age"].nsmallest(7).index, "old"] = 1
    frame.loc[PATIENT, ["rare", "also", "inches", "code"]] = [1, 0.0, 0.0, "rare"]
    return frame


TABLE = table()


class Mean(TorchPlan):
    """One number, the mean of x by gradient descent, and its errors."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        class Bias(torch.nn.Module):
            def __init__(self):  # type: ignore[no-untyped-def]
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(1))

            def forward(self, x):  # type: ignore[no-untyped-def]
                return self.bias.expand(len(x))

        return Bias()

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        x = torch.tensor(dataset.frame()["x"].to_numpy(), dtype=torch.float32)
        return x, x

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch[0]), batch[1]


class Apart(Mean):
    """The same, tested on rows that the plan's own text chooses."""

    def testing_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        x = torch.tensor(dataset.frame()["x"].to_numpy()[:1], dtype=torch.float32)
        return x, x


class Chosen(Mean):
    """The same, on the rows that an argument chooses."""

    extra_args = ("oldest",)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        frame = dataset.frame()
        x = torch.tensor(frame["x"].to_numpy()[frame["age"] < training_args["oldest"]], dtype=torch.float32)
        return x, x


class Streamed(Mean):
    """The same, from a generator of single rows."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        x = torch.tensor(dataset.frame()["x"].to_numpy(), dtype=torch.float32)
        return ((part, part) for part in x[:, None])

    def num_examples(self, batch):  # type: ignore[no-untyped-def]
        return len(batch[0])


class Scores(SklearnPlan):
    """A classifier whose test scores are compared with who is ill."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        from sklearn.linear_model import SGDClassifier

        return SGDClassifier(loss="log_loss")

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        frame = dataset.frame()
        return frame[["age"]] / 100, frame[training_args.get("target", "ill")]

    extra_args = ("target",)


class Exact(SklearnPlan):
    """An estimator that is fitted from sums: of `kind`, on the columns of `columns`, of the column `target`."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        from sklearn.linear_model import LinearRegression, LogisticRegression
        from sklearn.naive_bayes import GaussianNB

        kinds = {"linear": LinearRegression, "logistic": LogisticRegression, "bayes": GaussianNB}
        return kinds[model_args["kind"]]()

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        frame = dataset.frame()
        return frame[list(training_args["columns"])], frame[training_args["target"]]

    extra_args = ("columns", "target")


class Sums(Plan):
    """The sum of x of each batch."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [float(ctx.data.frame()["x"].sum())]


class Total(Plan):
    """The sum of x of all items, some of which may be left out first."""

    def setup(self, ctx):  # type: ignore[no-untyped-def]
        if "first" in ctx.args:
            ctx.select(list(range(ctx.args["first"])))

    def step(self, ctx):  # type: ignore[no-untyped-def]
        if "broken" in ctx.args and (ctx.data.frame()["id"] == ctx.args["broken"]).any():
            raise ValueError("broken")
        return float(ctx.data.frame()["x"].sum())

    def finish(self, ctx, values):  # type: ignore[no-untyped-def]
        return sum(values)


@function
def total(dataset):  # type: ignore[no-untyped-def]
    return float(dataset.frame()["x"].sum())


# --- reading what left -------------------------------------------------------------------------------


def is_of_a_patient(number: float) -> bool:
    """Tell whether a number is x of somebody."""
    return bool((np.abs(TABLE["x"] - number) < 3e-3).any())


def between(numbers: Iterable[float | None]) -> bool:
    """Tell whether the difference of two numbers is x of somebody."""
    known = [number for number in numbers if number is not None]
    return any(is_of_a_patient(abs(one - other)) for one in known for other in known)


def mse(left: Left, phase: str = "validate") -> float | None:
    state = left.metrics.get(phase, {}).get("mse")
    return None if state is None else float(state["total"][0])


def root(number: float | None) -> bool:
    return number is not None and is_of_a_patient(float(np.sqrt(number)))


def summed(left: Left, updates: float = 1.0, lr: float = 0.5) -> float | None:
    """Return the sum of x that one pass of gradient descent from zero took a part of."""
    if left.params is None or left.done is None:
        return None
    return float(left.params["bias"][0]) / (2 * lr) * updates


def train(hospital: Hospital, plan: Any = Mean, **more: Any) -> Left:
    args = {**ARGS, **more.pop("args", {})}
    return hospital.ask(more.pop("protocol", FedAvg()), plan=plan, params=ZERO, args=args, **more)


def told(hospital: Hospital, protocol: Any, **more: Any) -> Any:
    return hospital.play(protocol, **more)[0]


def squares_between(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and root(abs(one - other))


# --- attempts ------------------------------------------------------------------------------------------


def one_test_row_of_an_evaluation(h: Hospital) -> bool:
    lefts = [
        h.ask(Evaluation(), "validate", plan=Mean, params=ZERO, args={**ARGS, **TEST}, seed=s)
        for s in range(3)
    ]
    return any(root(mse(left)) for left in lefts)


def one_test_row_beside_training(h: Hospital) -> bool:
    return root(mse(train(h, args={**TEST, "test_on_global_updates": True}), "before"))


def one_test_row_in_the_event_of_a_validation(h: Hospital) -> bool:
    left = train(h, args={**TEST, "test_on_global_updates": True})
    return any(root(curve.get("mse")) for curve in left.curves)


def one_test_row_of_a_round_that_validates(h: Hospital) -> bool:
    return root(mse(train(h, step=VALIDATE, args=TEST)))


def one_fold_of_one_row(h: Hospital) -> bool:
    args = {"test_fold": [1, ROWS], "test_metric": "mse"}
    return root(mse(train(h, step=VALIDATE, args=args)))


def two_folds_that_differ_in_one_row(h: Hospital) -> bool:
    ratios = [0.5, 0.5 + 1 / ROWS]
    found = [mse(train(h, step=VALIDATE, args={"test_ratio": r, "test_metric": "mse"})) for r in ratios]
    return squares_between(found[0], found[1])


def two_seeds_that_leave_other_rows_out(h: Hospital) -> bool:
    found = [summed(train(h, args={"test_ratio": 1 / ROWS}, seed=s), ROWS - 1) for s in range(5)]
    return between([*found, summed(train(h), ROWS)])


def a_personal_model_tested_on_one_row(h: Hospital) -> bool:
    args = {**TEST, "test_on_local_updates": True, "lr": 1e-12}
    return root(mse(train(h, protocol=Ditto(lam=1e-9), args=args), "personal"))


def a_test_row_that_the_plan_chooses(h: Hospital) -> bool:
    return root(mse(train(h, Apart, step=VALIDATE, args={"test_metric": "mse"})))


def training_on_one_more_item(h: Hospital) -> bool:
    return between(summed(train(h, items=Items(limit=n)), n) for n in (150, 151))


def training_on_one_more_row_of_a_filter(h: Hospital) -> bool:
    ages = np.sort(TABLE["age"])
    sizes = (150, 151)
    return between(summed(train(h, preprocess=[Filter("age", "<", float(ages[n]))]), n) for n in sizes)


def training_on_one_more_row_of_the_plans_own(h: Hospital) -> bool:
    ages = np.sort(TABLE["age"])
    return between(summed(train(h, Chosen, args={"oldest": float(ages[n])}), n) for n in (150, 151))


def one_update_of_one_row(h: Hospital) -> bool:
    found = summed(train(h, args={"num_updates": 1, "batch_size": 1}))
    return found is not None and is_of_a_patient(found)


def a_dry_run_of_one_row(h: Hospital) -> bool:
    found = summed(train(h, args={"dry_run": True, "batch_size": 1}))
    return found is not None and is_of_a_patient(found)


def one_batch_of_each_epoch(h: Hospital) -> bool:
    found = summed(train(h, args={"batch_maxnum": 1, "epochs": 1, "batch_size": 1}))
    return found is not None and is_of_a_patient(found)


def one_update_more(h: Hospital) -> bool:
    args = {"lr": 1e-6, "batch_size": 1}
    found = [summed(train(h, args={**args, "num_updates": n}), lr=1e-6) for n in (40, 41)]
    known = [number for number in found if number is not None]
    return len(known) == 2 and bool((np.abs(TABLE["x"] - abs(known[1] - known[0])) < 0.3).any())


def one_update_of_a_stream(h: Hospital) -> bool:
    found = summed(train(h, Streamed, args={"num_updates": 1}))
    return found is not None and is_of_a_patient(found)


def losses_of_single_rows_on_the_way(h: Hospital) -> bool:
    left = train(h, args={"batch_size": 1, "log_interval": 1, "lr": 1e-9})
    return any(root(curve.get("loss")) for curve in left.curves)


def losses_of_a_stream_on_the_way(h: Hospital) -> bool:
    left = train(h, Streamed, args={"log_interval": 1, "lr": 1e-9})
    return any(root(curve.get("loss")) for curve in left.curves)


def the_training_loss_of_one_more_update(h: Hospital) -> bool:
    args = {"batch_size": 1, "lr": 1e-9}
    lefts = [train(h, args={**args, "num_updates": n}) for n in (150, 151)]
    states = [left.metrics.get("train", {}).get("loss") for left in lefts]
    found = [None if state is None else state["total"] for state in states]
    return squares_between(found[0], found[1])


def the_loss_of_one_more_item(h: Hospital) -> bool:
    lefts = [train(h, step=LOSS, items=Items(limit=n)) for n in (150, 151)]
    states = [left.metrics.get("loss", {}).get("loss") for left in lefts]
    found = [None if state is None else state["total"] for state in states]
    return squares_between(found[0], found[1])


def how_much_a_node_weighs_by_its_loss(h: Hospital) -> bool:
    found = []
    for n in (150, 151):
        left = train(h, protocol=QFedAvg(q=1.0, lipschitz=1e-9), items=Items(limit=n))
        if left.params is None:
            return False
        aux = next(name for name in left.params if name.endswith("h"))
        found.append(n * float(left.params[aux]))
    return len(found) == 2 and found[0] != found[1]


def a_function_of_one_more_item(h: Hospital) -> bool:
    lefts = [h.ask(Function(), CALL, plan=total, items=Items(limit=n)) for n in (150, 151)]
    return between(left.value for left in lefts)


def a_plan_in_batches_of_one(h: Hospital) -> bool:
    left = h.ask(Steps(), "step", plan=Sums, items=Items(batch=1))
    events = [body.get("value") for type_, body in left.events if type_ == "result"]
    return any(is_of_a_patient(number) for value in [left.value, *events] for number in value or ())


def a_plan_whose_last_batch_is_one(h: Hospital) -> bool:
    left = h.ask(Steps(), "step", plan=Sums, items=Items(batch=ROWS - 1))
    return any(is_of_a_patient(number) for number in left.value or ())


def a_plan_in_other_batches(h: Hospital) -> bool:
    lefts = [h.ask(Steps(), "step", plan=Sums, items=Items(batch=n)) for n in (100, 101)]
    return between(number for left in lefts for number in left.value or ())


def a_plan_that_selects_one_more(h: Hospital) -> bool:
    return between(h.ask(Steps(), "step", plan=Total, args={"first": n}).value for n in (150, 151))


def a_plan_that_fails_on_one(h: Hospital) -> bool:
    whole = h.ask(Steps(), "step", plan=Total, items=Items(batch=25, tolerate=3))
    items = Items(batch=25, tolerate=3, retry_single=True)
    without = h.ask(Steps(), "step", plan=Total, args={"broken": f"p{PATIENT}"}, items=items)
    return between([whole.value, without.value])


def a_mean_of_one_more_item(h: Hospital) -> bool:
    found = [told(h, Statistics(mean="x"), items=Items(limit=n)) for n in (150, 151)]
    return between(_sum_of(value) for value in found)


def a_mean_of_one_more_row_of_a_filter(h: Hospital) -> bool:
    ages = np.sort(TABLE["age"])
    steps = [[Filter("age", "<", float(ages[n]))] for n in (150, 151)]
    return between(_sum_of(told(h, Statistics(mean="x"), preprocess=step)) for step in steps)


def the_mean_of_a_small_group(h: Hospital) -> bool:
    value = told(h, Statistics(mean="x", by="rare"))
    return value is not None and any(map(is_of_a_patient, value["columns"]["mean"]))


def means_of_columns_that_differ_in_one_row(h: Hospital) -> bool:
    found = []
    for name in ("x", "also"):
        value = told(h, Statistics(mean=name))
        found += [] if value is None or value["columns"].empty else [value["columns"]["mean"][0] * ROWS]
    return between(found)


def a_count_of_one_as_a_sum(h: Hospital) -> bool:
    value = told(h, Statistics(mean="rare"))
    return value is not None and not value["columns"].empty


def a_count_of_one_in_a_spread(h: Hospital) -> bool:
    value = told(h, Statistics(std="rare"))
    return value is not None and not value["columns"].empty and bool(value["columns"]["std"].notna().any())


def a_category_of_one(h: Hospital) -> bool:
    value = told(h, Statistics(categories="code"))
    return value is not None and "rare" in value["categories"]["category"].tolist()


def a_bin_of_one(h: Hospital) -> bool:
    x = np.sort(TABLE["x"])
    value = told(h, Statistics(histogram={"x": [0.0, float(x[0]) + 1e-6, 200.0]}))
    return value is not None and 1 in value["histogram"]["count"].tolist()


def a_cell_of_one(h: Hospital) -> bool:
    value = told(h, Statistics(table=["sex", "code"]))
    return value is not None and 1 in value["table"]["count"].tolist()


def the_largest_value(h: Hospital) -> bool:
    value = told(h, Statistics(max="x"))
    return value is not None and any(map(is_of_a_patient, value["columns"]["max"]))


def a_quantile_of_one(h: Hospital) -> bool:
    value = told(h, Statistics(quantiles={"x": [0.0, 1.0]}))
    return value is not None and bool((value["quantiles"]["error"] < 1e-3).any())


def a_covariance_with_a_mark(h: Hospital) -> bool:
    value = told(h, Statistics(covariance=["rare", "x"]))
    return value is not None and not value["covariance"].empty


def a_regression_with_a_mark(h: Hospital) -> bool:
    return told(h, LinearRegression(target="x", features=["rare"])) is not None


def components_with_a_mark(h: Hospital) -> bool:
    return told(h, PCA(features=["rare", "x"])) is not None


def a_cluster_of_one(h: Hospital) -> bool:
    x = np.sort(TABLE["x"])
    edge = float(x[-1] + x[-2]) / 2
    asked = KMeans(features=["x"], clusters=2, first=[[edge - 1000], [edge + 1000]], max_steps=1)
    value = told(h, asked)
    return value is not None and any(0 < size < MIN_ROWS for size in value["centres"]["rows"])


def clusters_that_differ_in_one_row(h: Hospital) -> bool:
    x = np.sort(TABLE["x"])
    sums: list[float] = []
    for n in (100, 101):
        edge = float(x[n - 1] + x[n]) / 2
        asked = KMeans(features=["x"], clusters=2, first=[[edge - 1000], [edge + 1000]], max_steps=1)
        _, answers = h.play(asked)
        for left in answers:
            if left.done and "counts" in left.value:
                mean, scale = float(TABLE["x"].mean()), float(TABLE["x"].std(ddof=0))
                sums += [
                    s[0] * scale + c * mean
                    for s, c in zip(left.value["sums"], left.value["counts"], strict=True)
                ]
    return between(sums)


def _steep(protocol: Any, target: str, h: Hospital, key: str) -> list[Any]:
    """Ask for sums at coefficients of the attacker's making: all weight is on those above an age."""
    found = []
    ages = np.sort(TABLE["age"])
    for n in (150, 151):
        edge = float(ages[n - 1] + ages[n]) / 2
        values = {"levels": {}, "means": [edge, 0.0], "scales": [1e-4, 1.0], "at": [0.0, 1.0, 0.0]}
        left = h.ask(protocol, "newton", values)
        found.append(None if left.done is None else left.value[key])
    return found


def a_newton_step_with_steep_coefficients(h: Hospital) -> bool:
    asked = LogisticRegression(target="ill", features=["age", "x"])
    found = _steep(asked, "ill", h, "gradient")
    return between(None if one is None else one[2] for one in found)


def a_second_derivative_of_one_row(h: Hospital) -> bool:
    asked = PoissonRegression(target="count", features=["age", "x"])
    oldest = float(TABLE["age"].max())
    values = {"levels": {}, "means": [oldest, 0.0], "scales": [1e-3, 1.0], "at": [0.0, 1.0, 0.0]}
    left = h.ask(asked, "newton", values)
    return left.done is not None and is_of_a_patient(left.value["hessian"][0][2])


def a_risk_of_one_row(h: Hospital) -> bool:
    asked = CoxRegression(duration="time", event="ill", features=["age", "x"])
    oldest = float(TABLE["age"].max())
    values = {"levels": {}, "means": [oldest, 0.0], "scales": [0.1, 1.0], "at": [1.0, 0.0]}
    left = h.ask(asked, "newton", {**values, "times": []})
    return left.done is not None


def times_of_single_events(h: Hospital) -> bool:
    asked = CoxRegression(duration="time", event="ill", features=["age"], baseline="shared")
    _, answers = h.play(asked)
    return any(left.done is not None and len(left.value) > 50 for left in answers)


def _exact(h: Hospital, kind: str, columns: list[str], target: str, **over: Any) -> Any:
    args = {"columns": columns, "target": target}
    model_args = {"kind": kind, "num_features": len(columns)}
    model_args |= {} if kind == "linear" else {"classes": [0, 1]}
    params = h.first(Exact, model_args, args)
    for name, value in over.items():
        params[name] = torch.as_tensor(value, dtype=torch.float64).reshape(params[name].shape)
    return h.ask(FedAvg(), plan=Exact, params=params, args=args, model_args=model_args).params


def products_of_an_estimator_with_a_mark(h: Hospital) -> bool:
    params = _exact(h, "linear", ["rare"], "x")
    return params is not None and is_of_a_patient(float(params["products"][0, 1]) * ROWS)


def moments_of_a_class_of_one(h: Hospital) -> bool:
    params = _exact(h, "bayes", ["x"], "rare")
    return params is not None and is_of_a_patient(float(params["shifts"][1, 0]) * ROWS)


def a_gradient_of_an_estimator_at_steep_coefficients(h: Hospital) -> bool:
    ages, found = np.sort(TABLE["age"]), []
    for n in (150, 151):
        edge = float(ages[n - 1] + ages[n]) / 2
        params = _exact(h, "logistic", ["age", "x"], "ill", coef_=[1e4, 0.0], intercept_=[-1e4 * edge])
        found.append(None if params is None else float(params["gradient"][0, 1]) * ROWS)
    return between(found)


def means_of_columns_in_other_units(h: Hospital) -> bool:
    found = []
    for name, factor in (("x", 2.54), ("inches", 1.0)):
        value = told(h, Statistics(mean=name))
        found += (
            [] if value is None or value["columns"].empty else [value["columns"]["mean"][0] * ROWS * factor]
        )
    return len(found) == 2 and is_of_a_patient(abs(found[0] - found[1]) / 2.54)


def outliers_that_are_one(h: Hospital) -> bool:
    value = told(h, Outliers(columns=["also"], z=2.2))
    if value is None or value["columns"].empty:
        return False
    counts = value["columns"][["z_below", "z_above", "iqr_below", "iqr_above"]].to_numpy().ravel()
    return any(not pd.isna(count) and 0 < count < MIN_ROWS for count in counts)


def a_curve_of_single_scores(h: Hospital) -> bool:
    left = _scored(h, {"test_metric": "roc_auc", "test_ratio": 0.5})
    state = left.metrics.get("validate", {}).get("roc_auc")
    return state is not None and any(p[2] + p[3] < MIN_ROWS for s in state["sketches"] for p in s)


def a_label_of_one(h: Hospital) -> bool:
    left = _scored(h, {"test_metric": "f1", "test_ratio": 1.0, "target": "rare"})
    state = left.metrics.get("validate", {}).get("f1")
    return state is not None and any(0 < a + c < MIN_ROWS for a, _, c in state["counts"])


def an_error_of_few(h: Hospital) -> bool:
    """Tell whether counts of precision say how few of the old were taken for young."""
    args, model_args = {"test_metric": "precision", "test_ratio": 1.0, "target": "old"}, SHAPE
    params = {
        name: torch.full_like(tensor, 10.0 if tensor.numel() == 1 and "coef" in name else -5.5)
        for name, tensor in h.first(Scores, model_args, args).items()
    }
    left = h.ask(Evaluation(), "validate", plan=Scores, params=params, args=args, model_args=model_args)
    state = left.metrics.get("validate", {}).get("precision")
    return state is not None and any(0 < b < MIN_ROWS or 0 < c < MIN_ROWS for _, b, c in state["counts"])


def who_is_here(h: Hospital) -> bool:
    return h.ask(PrivateSetIntersection(on="id", own="me"), "blind").done is not None


def _scored(h: Hospital, args: dict[str, Any]) -> Left:
    model_args = {"num_features": 1, "classes": [0, 1]}
    params = h.first(Scores, model_args, args)
    params = {name: tensor + 1.0 for name, tensor in params.items()}
    return h.ask(Evaluation(), "validate", plan=Scores, params=params, args=args, model_args=model_args)


def _sum_of(value: Any) -> float | None:
    if value is None or value["columns"].empty:
        return None
    return float(value["columns"]["mean"][0]) * int(value["nodes"]["hospital"])


ATTEMPTS: list[Callable[[Hospital], bool]] = [
    one_test_row_of_an_evaluation,
    one_test_row_beside_training,
    one_test_row_in_the_event_of_a_validation,
    one_test_row_of_a_round_that_validates,
    one_fold_of_one_row,
    two_folds_that_differ_in_one_row,
    two_seeds_that_leave_other_rows_out,
    a_personal_model_tested_on_one_row,
    a_test_row_that_the_plan_chooses,
    training_on_one_more_item,
    training_on_one_more_row_of_a_filter,
    training_on_one_more_row_of_the_plans_own,
    one_update_of_one_row,
    a_dry_run_of_one_row,
    one_batch_of_each_epoch,
    one_update_more,
    one_update_of_a_stream,
    losses_of_single_rows_on_the_way,
    losses_of_a_stream_on_the_way,
    the_training_loss_of_one_more_update,
    the_loss_of_one_more_item,
    how_much_a_node_weighs_by_its_loss,
    a_function_of_one_more_item,
    a_plan_in_batches_of_one,
    a_plan_whose_last_batch_is_one,
    a_plan_in_other_batches,
    a_plan_that_selects_one_more,
    a_plan_that_fails_on_one,
    a_mean_of_one_more_item,
    a_mean_of_one_more_row_of_a_filter,
    the_mean_of_a_small_group,
    means_of_columns_that_differ_in_one_row,
    a_count_of_one_as_a_sum,
    a_count_of_one_in_a_spread,
    a_category_of_one,
    a_bin_of_one,
    a_cell_of_one,
    the_largest_value,
    a_quantile_of_one,
    a_covariance_with_a_mark,
    a_regression_with_a_mark,
    components_with_a_mark,
    a_cluster_of_one,
    clusters_that_differ_in_one_row,
    a_newton_step_with_steep_coefficients,
    a_second_derivative_of_one_row,
    a_risk_of_one_row,
    times_of_single_events,
    products_of_an_estimator_with_a_mark,
    moments_of_a_class_of_one,
    a_gradient_of_an_estimator_at_steep_coefficients,
    means_of_columns_in_other_units,
    outliers_that_are_one,
    a_curve_of_single_scores,
    a_label_of_one,
    an_error_of_few,
    who_is_here,
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_no_attempt_takes_a_patient_out_where_the_owner_sets_a_minimum(
    attempt: Callable[[Hospital], bool], tmp_path: Path
) -> None:
    assert attempt(Hospital(tmp_path / "open", TABLE, 0)), "not even a hospital without a minimum tells"
    assert not attempt(Hospital(tmp_path / "strict", TABLE, MIN_ROWS))


# --- jobs that isolate nobody -----------------------------------------------------------------------------


def test_rounds_with_a_test_split_go_on_whatever_their_seeds(tmp_path: Path) -> None:
    h = Hospital(tmp_path, TABLE, MIN_ROWS)
    args = {"lr": 0.1, "batch_size": 16, "epochs": 2, "test_ratio": 0.25, "test_metric": "mse"}
    found = [
        train(h, args={**args, "test_on_global_updates": True}, seed=seed, round_=round_)
        for seed in (1, 2)
        for round_ in (1, 2, 3)
    ]
    assert not [left.refused for left in found if left.refused]
    counts = {left.metrics["before"]["mse"]["n"] for left in found}
    assert len(counts) == 1  # the same rows, whatever the seed
    assert MIN_ROWS <= counts.pop() < ROWS / 2
    assert all("loss" in left.metrics["train"] for left in found)
    passes = [curve["loss"] for curve in found[0].curves if "loss" in curve]
    assert len(passes) == 2  # one at the end of each pass, and none between


def test_parts_of_a_pass_are_over_the_same_rows_in_every_round(tmp_path: Path) -> None:
    h = Hospital(tmp_path, TABLE, MIN_ROWS)
    args = {"lr": 0.1, "batch_size": 25, "num_updates": 3}
    found = [train(h, args=args, seed=seed, round_=round_) for seed, round_ in ((1, 1), (1, 2), (9, 1))]
    assert {left.refused for left in found} == {""}
    sums = [
        summed(train(h, args={**args, "lr": 1e-4, "batch_size": 75, "num_updates": 1}, seed=s), lr=1e-4)
        for s in (3, 4)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_a_model_may_leave_where_its_test_may_not(tmp_path: Path) -> None:
    left = train(
        Hospital(tmp_path, TABLE, MIN_ROWS), args={"test_ratio": 0.02, "test_on_global_updates": True}
    )
    assert left.params is not None
    assert set(left.metrics) == {"train"}
    (note,) = [body["text"] for type_, body in left.events if type_ == "note"]
    assert note.startswith("min_rows: what is measured on the test split would be about few rows")
    assert note.endswith("fewer than the owner's minimum of 20")


def test_a_model_may_leave_where_a_label_of_few_keeps_its_metric_back(tmp_path: Path) -> None:
    frame = TABLE.assign(rare=np.arange(ROWS) % 10 == 0).astype({"rare": int})
    h = Hospital(tmp_path, frame, MIN_ROWS)
    args = {"test_ratio": 0.5, "target": "rare", "test_on_global_updates": True}
    model_args = {"num_features": 1, "classes": [0, 1]}
    params = h.first(Scores, model_args, args)
    for names, kept in ((["f1", "accuracy"], {"before": {"accuracy"}}), (["f1"], {})):
        wanted = {**args, "test_metric": names}
        left = h.ask(FedAvg(), plan=Scores, params=params, args=wanted, model_args=model_args)
        found = {phase: set(states) for phase, states in left.metrics.items()}
        assert found == {**kept, "train": {"loss"}}
        assert "f1: a label, a class or a kind of error is that of fewer" in str(
            [body for type_, body in left.events if type_ == "note"]
        )


def test_folds_that_are_large_enough_are_all_measured(tmp_path: Path) -> None:
    h = Hospital(tmp_path, TABLE, MIN_ROWS)
    args = {"lr": 0.1, "test_on_local_updates": True, "test_metric": "mse"}
    folds = [train(h, args={**args, "test_fold": [part, 4]}) for part in (1, 2, 3, 4)]
    assert {left.refused for left in folds} == {""}
    assert sum(left.metrics["after"]["mse"]["n"] for left in folds) == ROWS


def test_operations_on_all_rows_give_what_they_give_without_a_minimum(tmp_path: Path) -> None:
    asked: list[Any] = [
        Statistics(mean=["x", "age"], std="x", correlation=["x", "age"], by="sex"),
        LinearRegression(target="x", features=["age", "sex"], categorical="sex"),
        LogisticRegression(target="ill", features=["age", "x"]),
        PoissonRegression(target="count", features=["age", "x"]),
        CoxRegression(duration="time", event="ill", features=["age"]),
        PCA(features=["x", "age"]),
    ]
    for place, protocol in enumerate(asked):
        free = told(Hospital(tmp_path / f"free{place}", TABLE, 0), protocol)
        held = told(Hospital(tmp_path / f"held{place}", TABLE, MIN_ROWS), protocol)
        name = next(key for key in ("columns", "coefficients", "components") if key in free)
        pd.testing.assert_frame_equal(free[name], held[name])


@pytest.mark.parametrize(
    ("kind", "columns", "target"),
    [("linear", ["age", "count"], "x"), ("logistic", ["age", "x"], "ill"), ("bayes", ["age", "x"], "ill")],
)
def test_estimators_that_follow_from_sums_are_fitted_round_by_round(
    tmp_path: Path, kind: str, columns: list[str], target: str
) -> None:
    free, held = Hospital(tmp_path / "free", TABLE, 0), Hospital(tmp_path / "held", TABLE, MIN_ROWS)
    given: dict[str, Any] = {}
    for _ in range(5):
        one, other = (_exact(h, kind, columns, target, **given) for h in (free, held))
        assert one is not None
        assert other is not None
        given = {name: one[name].clone() for name in one}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_clusters_of_a_strict_hospital_are_near_those_of_an_open_one(tmp_path: Path) -> None:
    x = np.concatenate([np.random.default_rng(1).normal(m, 1, 100) for m in (0, 20)])
    frame = pd.DataFrame({"x": x})
    asked = KMeans(features=["x"], clusters=2, seed=3)
    free = told(Hospital(tmp_path / "free", frame, 0), asked)["centres"]["x"].tolist()
    held = told(Hospital(tmp_path / "held", frame, MIN_ROWS), asked)["centres"]["x"].tolist()
    assert sorted(held) == pytest.approx(sorted(free), abs=1.0)


def test_a_function_and_a_plan_answer_again_and_again(tmp_path: Path) -> None:
    h = Hospital(tmp_path, TABLE, MIN_ROWS)
    values = [h.ask(Function(), CALL, plan=total).value for _ in range(2)]
    values += [h.ask(Steps(), "step", plan=Total, items=Items(batch=7)).value]
    assert values == pytest.approx([TABLE["x"].sum()] * 3)
    parts = h.ask(Steps(), "step", plan=Sums, items=Items(batch=95))
    assert len(parts.value) == 2  # the last batch would be of ten rows: it is a part of the one before


class Counted(Mean):
    """Fifty examples, whatever files there are."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        x = torch.arange(50.0)
        return x, x


def test_examples_that_only_a_plan_can_read_are_told_apart_by_their_places(tmp_path: Path) -> None:
    path = tmp_path / "scans.bin"
    path.write_bytes(b"of fifty patients")
    h = Hospital(tmp_path / "h", path, MIN_ROWS, reader="torch", options={"rows": "50"})
    assert train(h, Counted).params is not None
    assert train(h, Counted, args={"num_updates": 1, "batch_size": 45}).refused == "min_rows"
    assert train(h, Counted, args={"num_updates": 1, "batch_size": 25}).params is not None


def test_rows_that_are_left_out_for_a_missing_value_do_not_stand_in_the_way(tmp_path: Path) -> None:
    frame = TABLE.copy()
    frame.loc[:3, "age"] = None
    h = Hospital(tmp_path, frame, MIN_ROWS)
    assert train(h, preprocess=[Filter("age", ">", 0.0)]).params is not None
