"""The interface of training plans, and the loops of training and validation that all kinds share.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import NodeFailure, NotPrivate, PlanError, SpecError
from fedjob.common.seeds import seed_for
from fedjob.metrics.base import MetricState
from fedjob.metrics.disclosure import disclosed
from fedjob.metrics.states import add_all, is_state, mean_state, values
from fedjob.parameters.tensor_kinds import Kinds
from fedjob.training_plans.context import Context
from fedjob.training_plans.example_order import Passes, drawn_by_key, is_logged, split_indices, whole_passes
from fedjob.training_plans.private_terms import check_one_table, check_training_args
from fedjob.training_plans.randomness import seeded
from fedjob.training_plans.state.warm_plan import WarmPlan
from fedjob.training_plans.training_args import TrainingArgs

if TYPE_CHECKING:
    import torch

    from fedjob.data.row_limit import RowSet
    from fedjob.parameters.frozen import FrozenPart
    from fedjob.training_plans.private.training import PrivateTraining

Adjust = Callable[[Any], None]
"""Called with the model between the backward pass and the optimizer's step."""

RawArgs = TrainingArgs | Mapping[str, Any] | None
"""Training arguments, checked already or as a user writes them."""


@dataclass(frozen=True)
class TrainOutcome:
    """The outcome of local training.

    Args:
        num_examples: in the training split: the weight of this node.
        num_updates: optimizer steps taken.
        loss: mean over all examples seen, weighted by batch sizes.
        metrics: name -> state, see `fedjob.metrics.states`; `loss` is one.
    """

    num_examples: int
    num_updates: int
    loss: float
    metrics: Mapping[str, MetricState] = field(default_factory=dict)


@dataclass
class PassLoss:
    """The losses of whole passes, where those of single batches would be about too few rows.

    Args:
        min_rows: of the owner.
        updates: of a pass; 0 where only its end will tell.
    """

    min_rows: int
    updates: int
    _sum: float = 0.0
    _samples: int = 0

    def after(self, done: int, size: int, loss: float) -> float | None:
        """Return the mean loss of the pass that this update ends; None within a pass."""
        self._sum, self._samples = self._sum + loss * size, self._samples + size
        if not self.updates or done % self.updates:
            return None
        mean = self._sum / self._samples
        self._sum, self._samples = 0.0, 0
        return mean


class LoadedExamples(ABC):
    """The examples that a plan loads: those to train on, those to validate on, and the rows that numbers may be about."""

    @property
    def ctx(self) -> Context:
        """The work this plan is part of."""
        found: Context = self.__dict__.setdefault("_fedjob_ctx", Context())
        return found

    @ctx.setter
    def ctx(self, ctx: Context) -> None:
        self.__dict__["_fedjob_ctx"] = ctx

    training_args: TrainingArgs
    """The checked arguments of the step that runs."""

    @property
    def dataset(self) -> Any:
        """The dataset that was loaded, None before.

        Raises:
            NotPrivate: the training is private, and this is not `training_data`, which alone may see all records.
        """
        if self.ctx.private is not None and self._dataset is not None and not self._is_loading:
            raise NotPrivate(
                "self.dataset was read outside of training_data: under differential privacy a step and an optimizer may use "
                "nothing of the data but the record that the step is given. Set what they need by model_args or "
                "training_args"
            )
        return self._dataset

    @property
    def num_train(self) -> int:
        """The number of examples in the training split; of a stream those that training has seen so far.

        In a private training the number of registered rows, since how many there are tells of each of them.
        """
        if self.ctx.private is not None:
            return self.ctx.private.terms.num_rows
        return 0 if self._data is None else len(self._train_rows)

    @property
    def too_few_to_test(self) -> bool:
        """True if a split was asked for and the node has too few examples for one: it trains on all and tests on none."""
        if self._data is None or self._test is None or self._test is not self._data:
            return False
        return len(self._train_rows) > 0 and not len(self._test_rows)

    @property
    def num_loaded(self) -> int:
        """Examples that were loaded to train or to validate on; 0 where they are not counted before they are used."""
        if self._data is None or not len(self._train_rows):
            return 0
        return len(self._train_rows) + len(self._test_rows)

    def training_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return the examples to train on."""
        raise NotImplementedError

    def testing_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return the data to validate on, or None: then `test_ratio` splits `training_data`."""
        return None

    def load_data(self, dataset: Any) -> None:
        """Call the user's data methods and make the split."""
        import numpy as np

        args, private = self.training_args, self.ctx.private
        self._dataset, self._test = dataset, None
        self._tests_withheld, self._known_sets = None, {}
        if private is not None:
            self._check_one_table(dataset)
            if not dataset.num_rows:  # as many as a filter leaves, or none: nobody learns it
                self._data, self._train_rows = None, np.arange(0)
                self._loaded, self._test_rows = dict(args.raw), self._train_rows
                return
        with seeded(self.seed_of("data", every_round=False)):
            self._data = self._as_examples(self._given(), "training_data")
            given = None if private is not None else self.testing_data(dataset, args.for_user())
            if given is not None:
                self._test = self._as_examples(given, "testing_data")
        if private is not None and dataset.num_rows > 1:
            self._check_made_alone(private)
        self._loaded = dict(args.raw)
        self._train_rows = np.arange(self._num_rows(self._data))
        if self._test is None:
            self._test_rows = self._train_rows[:0]
            if args.test_ratio or args.test_fold:
                self._split()
        elif args.test_fold:
            raise PlanError("test_fold divides training_data, but this plan has testing_data: leave one out")
        else:
            self._test_rows = np.arange(self._num_rows(self._test))

    def _check_one_table(self, dataset: Any) -> None:
        """Refuse to load without a dataset, or more than one table.

        Raises:
            NotPrivate: there is no dataset, or it has further tables.
        """
        if dataset is None:
            raise NotPrivate("differential privacy is of the records of a dataset, and there is none")
        check_one_table(getattr(dataset, "assets", ()))

    def _given(self) -> Any:
        """Return what `training_data` gives; under differential privacy it changes nothing."""
        args = self.training_args.for_user()
        if self.ctx.private is None:
            return self.training_data(self._dataset, args)
        with self._unchanged(), self._loading():
            return self.training_data(self._dataset, args)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Let the plan's code read `dataset` inside."""
        self._is_loading = True
        try:
            yield
        finally:
            self._is_loading = False

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Refuse that what runs inside keeps something.

        Raises:
            NotPrivate: it names what was changed.
        """
        from fedjob.training_plans.private.unchanged import DATA, Watch

        watch = Watch(self, {}, DATA)
        yield
        watch.check()

    def _check_made_alone(self, private: PrivateTraining) -> None:
        """Check that each example comes from one record alone, by loading half of the records apart.

        Raises:
            NotPrivate: what an example is, or what the plan keeps, depends on other records.
        """
        dataset = self._dataset
        places = private.half(dataset.num_rows)
        self._dataset = dataset.take(places)
        try:
            with seeded(self.seed_of("data", every_round=False)):
                apart = self._as_examples(self._given(), "training_data")
        except (NodeFailure, NotPrivate):
            raise
        except Exception as error:
            raise NotPrivate(
                f"training_data raises {type(error).__name__} when some of the records are missing: under differential "
                "privacy each example comes from one record alone"
            ) from error
        finally:
            self._dataset = dataset
        self._check_same_examples(apart, places, dataset.num_rows)

    def _check_same_examples(self, apart: Any, places: Sequence[int], num_rows: int) -> None:
        """Check that examples of the records at some places are what they are among those of all `num_rows` records.

        Raises:
            NotPrivate: they are others, or not one of each record.
        """
        raise NotImplementedError

    def _refuse_if_private(self, what: str) -> None:
        """Refuse what tells something of the records without noise.

        Raises:
            NotPrivate: the step is computed with differential privacy.
        """
        if self.ctx.private is not None:
            raise NotPrivate(
                f"{what} has no noise, and under differential privacy nothing leaves but the trained parameters"
            )

    def _split(self) -> None:
        """Take the examples to validate on out of those to train on."""
        if self.ctx.rows is None:
            seed = self.seed_of("split", every_round=False)
            self._train_rows, self._test_rows = split_indices(len(self._train_rows), self.training_args, seed)
        else:
            keys = self._known(self._data).keys("split")
            self._train_rows, self._test_rows = drawn_by_key(keys, self.training_args)
        self._test = self._data

    # --- within the owner's minimum of rows --------------------------------------------------------

    @property
    def tests_withheld(self) -> str:
        """The reason why the owner's minimum of rows withholds what is measured on the test split; empty for none."""
        limit = self.ctx.rows
        if limit is None or self._test is None:
            return ""
        if self._tests_withheld is None:
            known, places = self._known(self._test), self._test_rows if self._num_rows(self._test) else None
            nothing = places is not None and not len(places)
            may = nothing or limit.admits(known, places)
            self._tests_withheld = "" if may else limit.reason("what is measured on the test split")
        return self._tests_withheld

    def _check_rows(self, what: str, places: Any) -> None:
        """Refuse numbers about these training examples where the owner's minimum of rows does not allow them.

        Raises:
            NodeFailure: with reason `min_rows`.
        """
        if self.ctx.rows is not None:
            known = self._known(self._data)
            self.ctx.rows.need(what, known, places if self._num_rows(self._data) else None)

    def _known(self, examples: Any) -> RowSet:
        """Return what the node's record of releases knows these examples by; of a stream all rows of the dataset."""
        limit = self.ctx.rows
        assert limit is not None
        number = self._num_rows(examples)
        if not number:
            return limit.rows_of(limit.dataset)
        key = id(examples)
        if key not in self._known_sets:
            self._known_sets[key] = limit.examples(number, lambda: self._contents(examples))
        return self._known_sets[key]

    def _passes(self, batch_size: int | None = None, *, drop_last: bool = False) -> Passes:
        """Return the passes of this step, whole and over rows that belong together, that the owner's minimum allows."""
        keys = self._known(self._data).keys("pass")[self._train_rows]
        return whole_passes(
            self._train_rows, keys, self.training_args, batch_size=batch_size, drop_last=drop_last
        )

    def _contents(self, examples: Any) -> Sequence[Any] | None:
        """Return arrays with a row for each example; None where the examples would have to be loaded for it."""
        return None

    # --- what a kind of plan writes for the methods above -------------------------------------

    _dataset: Any = None
    _is_loading: bool = False
    _data: Any = None
    _test: Any = None
    _train_rows: Any
    _test_rows: Any
    _loaded: Mapping[str, Any] | None = None
    _tests_withheld: str | None = None
    _known_sets: dict[int, RowSet]

    def _as_examples(self, given: Any, method: str) -> Any:
        """Return what a user's data method gave in the form that this kind of plan works on."""
        raise NotImplementedError

    def _num_rows(self, examples: Any) -> int:
        """Return how many examples there are to choose from; 0 where they come in an order of their own."""
        raise NotImplementedError

    def seed_of(self, purpose: str, *, every_round: bool = True) -> int:
        """Return the seed of one use of randomness.

        Args:
            every_round: False for what must be the same in all rounds.
        """
        ctx, own = self.ctx, self.training_args.random_seed
        if every_round:
            seed = ctx.seed if own is None else seed_for(own, ctx.round, ctx.node)
            return seed_for(seed, ctx.round, ctx.node, purpose)
        return seed_for(ctx.job_seed if own is None else own, 0, ctx.node, purpose)

    def fail(self, reason: str, detail: str) -> NodeFailure:
        """Return the error that says that this node can't do its part."""
        return NodeFailure(self.ctx.node, reason, detail)


class TrainingPlan(LoadedExamples, WarmPlan):
    """A user's model, optimizer, data loading and step, as fedjob drives them.

    Users derive from `TorchPlan` or `SklearnPlan`. The order of calls is
    `build` and `load_data` once, then for every step `start_step`, `set_state`,
    `set_params`, `train_locally` or `validate`, `get_params` and `get_state`. A plan
    that was built just now and one that has done many steps compute the same: a
    warm one is set back to what it was when its data were loaded (`note_loaded`,
    `is_as_loaded`), and what lasts is in `ctx.state`. A plan is made with no
    arguments to its constructor.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages, by the name they are imported by, that a node needs beside the plan's own imports."""

    launches: ClassVar[Sequence[Any]] = ()
    """Functions that the plan may start as child tasks, `self.ctx.launch(...)`."""

    extra_args: ClassVar[tuple[str, ...]] = ()
    """Names of training arguments that this plan understands beside the common ones."""

    applied_args: ClassVar[tuple[str, ...]] = ()
    """Open training arguments, such as `clip_norm`, that this kind of plan applies itself."""

    shows_gradients: ClassVar[bool] = True
    """True if `train_locally` lets a protocol correct the gradients."""

    aux_modules: ClassVar[tuple[str, ...]] = ()
    """Auxiliary variables that suit the plan's optimizer, such as `("scaffold",)` for plain SGD."""

    required_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Methods that a user must write, with the names of their arguments."""

    optional_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    measured_by: ClassVar[str] = ""
    """The optional method without which an evaluation would say nothing but the loss; empty for none."""

    timing: dict[str, float]
    """Seconds of this step by stage: `train`, `validate`."""

    @abstractmethod
    def build(self, model_args: Mapping[str, Any] | None, training_args: RawArgs) -> None:
        """Make the model and what trains it. The first parameters depend on `ctx.job_seed` alone.

        Raises:
            SpecError: an argument is unknown, of the wrong type or out of range.
            PlanError: a user's method returned something of the wrong type.
        """

    def start_step(self, training_args: RawArgs) -> None:
        """Begin a step as a fresh plan would, with these arguments and no state."""
        args = TrainingArgs.parse(training_args, extra_args=self.extra_args)
        # a stream may remember where it was left, which a fresh plan would not know
        used = any(getattr(data, "used", False) for data in (self._data, self._test))
        loads, dataset = self._loaded is not None and (used or self._loaded != args.raw), self._dataset
        is_warm = self._as_loaded is not None
        if loads:
            self.begin_as_built()
        self.training_args = args
        self.timing = {}
        self.ctx.state = {}
        self._begin_anew()
        if loads:
            self.load_data(dataset)
            if is_warm:
                self.note_loaded()

    @property
    def optimizer_args(self) -> dict[str, Any]:
        """What the optimizer of this step used, such as its learning rate, as plain data; empty if none did."""
        return {}

    @abstractmethod
    def get_params(self, *, copy: bool = True) -> dict[str, torch.Tensor]:
        """Return the shared parameters: on the CPU, contiguous, detached, in a stable order.

        Args:
            copy: False may return views of the model, for a caller that
                writes them out before anything trains again.
        """

    @abstractmethod
    def set_params(self, params: Mapping[str, torch.Tensor]) -> None:
        """Put parameters into the model.

        Raises:
            PlanError: names, shapes or types are not the model's.
        """

    def frozen_part(self) -> FrozenPart | None:
        """Return the parameters that the model does not train; None where it trains all, or none."""
        return None

    def leave_out(self, part: FrozenPart) -> None:
        """Take the frozen parameters from a file, and leave them out of what is shared from now on.

        Raises:
            PlanError: they are not those of the model.
        """
        raise PlanError(f"{type(self).__name__} has no frozen parameters")

    def kinds(self) -> Kinds:
        """Return which of the shared parameters some protocols treat apart."""
        return Kinds()

    def check_trained(self, *, thaws: bool) -> None:
        """See to it that a training would change something of the plan's model, and each parameter by itself.

        Args:
            thaws: frozen parameters may be trained later; False where they stay as they are.

        Raises:
            PlanError: all of the model is frozen, or two parameters share a part of their memory.
        """

    def train_locally(self, adjust: Adjust | None = None) -> TrainOutcome:
        """Train as the arguments say.

        Raises:
            NodeFailure: no data, or the loss or the parameters are not finite.
        """
        started = time.perf_counter()
        if self._data is None and (self.ctx.private is None or self._dataset is None):
            raise PlanError("the data is not loaded: call load_data before train_locally")
        private = self.ctx.private
        with seeded(self.seed_of("train") if private is None else private.draws.seed()):
            outcome = self._run_updates(adjust) if private is None else self._run_privately(private, adjust)
        self._check_finite()
        self._add_time("train", started)
        return outcome

    def _run_updates(self, adjust: Adjust | None) -> TrainOutcome:
        """Take every update of the step, and report some of them to whoever follows the job."""
        total, num_rows = self._num_updates(), self.num_train
        done, samples, loss_sum = 0, 0, 0.0
        withheld = self._begin_pass() if self.ctx.rows is not None else None
        for size, loss in self._each_update(adjust):
            done, samples, loss_sum = done + 1, samples + size, loss_sum + loss * size
            shown: float | None = loss if withheld is None else withheld.after(done, size, loss)
            if is_logged(done, total, self.training_args):
                self.ctx.emit(
                    "metrics",
                    {
                        "phase": "train",
                        "round": self.ctx.round,
                        "iteration": done,
                        "num_updates": total,
                        "epoch": round(samples / num_rows, 4) if num_rows else 0.0,
                        "epochs": self.training_args.epochs,
                        "samples": samples,
                        **({} if shown is None else {"loss": shown}),
                    },
                )
                self.ctx.progress(done, max(total, done))
        if not samples:
            raise self.fail("no_data", _why_none(self))
        if withheld is not None and samples < withheld.min_rows:
            raise self.fail("min_rows", "training saw fewer examples than the owner's minimum of rows")
        mean = mean_state(loss_sum / samples, samples)
        return TrainOutcome(self.num_train or samples, done, loss_sum / samples, {"loss": mean})

    def _run_privately(self, private: PrivateTraining, adjust: Adjust | None) -> TrainOutcome:
        """Take the steps of a training with differential privacy; the outcome has public numbers alone."""
        self.check_private()
        check_training_args(self.training_args.raw)
        if self.ctx.rows is not None and private.terms.num_rows < self.ctx.rows.min_rows:
            raise self.fail("min_rows", "the dataset has fewer rows than the owner's minimum of rows")
        self._take_private_steps(private, adjust)
        return TrainOutcome(private.terms.num_rows, private.terms.steps, math.nan)

    def check_private(self) -> None:
        """Check that this plan, which is built, can be trained with differential privacy.

        Raises:
            NotPrivate: it can't; the message says what to use instead.
        """
        raise NotPrivate(
            f"{type(self).__name__} has no form with differential privacy: derive it from TorchPlan or SklearnPlan"
        )

    def _begin_pass(self) -> PassLoss:
        """Refuse to train on rows that the owner's minimum does not allow; return what may be reported meanwhile.

        Raises:
            NodeFailure: with reason `min_rows`.
        """
        limit, args = self.ctx.rows, self.training_args
        assert limit is not None
        if self._num_rows(self._data):
            passes = self._limited_passes()
            self._check_rows("a model that is trained on these rows", passes.rows)
            return PassLoss(limit.min_rows, passes.updates)
        if args.num_updates or args.batch_maxnum or args.dry_run or args.drop_last:
            raise self.fail(
                "min_rows",
                "a part of a stream may be of few rows, and the owner sets a minimum: train in whole epochs, without "
                "num_updates, batch_maxnum, drop_last and dry_run",
            )
        self._check_rows("a model that is trained on these rows", None)
        return PassLoss(limit.min_rows, 0)

    def validate(self, phase: str = "validate") -> dict[str, MetricState]:
        """Measure the model on the test split, in a phase of the history; the states of several nodes add.

        Raises:
            NodeFailure: there is no test data, or a prediction is not finite; with reason `min_rows`: the test split,
                or what differs in it from an earlier one, has fewer rows than the owner allows.
        """
        self._refuse_if_private("what is measured on the test data")
        started = time.perf_counter()
        if why := self.tests_withheld:
            raise self.fail("min_rows", why)
        total: dict[str, MetricState] = {}
        samples, least = 0, self.ctx.rows.min_rows if self.ctx.rows is not None else 0
        with seeded(self.seed_of("validate")), self._evaluating():
            for size, states in self._each_test():
                total, samples = add_all(total, states), samples + size
        if not samples:
            raise self.fail(
                "no_test_data",
                f"with {len(self._train_rows)} examples there are too few to set some apart for validation"
                if self.too_few_to_test
                else "nothing to validate on: set test_ratio above 0, or write testing_data",
            )
        if samples < least:
            raise self.fail("min_rows", "the test data have fewer examples than the owner's minimum of rows")
        total = self._disclosed(total, least)
        # left out is what nothing defines, such as the area under a curve of one class
        drawn = {name: number for name, number in values(total).items() if math.isfinite(number)}
        self.ctx.emit("metrics", {"phase": phase, "round": self.ctx.round, "samples": samples, **drawn})
        self._add_time("validate", started)
        return total

    def _disclosed(self, total: Mapping[str, MetricState], least: int) -> dict[str, MetricState]:
        """Return the states that may leave, and say which may not.

        Raises:
            NodeFailure: with reason `min_rows`: none may.
        """
        kept = disclosed(total, least)
        if lost := sorted(set(total) - set(kept)):
            why = (
                f"{', '.join(lost)}: a label, a class or a kind of error is that of fewer examples than the owner's "
                f"minimum of {least}"
            )
            if not kept:
                raise self.fail("min_rows", why)
            self.ctx.emit("note", {"text": f"min_rows: {why}"})
        return kept

    def _add_time(self, stage: str, started: float) -> None:
        self.timing[stage] = self.timing.get(stage, 0.0) + time.perf_counter() - started

    def _states_of(self, found: Any, size: int) -> dict[str, MetricState]:
        """Read what a user's `testing_step` returned for a batch of `size` examples."""
        if isinstance(found, Mapping):
            return {str(name): _own_metric(self, str(name), item, size) for name, item in found.items()}
        if isinstance(found, (tuple, list)) and len(found) == 2:
            return self._compared(*found)
        raise self.fail(
            "plan",
            f'testing_step returned {named_type(found)}; expected (predictions, targets) or {{"name": value}}',
        )

    # --- what a kind of plan writes for the methods above -------------------------------------

    def _begin_anew(self) -> None:
        """Forget what stayed at the node."""
        raise NotImplementedError

    def _num_updates(self) -> int:
        """Return how many updates the step will take, 0 where only its end will tell."""
        raise NotImplementedError

    def _limited_passes(self) -> Passes:
        """Return the passes of this step where the owner sets a minimum of rows."""
        return self._passes()

    def _take_private_steps(self, private: PrivateTraining, adjust: Adjust | None) -> None:
        """Take every step of the terms, with noise."""
        raise NotImplementedError

    def _each_update(self, adjust: Adjust | None) -> Iterator[tuple[int, float]]:
        """Take one update after the other; yield the number of its examples, and their loss before it."""
        raise NotImplementedError

    def _check_finite(self) -> None:
        """Fail where a parameter is NaN or infinite."""
        raise NotImplementedError

    def _evaluating(self) -> AbstractContextManager[None]:
        """Return what is entered while the model is measured."""
        return nullcontext()

    def _each_test(self) -> Iterator[tuple[int, dict[str, MetricState]]]:
        """Measure one batch of test data after the other; yield the number of its examples, and what was found."""
        raise NotImplementedError

    def _compared(self, predictions: Any, targets: Any) -> dict[str, MetricState]:
        """Measure predictions of a user's `testing_step`."""
        raise NotImplementedError

    def training_loss(self) -> float:
        """Return the mean loss over the training split, without training and without dropout.

        Raises:
            PlanError: this kind of plan can't.
            NodeFailure: there is no data, or the loss is not finite.
        """
        raise PlanError(f"{type(self).__name__} shows no loss: derive it from TorchPlan or SklearnPlan")

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of the mean loss over the training split, by parameter; nothing is trained.

        Raises:
            PlanError: this kind of plan can't.
        """
        raise PlanError(f"{type(self).__name__} shows no gradients: derive it from TorchPlan")

    def predict_all(self) -> Any:
        """Return a prediction for every example of the node, in their order.

        Returns:
            An array with a row for each; of a model with several outputs `{name: array}`.

        Raises:
            PlanError: this kind of plan can't.
        """
        raise PlanError(
            f"{type(self).__name__} makes no predictions: derive it from TorchPlan or SklearnPlan"
        )

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """Return a copy of what stays at this node between rounds, `ctx.state` included."""

    @abstractmethod
    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        """Go on from a state that `get_state` returned; None begins anew."""

    def round_done(self, report: Any) -> str | None:
        """Use a round that has ended; return a reason to end the job here, or None.

        It is called at the researcher alone, of the plan that is built there.

        Args:
            report: of the round; hooks are given the same, a `RoundReport`.
        """
        return None


def named_type(found: Any) -> str:
    """Name the type of a value that a user's method returned."""
    return "nothing (None)" if found is None else f"a {type(found).__name__}"


def _why_none(plan: TrainingPlan) -> str:
    """Return the reason why there is nothing to train on."""
    args = plan.training_args
    if plan._test is not plan._data or not len(plan._test_rows):
        return "training_data gave no examples to train on"
    split = f"test_fold={args.test_fold}" if args.test_fold else f"test_ratio={args.test_ratio:g}"
    return f"{split} keeps every example to validate on: none is left to train on"


def _own_metric(plan: TrainingPlan, name: str, item: Any, size: int) -> MetricState:
    """Return the state of a metric that a user's `testing_step` computed for a batch of `size` examples."""
    if is_state(item):
        return dict(item)
    try:
        return mean_state(float(item), size)
    except SpecError as error:
        raise plan.fail("not_finite", f"testing_step: metric {name!r} is {float(item)}") from error
    except (TypeError, ValueError) as error:
        raise plan.fail(
            "plan", f"testing_step: metric {name!r} is {named_type(item)}, not a number"
        ) from error
