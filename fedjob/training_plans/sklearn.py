"""Training plans for scikit-learn estimators: those that learn batch by batch, and those that follow from sums."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.seeds import seed_for
from fedjob.metrics.base import MetricState
from fedjob.metrics.states import measure
from fedjob.training_plans.base import Adjust, PassLoss, RawArgs, TrainingPlan, TrainOutcome
from fedjob.training_plans.example_order import Passes, epoch_batches, num_updates, training_batches
from fedjob.training_plans.plan_checks import check_driven, overrides
from fedjob.training_plans.randomness import seeded
from fedjob.training_plans.training_args import Arguments, TrainingArgs

if TYPE_CHECKING:
    import torch

    from fedjob.training_plans.estimators.base import Fitted
    from fedjob.training_plans.private.training import PrivateTraining

Array = np.ndarray[Any, Any]
_OF_BATCHES = ("epochs", "num_updates", "batch_size", "batch_maxnum", "drop_last")


class SklearnPlan(TrainingPlan):
    """A scikit-learn estimator that is trained over nodes.

    SGDClassifier, SGDRegressor, Perceptron and MLPClassifier are trained with
    `partial_fit`: an update is one call with one batch. LinearRegression, Ridge,
    LogisticRegression, GaussianNB, MultinomialNB, BernoulliNB and ComplementNB are
    fitted exactly: a round sums over the rows of all nodes, and the result is that of
    scikit-learn on the rows together. Each may stand behind a StandardScaler in a
    Pipeline, or have `class_weight="balanced"`: then the first round counts, over all
    nodes, and trains nothing.

    `model_args` needs `num_features`, and for a classifier `classes`: the labels
    of all nodes, so that parameters have the same shape everywhere.
    """

    required_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "init_estimator": ("model_args",),
        "training_data": ("dataset", "training_args"),
    }
    optional_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "testing_data": ("dataset", "training_args"),
        "testing_step": ("estimator", "batch"),
    }

    shows_gradients: ClassVar[bool] = False

    model_args: Arguments

    def init_estimator(self, model_args: Mapping[str, Any]) -> Any:
        """Return the estimator, not fitted."""
        raise NotImplementedError

    def training_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return (inputs, targets): arrays or tables of shape (rows, num_features) and (rows,)."""
        raise NotImplementedError

    def testing_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return the data to validate on; without it `test_ratio` splits `training_data`."""
        return None

    def testing_step(self, estimator: Any, batch: tuple[Array, Array]) -> Any:
        """Return (predictions, targets), or {"name": value}; without it the estimator predicts."""
        raise NotImplementedError

    _data: tuple[Array, Array] | None = None
    _test: tuple[Array, Array] | None = None
    _fitted: Fitted
    _learner: Any
    _own_seed: int | None

    @property
    def model(self) -> Any:
        """The estimator."""
        return self._fitted.estimator

    def build(self, model_args: Mapping[str, Any] | None, training_args: RawArgs) -> None:
        from fedjob.training_plans.estimators.choice import fitted, learner_of

        self.training_args = TrainingArgs.parse(training_args, extra_args=self.extra_args)
        self.model_args = Arguments(model_args or {}, what="model_args")
        self.timing = {}
        seed = seed_for(self.ctx.job_seed, 0, "", "init")
        with seeded(seed):
            estimator = self.init_estimator(self.model_args)
            learner = learner_of(estimator)
            # a generator would remember how often it was drawn from
            self._own_seed = getattr(learner, "random_state", None)
            if not isinstance(self._own_seed, int) and hasattr(learner, "random_state"):
                self._own_seed = None
                learner.random_state = seed % 2**32
            self._fitted = fitted(estimator, self.model_args)
        self._learner = learner
        self._check_used()

    def _check_used(self) -> None:
        """Refuse arguments that an exact fit has no use for."""
        for name in _OF_BATCHES if self._fitted.exact else ():
            value = self.training_args.raw.get(name)
            if value not in (None, False) and not (name == "epochs" and value == 1):
                raise SpecError(
                    f"training_args {name!r} has no effect on a {type(self._learner).__name__}: a round sums once over "
                    "all rows of a node. Leave it out"
                )

    def _begin_anew(self) -> None:
        self._fitted.forget()

    def _num_rows(self, examples: tuple[Array, Array]) -> int:
        return len(examples[1])

    def get_params(self, *, copy: bool = True) -> dict[str, torch.Tensor]:
        import torch

        return {
            name: torch.from_numpy(np.array(array, order="C", copy=copy or None))
            for name, array in self._fitted.arrays().items()
        }

    def set_params(self, params: Mapping[str, torch.Tensor]) -> None:
        own = self._fitted.arrays()
        _check_fit(own, params)
        for name, array in own.items():
            array[...] = params[name].numpy()
        self._fitted.refresh()

    def train_locally(self, adjust: Adjust | None = None) -> TrainOutcome:
        if adjust is not None:
            raise PlanError(
                "this protocol corrects gradients, which scikit-learn does not show: use a TorchPlan"
            )
        return super().train_locally()

    def check_private(self) -> None:
        from fedjob.training_plans.private.linear_steps import check_estimator

        check_driven(type(self))
        check_estimator(self._fitted)

    def _check_same_examples(self, apart: Any, places: Sequence[int], num_rows: int) -> None:
        from fedjob.training_plans.private.record_by_record import check_same_examples

        assert self._data is not None
        check_same_examples(apart, self._data, places, num_rows)

    def _take_private_steps(self, private: PrivateTraining, adjust: Adjust | None) -> None:
        from fedjob.training_plans.private.linear_steps import LinearSteps

        steps = LinearSteps(self._fitted, private.terms.max_grad_norm)
        inputs, targets = self._data or (np.zeros((0, self._fitted.num_features)), np.zeros(0))
        steps.run(private, self._train_rows, inputs, targets)

    @property
    def _takes_all(self) -> bool:
        """True if the step is one pass over all rows: of an exact estimator, or to count before training."""
        return self._fitted.exact or not self._fitted.is_prepared

    def _num_updates(self) -> int:
        if self._takes_all:
            return 1
        if self.ctx.rows is not None:
            return self._limited_passes().total
        return num_updates(len(self._train_rows), self.training_args)

    def _limited_passes(self) -> Passes:
        if not self._takes_all:
            return self._passes()
        number = len(self._train_rows)
        return Passes(self._train_rows, max(1, number), 1, 1 if number else 0)

    def _begin_pass(self) -> PassLoss:
        allowed = super()._begin_pass()
        if self._takes_all:
            self._check_sums()
        return allowed

    def _check_sums(self) -> None:
        """Refuse sums over all rows that are in effect about few of them, where the owner sets a minimum of rows.

        Raises:
            NodeFailure: with reason `min_rows`.
        """
        assert self._data is not None
        limit, fitted = self.ctx.rows, self._fitted
        assert limit is not None
        inputs, targets = (part[self._train_rows] for part in self._data)
        if fitted.classes is None:
            few = limit.sums_isolate(np.column_stack([inputs, targets]), [])
        else:
            groups = [np.flatnonzero(targets == label) for label in fitted.classes]
            apart = groups if fitted.sums_by_class else []
            few = limit.sums_isolate(inputs, apart) or any(0 < len(g) < limit.min_rows for g in groups)
        if not few and fitted.is_prepared and (point := fitted.point()):
            few = limit.points_isolate(
                f"{type(self._learner).__name__} of {self._fitted.num_features}",
                point,
                lambda other: fitted.weights_at(other, inputs, targets),
            )
        if few:
            raise limit.refusal("sums of these columns")

    def _contents(self, examples: tuple[Array, Array]) -> list[Array]:
        return list(examples)

    def _each_update(self, adjust: Adjust | None) -> Iterator[tuple[int, float]]:
        assert self._data is not None
        self._set_seed()
        if self.ctx.rows is not None:
            batches = self._limited_passes().batches(self.seed_of("order"), shuffle=not self._takes_all)
        elif self._takes_all:
            batches = iter([self._train_rows] if len(self._train_rows) else [])
        else:
            batches = training_batches(self._train_rows, self.training_args, self.seed_of("order"))
        for rows in batches:
            inputs, targets = self._data[0][rows], self._data[1][rows]
            loss = self._fitted.loss(inputs, targets)
            if not math.isfinite(loss):
                raise self.fail("not_finite", f"the loss is {loss}: scale the inputs, or learn more slowly")
            try:
                self._fitted.update(inputs, targets)
            except ValueError as error:
                raise self.fail(
                    "plan", f"{type(self._learner).__name__} refuses the data: {error}"
                ) from error
            yield len(rows), loss

    @property
    def optimizer_args(self) -> dict[str, Any]:
        return {"estimator": type(self._learner).__name__, **self._fitted.settings()}

    def _check_finite(self) -> None:
        for name, array in self._fitted.arrays().items():
            if not np.isfinite(array).all():
                raise self.fail("not_finite", f"parameter {name} holds NaN or infinity after training")

    def _each_test(self) -> Iterator[tuple[int, dict[str, MetricState]]]:
        if self._test is None:
            return
        inputs, targets = self._test
        for rows in epoch_batches(self._test_rows, 10_000):
            yield len(rows), self._measure(inputs[rows], targets[rows])

    def training_loss(self) -> float:
        self._refuse_if_private("the loss of the training data")
        if self._data is None or not len(self._train_rows):
            raise self.fail("no_data", "training_data gave no examples to measure the loss of")
        self._check_rows("the loss of the training data", self._train_rows)
        loss = self._fitted.loss(self._data[0][self._train_rows], self._data[1][self._train_rows])
        if not math.isfinite(loss):
            raise self.fail("not_finite", "the loss of the training data is not finite")
        return float(loss)

    def predict_all(self) -> Array:
        self._refuse_if_private("a prediction for each record")
        if self._data is None:
            raise PlanError("the data is not loaded: call load_data before predict_all")
        found: Array = self.model.predict(self._data[0])
        return found

    def _measure(self, inputs: Array, targets: Array) -> dict[str, MetricState]:
        args, classes = self.training_args, self._fitted.classes
        if not overrides(self, SklearnPlan, "testing_step"):
            names = args.test_metric or (("mse",) if classes is None else ("accuracy",))
            found: dict[str, MetricState] = {}
            for name in names:
                if name == "roc_auc" and classes is not None:
                    pair = self._scores(inputs), np.searchsorted(classes, targets)
                else:
                    pair = self.model.predict(inputs), targets
                found |= measure([name], *pair, args.test_metric_args)
            return found
        return self._states_of(self.testing_step(self.model, (inputs, targets)), len(targets))

    def _compared(self, predictions: Any, targets: Any) -> dict[str, MetricState]:
        args = self.training_args
        default = ("mse",) if self._fitted.classes is None else ("accuracy",)
        return measure(args.test_metric or default, predictions, targets, args.test_metric_args)

    def _scores(self, inputs: Array) -> Array:
        """Return the probability or the score of class 1, or one score for each class."""
        if hasattr(self.model, "predict_proba"):
            shares: Array = self.model.predict_proba(inputs)
            return shares[:, 1] if shares.shape[1] == 2 else shares
        scores: Array = self.model.decision_function(inputs)
        return scores

    def get_state(self) -> dict[str, Any]:
        import torch

        from fedjob.training_plans.node_state import copy_tree

        def tensors(item: Any) -> Any:
            return [torch.from_numpy(array) for array in item] if isinstance(item, list) else item

        memory = {name: tensors(item) for name, item in self._fitted.memory().items()}
        tree = {
            "estimator": copy_tree(memory, "estimator"),
            "user": copy_tree(self.ctx.state, "self.ctx.state"),
        }
        return {name: part for name, part in tree.items() if part}

    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        from fedjob.training_plans.node_state import copy_tree

        tree = tree or {}
        self.ctx.state = copy_tree(tree.get("user", {}), "self.ctx.state")
        memory = {
            name: [tensor.numpy() for tensor in item] if isinstance(item, list) else item
            for name, item in tree.get("estimator", {}).items()
        }
        try:
            self._fitted.recall(memory)
        except (ValueError, KeyError, TypeError) as error:
            raise self.fail(
                "state_mismatch", f"the kept state does not fit the estimator: {error}"
            ) from error

    def _set_seed(self) -> None:
        if self._own_seed is None and hasattr(self._learner, "random_state"):
            self._learner.random_state = self.seed_of("estimator") % 2**32

    def _as_examples(self, data: Any, method: str) -> tuple[Array, Array]:
        """Check what the user's method returned.

        Raises:
            PlanError: not two arrays of as many rows, or other columns than `num_features`.
            NodeFailure: a value is missing, or a label is not among the classes.
        """
        from fedjob.training_plans.private.linear_steps import usable_examples

        where = f"{type(self).__name__}.{method}"
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise PlanError(f"{where} returned a {type(data).__name__}; expected (inputs, targets)")
        if any(np.ma.is_masked(part) for part in data):
            raise PlanError(f"{where} returned values that are masked in part: fill or drop what is masked")
        try:
            inputs = np.ascontiguousarray(np.asarray(data[0]), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"{where}: the inputs are not all numbers; encode texts and fill what is missing first"
            ) from error
        targets = np.asarray(data[1])
        targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
        num_features = self._fitted.num_features
        if inputs.ndim != 2 or inputs.shape[1] != num_features or targets.shape != (len(inputs),):
            raise PlanError(
                f"{where} returned arrays of shape {list(inputs.shape)} and {list(targets.shape)}; expected "
                f"[rows, {num_features}] and [rows]"
            )
        if self.ctx.private is not None:
            return usable_examples(inputs, targets, self._fitted.classes)
        if not np.isfinite(inputs).all() or (targets.dtype.kind == "f" and not np.isfinite(targets).all()):
            raise self.fail("not_finite", f"{where} gave missing or infinite values: fill or drop them")
        classes = self._fitted.classes
        if classes is None:
            return inputs, targets.astype(np.float64)
        unknown = [label for label in np.unique(targets).tolist() if label not in classes.tolist()]
        if unknown:
            raise self.fail(
                "unknown_class",
                f"{where} gave {len(unknown)} labels that model_args['classes'] does not list",
            )
        return inputs, targets.astype(classes.dtype)


def _check_fit(own: Mapping[str, Array], params: Mapping[str, torch.Tensor]) -> None:
    """Check that parameters are those of the estimator, by name, type and shape."""
    if set(own) != set(params):
        raise PlanError(
            f"the parameters don't fit the estimator: expected {', '.join(own)}, found {', '.join(params)}"
        )
    for name, array in own.items():
        given = params[name].numpy()
        if given.shape != array.shape or given.dtype != array.dtype:
            raise PlanError(
                f"parameter {name}: expected {array.dtype} {list(array.shape)}, "
                f"found {given.dtype} {list(given.shape)}"
            )
