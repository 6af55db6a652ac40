"""Training plans for torch models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import numpy as np
import torch

from fedjob.common.errors import NodeFailure, PlanError
from fedjob.common.seeds import seed_for
from fedjob.metrics.base import MetricState
from fedjob.metrics.states import mean_state, measure
from fedjob.parameters.adapters import set_ranks
from fedjob.parameters.finiteness import first_not_finite
from fedjob.parameters.frozen import (
    FrozenPart,
    FrozenWatch,
    check_some_trained,
    frozen_names,
    part_of,
    read_frozen,
    why_no_gradient,
)
from fedjob.parameters.model_files import open_model
from fedjob.parameters.model_tensors import buffer_names, check_parameter_names, model_tensors, set_tensors
from fedjob.parameters.shared_memory import shared_memory
from fedjob.parameters.tensor_kinds import Kinds
from fedjob.training_plans.base import Adjust, RawArgs, TrainingPlan, TrainOutcome, named_type
from fedjob.training_plans.batches import (
    Examples,
    ExampleStream,
    TensorExamples,
    batches_of,
    choose_device,
    examples_of,
    missing_in,
    num_in_batch,
    to_device,
)
from fedjob.training_plans.example_order import Passes, RoundBatches, num_updates, training_batches
from fedjob.training_plans.node_state import copy_tree, load_optimizer, optimizer_tree
from fedjob.training_plans.plan_checks import check_driven, overrides
from fedjob.training_plans.private.torch_checks import HeldTensors, check_model, trained_parameters
from fedjob.training_plans.private.torch_data import check_apart, check_examples
from fedjob.training_plans.private.torch_steps import train_privately
from fedjob.training_plans.private.training import PrivateTraining
from fedjob.training_plans.private.unchanged import DATA, Watch
from fedjob.training_plans.randomness import seeded
from fedjob.training_plans.state.optimizer_settings import settings_of_groups
from fedjob.training_plans.together.stacked import NodeTraining
from fedjob.training_plans.training_args import Arguments, TrainingArgs


class TorchParameters(TrainingPlan):
    """The parameters and buffers of a torch model, by name."""

    model: torch.nn.Module

    _frozen: frozenset[str] = frozenset()
    _frozen_watch: FrozenWatch | None = None

    def frozen_part(self) -> FrozenPart | None:
        names = frozen_names(self.model, self._tensors())
        if not names:
            return None
        # opened anew: what the model was given since is none of the files' any more
        return part_of(self.model, names, (open_model(self.ctx.models[name]) for name in self.ctx.opened))

    def leave_out(self, part: FrozenPart) -> None:
        part.put_into(self.model)
        self._frozen, self._frozen_watch = part.names, None

    def get_params(self, *, copy: bool = True) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().to("cpu", copy=copy).contiguous() for name, tensor in self._shared().items()
        }

    def set_params(self, params: Mapping[str, torch.Tensor]) -> None:
        set_ranks(self.model, params)
        own = self._shared()
        _check_fit(own, params)
        set_tensors(self.model, {name: params[name] for name in own}, self._frozen)

    def kinds(self) -> Kinds:
        return _kinds_of(self.model, self._buffers(), self._shared())

    def _buffers(self) -> dict[str, torch.Tensor]:
        """Return the persistent buffers, and extra state, by name."""
        tensors = self._tensors()
        buffers = buffer_names(self.model, tensors)
        return {name: tensor for name, tensor in tensors.items() if name in buffers}

    def _shared(self) -> dict[str, torch.Tensor]:
        left_out = set(self._frozen)
        if not self.training_args.share_persistent_buffers:
            left_out |= self._buffers().keys()
        return {name: tensor for name, tensor in self._tensors().items() if name not in left_out}

    def _tensors(self) -> dict[str, torch.Tensor]:
        return model_tensors(self.model)

    def _limited_passes(self) -> Passes:
        return self._passes(self._data.batch_size, drop_last=self._data.drop_last)

    def _contents(self, examples: Any) -> list[np.ndarray[Any, Any]] | None:
        return [_numpy(part) for part in examples.tensors] if isinstance(examples, TensorExamples) else None

    def _given_anew(self) -> Iterator[torch.Tensor]:
        for prefix, module in self.model.named_modules():
            lasting = {
                n: item for n, item in module._buffers.items() if n not in module._non_persistent_buffers_set
            }
            for name, tensor in {**module._parameters, **lasting}.items():
                if tensor is not None and (f"{prefix}.{name}" if prefix else name) not in self._frozen:
                    yield tensor

    def _check_finite(self) -> None:
        if self._frozen_watch is not None and (problem := self._frozen_watch.problem()):
            raise self.fail("plan", problem)
        trained = {name: tensor for name, tensor in self._tensors().items() if name not in self._frozen}
        if (name := first_not_finite(trained)) is not None:
            raise self.fail("not_finite", f"parameter {name} holds NaN or infinity after training")


class PrivateTorch(TorchParameters):
    """The training of a torch model in other ways than a node by itself: privately, or of many nodes at once."""

    device: torch.device

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of this step."""
        raise NotImplementedError

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of a batch, a scalar tensor."""
        raise NotImplementedError

    def check_private(self) -> None:
        check_driven(type(self))
        check_model(self.model)
        trained_parameters(self.model, self.optimizer)

    def _check_same_examples(self, apart: Any, places: Sequence[int], num_rows: int) -> None:
        check_examples(self._data, self.training_args)
        check_apart(apart, self._data, places, num_rows)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        watch, held = Watch(self, dict(self.model.named_modules()), DATA), HeldTensors(self.model, DATA)
        yield
        held.check()
        watch.check()

    def _take_private_steps(self, private: PrivateTraining, adjust: Adjust | None) -> None:
        examples = self._data
        assert examples is None or isinstance(examples, Examples)
        if adjust is not None:
            check_parameter_names(self.model)
        self.model.train()
        with _repeatable():
            train_privately(
                private,
                model=self.model,
                optimizer=self.optimizer,
                loss=self._loss_of,
                rows=self._train_rows,
                records=lambda rows: (
                    to_device(batch, self.device) for batch in (examples.batches(rows) if examples else ())
                ),
                contents=lambda: None if examples is None else self._contents(examples),
                adjust=adjust,
                watch=Watch(self, dict(self.model.named_modules())),
            )

    def _as_one_of_many(self, batches: Iterator[tuple[int, Any]], adjust: Adjust | None) -> NodeTraining:
        """Return this step's training for a simulation that trains many nodes at once."""
        clip_norm = self.training_args.raw.get("clip_norm")
        return NodeTraining(
            model=self.model,
            optimizer=self.optimizer,
            loss=self._loss_of,
            batches=batches,
            adjust=adjust,
            clip_norm=None if clip_norm is None else float(clip_norm),
            args=repr(sorted(self.training_args.raw.items(), key=str)),
            fail=self.fail,
        )

    def _loss_of(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of a batch by `training_step`, checked to be a scalar tensor.

        Raises:
            NodeFailure: it is something else.
        """
        return _scalar(self, self.training_step(model, batch))

    def _loss(self, batch: Any) -> torch.Tensor:
        return self._loss_of(self.model, batch)

    @property
    def _is_fixed(self) -> bool:
        """True if the model has no parameters: then there is nothing to train, and no optimizer."""
        return next(self.model.parameters(), None) is None


class LoopTorch(PrivateTorch):
    """A torch plan that may have a training loop of its own in place of fedjob's."""

    _adjust: Adjust | None = None
    _num_adjusted = 0

    def train(
        self, model: torch.nn.Module, data: Iterable[Any], training_args: Mapping[str, Any]
    ) -> Iterator[Any]:
        """Train on the batches of a round and yield the loss after each update, instead of fedjob's own loop.

        It is for what one loss and one optimizer can't say: several optimizers, gradients that are accumulated, a learning
        rate for each step. Call `self.adjust_gradients()` between `backward` and the optimizer's step.

        Args:
            model: on its device, in training mode.
            data: the batches of the whole round, with all its epochs, on that device; they can be gone through once, and
                `len(data)` is how many there are.

        Yields:
            the loss of what was trained on since the last one, a number or a scalar tensor.
        """
        raise NotImplementedError

    def adjust_gradients(self) -> None:
        """Correct the gradients as the job's protocol wants it, and clip them to `clip_norm` where that is given.

        For plans with a loop of their own, after `backward` and before the step of each optimizer.
        """
        self._num_adjusted += 1
        if self._adjust is not None:
            self._adjust(self.model)
        clip_norm = self.training_args.raw.get("clip_norm")
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), float(clip_norm))

    def check_trained(self, *, thaws: bool) -> None:
        shared = self._shared()
        if not thaws:
            left_out = frozen_names(self.model, shared)
            shared = {name: tensor for name, tensor in shared.items() if name not in left_out}
        if problem := shared_memory(shared):
            raise PlanError(f"init_model: {problem}")
        if self._has_own_loop or any(parameter.requires_grad for parameter in self.model.parameters()):
            return
        if thaws and not self._is_fixed:
            # it may thaw some, or be given what training_step thaws
            with suppress(ValueError):
                self.optimizer  # noqa: B018
                return
        check_some_trained(self.model)

    def forget_gradients(self) -> None:
        """Make the optimizer of this step, where there is none yet, and forget all gradients; a plan's own loop does both."""
        if not (self._is_fixed or self._has_own_loop):
            self.optimizer.zero_grad(set_to_none=True)

    def _check_optimizer(self) -> None:
        """See to it that the optimizer of this step trains a parameter.

        Raises:
            PlanError: it trains none.
        """
        if not any(p.requires_grad for group in self.optimizer.param_groups for p in group["params"]):
            raise PlanError(
                "init_optimizer: every parameter that the optimizer is given is frozen, so that nothing would be "
                "trained: give it those with requires_grad=True"
            )

    @property
    def _has_own_loop(self) -> bool:
        return overrides(self, LoopTorch, "train")

    def _own_updates(
        self, batches: Iterable[tuple[int, Any]], adjust: Adjust | None
    ) -> Iterator[tuple[int, float]]:
        """Yield the examples and the loss of each update of the plan's own loop."""
        self._adjust, self._num_adjusted, seen, taken, yielded = adjust, 0, 0, 0, 0

        def each() -> Iterator[Any]:
            nonlocal seen, taken
            for size, batch in batches:
                seen, taken = seen + size, taken + 1
                yield batch

        total = self._num_updates()
        if not total and not isinstance(self._data, ExampleStream):
            return  # there are no examples
        data, before = RoundBatches(each(), total), _marks_of(self.model)
        found = self.train(self.model, data, self.training_args.for_user())
        if not isinstance(found, Iterator):
            raise self.fail("plan", "train has to yield the loss after each update, as in `yield loss`")
        try:
            for loss in found:
                number = _yielded(self, loss)
                if not math.isfinite(number):
                    raise self.fail("not_finite", f"the loss is {number}: try a smaller learning rate")
                size, seen, yielded = seen, 0, yielded + 1
                yield size, number
        finally:
            self._adjust = None
        if taken and not yielded:
            raise self.fail("plan", "train yielded no loss: write `yield loss` after each update")
        if yielded and not taken and next(iter(batches), None) is not None:
            raise self.fail("plan", "train took no batch: go through them, as in `for batch in data`")
        needed = adjust is not None or self.training_args.raw.get("clip_norm") is not None
        if needed and not self._num_adjusted:
            why = "the protocol corrects gradients" if adjust is not None else "clip_norm is given"
            raise self.fail(
                "plan",
                f"train never called self.adjust_gradients(), and {why}: call it between backward and the "
                "optimizer's step",
            )
        if yielded and before and before == _marks_of(self.model):
            self.ctx.emit("note", {"text": f"train yielded {yielded} {_UNTRAINED}", "of_result": True})

    def _backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of a loss.

        Raises:
            NodeFailure: training_step has computed them by itself.
        """
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            # they were forgotten before the step, so that those of now are its own
            if "second time" in str(error) and any(p.grad is not None for p in self.model.parameters()):
                raise self.fail(
                    "plan",
                    "training_step called backward itself: return the loss, and leave backward and the optimizer's step "
                    "out, or write a loop of your own, `train`",
                ) from error
            raise

    def _update(self, batch: Any, adjust: Adjust | None) -> float:
        """Take one optimizer step; return the loss before it."""
        losses: list[float] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                advice = missing_in(batch) or "try a smaller learning rate"
                raise self.fail("not_finite", f"the loss is {losses[-1]}: {advice}")
            if not loss.requires_grad:
                why = why_no_gradient(self.model)
                raise self.fail("plan", f"training_step returned a loss that depends on no parameter: {why}")
            self._check_optimizer()
            self._backward(loss)
            if adjust is not None:
                adjust(self.model)
            clip_norm = self.training_args.raw.get("clip_norm")
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), float(clip_norm))
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        else:
            closure()
            self.optimizer.step()
        return losses[0]


class TorchPlan(LoopTorch):
    """A torch model and how to train it.

    A user writes `init_model`, `init_optimizer`, `training_data` and `training_step`;
    `testing_data`, `testing_step` and `inference_step` are optional. With a `train` of its own a plan needs neither
    `init_optimizer` nor `training_step`.
    """

    required_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "init_model": ("model_args",),
        "init_optimizer": ("model", "training_args"),
        "training_data": ("dataset", "training_args"),
        "training_step": ("model", "batch"),
    }
    optional_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "testing_data": ("dataset", "training_args"),
        "testing_step": ("model", "batch"),
        "inference_step": ("model", "batch"),
        "num_examples": ("batch",),
        "train": ("model", "data", "training_args"),
    }
    measured_by: ClassVar[str] = "testing_step"
    applied_args: ClassVar[tuple[str, ...]] = ("clip_norm",)

    model: torch.nn.Module
    model_args: Arguments

    def init_model(self, model_args: Mapping[str, Any]) -> torch.nn.Module:
        """Return the model."""
        raise NotImplementedError

    def init_optimizer(
        self, model: torch.nn.Module, training_args: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        """Return the optimizer of the model's parameters; called anew for every round."""
        raise NotImplementedError

    def training_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return a torch Dataset, a DataLoader, (inputs, targets) as tensors or arrays, or a generator of batches."""
        raise NotImplementedError

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of a batch, a scalar tensor."""
        raise NotImplementedError

    def testing_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return the data to validate on; without it `test_ratio` splits `training_data`."""
        return None

    def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return (predictions, targets), or {"name": value}; without it the loss is measured."""
        raise NotImplementedError

    def inference_step(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return a prediction for each example of a batch, or `{"name": prediction}` for several outputs.

        Without it, the model is applied to the first part of the batch.
        """
        return model(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def num_examples(self, batch: Any) -> int:
        """Return how many examples a batch holds.

        Only batches need it that can't be counted, such as graphs in a class of your own; see
        `fedjob.data.example_count`.
        """
        raise NotImplementedError

    _data: Examples | ExampleStream | None = None
    _test: Examples | ExampleStream | None = None
    _optimizer: torch.optim.Optimizer | None = None
    _memory: Mapping[str, Any]
    _first_buffers: Mapping[str, torch.Tensor]

    def build(self, model_args: Mapping[str, Any] | None, training_args: RawArgs) -> None:
        self.training_args = TrainingArgs.parse(training_args, extra_args=self.extra_args)
        self.model_args = Arguments(model_args or {}, what="model_args")
        self.timing = {}
        with seeded(seed_for(self.ctx.job_seed, 0, "", "init")):
            model = self.init_model(self.model_args)
        if not isinstance(model, torch.nn.Module):
            raise PlanError(f"init_model returned {named_type(model)}; expected a torch.nn.Module")
        self.model = model
        if self.ctx.frozen is not None:
            self.leave_out(read_frozen(self.ctx.frozen))
        self._first_buffers = {name: buffer.detach().clone() for name, buffer in self._buffers().items()}
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Choose the device and forget what stays at the node."""
        self.device = choose_device(self.training_args.use_gpu, self.ctx.gpu_share)
        self.ctx.device = self.device.type
        tensors = (*self.model.parameters(), *self.model.buffers())
        own = type(self.model).to is not torch.nn.Module.to
        # most steps of a warm worker need no walk over all modules
        if own or any(tensor.device != self.device for tensor in tensors):
            self.model.to(self.device)
        if not self.training_args.share_persistent_buffers:
            set_tensors(self.model, self._first_buffers, self._frozen)
        if self._frozen and self._frozen_watch is None:
            self._frozen_watch = FrozenWatch(self.model, self._frozen)
        self._optimizer, self._memory = None, {}

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of this step, made when it is first needed.

        A process's first optimizer costs more than a second and 70 MB, because
        torch loads its compiler for it: a researcher, or a step that only
        validates, does without.
        """
        if self._optimizer is None:
            with seeded(seed_for(self.ctx.job_seed, 0, "", "optimizer")):
                optimizer = self.init_optimizer(self.model, self.training_args.for_user())
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise _no_optimizer(optimizer)
            try:
                load_optimizer(optimizer, self._memory, self.model)
            except PlanError:
                raise
            except (ValueError, KeyError, TypeError) as error:
                raise self.fail(
                    "state_mismatch", f"the optimizer's state does not fit the model: {error}"
                ) from error
            self._optimizer = optimizer
        return self._optimizer

    @property
    def optimizer_args(self) -> dict[str, Any]:
        if self._optimizer is None:
            return {}
        groups = settings_of_groups(self._optimizer)
        return {"optimizer": type(self._optimizer).__name__, "device": self.device.type, "groups": groups}

    def _as_examples(self, given: Any, method: str) -> Examples | ExampleStream:
        def again() -> Any:
            with seeded(self.seed_of("data", every_round=False)):
                return getattr(self, method)(self._dataset, self.training_args.for_user())

        return examples_of(given, f"{type(self).__name__}.{method}", again)

    def _num_rows(self, examples: Examples | ExampleStream) -> int:
        return 0 if isinstance(examples, ExampleStream) else len(examples)

    def _split(self) -> None:
        if isinstance(self._data, ExampleStream):
            raise PlanError(
                "training_data returned a DataLoader with a sampler of its own or an iterable dataset, "
                "which can't be split: return a Dataset, or write testing_data"
            )
        super()._split()

    @property
    def num_train(self) -> int:
        if isinstance(self._data, ExampleStream):
            return self._data.num_examples
        return super().num_train

    def _num_in(self, batch: Any, collated: int | None) -> int:
        own = self.num_examples if overrides(self, TorchPlan, "num_examples") else None
        return num_in_batch(batch, collated, own)

    def _run_updates(self, adjust: Adjust | None) -> TrainOutcome:
        if adjust is not None:
            check_parameter_names(self.model)
        self.model.train()
        self._note_missing_gpu()
        self._note_copies()
        self.forget_gradients()
        with _repeatable():
            return super()._run_updates(adjust)

    def _note_missing_gpu(self) -> None:
        """Tell whoever follows the job that it asked for a GPU and goes without one."""
        if self.training_args.use_gpu and self.device.type == "cpu":
            why = (
                "torch finds no GPU here"
                if self.ctx.gpu_share
                else "the job holds no GPU of this node: ask for one with resources={'gpus': 1}, if its owner lends any"
            )
            self.ctx.emit(
                "note", {"text": f"use_gpu=True, but {why}: training on the CPU", "of_result": True}
            )

    def _note_copies(self) -> None:
        """Tell whoever follows the job that each worker of a loader reads the whole of its stream."""
        if isinstance(self._data, ExampleStream) and (copies := self._data.num_copies):
            self.ctx.emit("note", {"text": f"training_data {_COPIED.format(copies)}", "of_result": True})

    def _each_update(self, adjust: Adjust | None) -> Iterator[tuple[int, float]]:
        batches = ((size, to_device(batch, self.device)) for size, batch in self._training_batches())
        if self.ctx.together is not None and not self._is_fixed:
            yield from self.ctx.together(self._as_one_of_many(batches, adjust))
            return
        if self._has_own_loop:
            yield from self._own_updates(batches, adjust)
            return
        is_fixed = self._is_fixed
        for size, batch in batches:
            yield size, self._loss(batch).item() if is_fixed else self._update(batch, adjust)

    def training_loss(self) -> float:
        self._refuse_if_private("the loss of the training data")
        if self._data is None or isinstance(self._data, ExampleStream):
            raise PlanError("the loss is computed over a Dataset or (inputs, targets), after load_data")
        if not len(self._train_rows):
            raise self.fail("no_data", "training_data gave no examples to measure the loss of")
        self._check_rows("the loss of the training data", self._train_rows)
        total, samples = 0.0, 0
        with seeded(self.seed_of("loss")), self._evaluating():
            for collated, batch in batches_of(self._data, self._train_rows, self.training_args.batch_size):
                size = self._num_in(batch, collated)
                total += self._loss(to_device(batch, self.device)).item() * size
                samples += size
        if not math.isfinite(total):
            raise self.fail("not_finite", "the loss of the training data is not finite")
        return total / samples

    def gradients(self) -> dict[str, torch.Tensor]:
        self._refuse_if_private("the gradient over all records")
        if self._data is None or isinstance(self._data, ExampleStream):
            raise PlanError("gradients are computed over a Dataset or (inputs, targets), after load_data")
        check_parameter_names(self.model)
        self._check_rows("the gradient over the training data", self._train_rows)
        buffers = {name: buffer.detach().clone() for name, buffer in self._buffers().items()}
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with seeded(self.seed_of("gradients")), _repeatable():
            for collated, batch in batches_of(self._data, self._train_rows, self.training_args.batch_size):
                share = self._num_in(batch, collated) / self.num_train
                loss = self._loss(to_device(batch, self.device))
                (loss * share).backward()  # type: ignore[no-untyped-call]
        found = _taken_gradients(self.model)
        set_tensors(self.model, buffers, self._frozen)  # such as the running means of batch normalisation
        return found

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad(), _repeatable():
            yield
        self.model.train()

    def _each_test(self) -> Iterator[tuple[int, dict[str, MetricState]]]:
        for collated, batch in batches_of(self._test, self._test_rows, self.training_args.batch_size):
            size = self._num_in(batch, collated)
            yield size, self._measure(to_device(batch, self.device), size)

    def predict_all(self) -> np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]:
        self._refuse_if_private("a prediction for each record")
        if self._data is None:
            raise PlanError("the data is not loaded: call load_data before predict_all")
        found: list[dict[str, torch.Tensor]] = []
        with seeded(self.seed_of("predict")), self._evaluating():
            every = np.arange(self._num_rows(self._data))
            for collated, batch in batches_of(self._data, every, self.training_args.batch_size):
                size = self._num_in(batch, collated)
                step = self.inference_step(self.model, to_device(batch, self.device))
                outputs = step if isinstance(step, Mapping) else {"": step}
                found.append({str(name): _one_each(part, size) for name, part in outputs.items()})
        if not found:
            raise self.fail("no_data", "training_data gave no examples to predict for")
        whole = {name: _numpy(torch.cat([part[name] for part in found])) for name in found[0]}
        return whole.get("", whole)

    def _measure(self, batch: Any, size: int) -> dict[str, MetricState]:
        if not overrides(self, TorchPlan, "testing_step"):
            loss = self._loss(batch).item()
            if not math.isfinite(loss):
                raise self.fail("not_finite", f"the loss of the test data is {loss}: {missing_in(batch)}")
            return {"loss": mean_state(loss, size)}
        found = self.testing_step(self.model, batch)
        try:
            return self._states_of(found, size)
        except NodeFailure as error:
            if error.reason == "not_finite" and (missing := missing_in(batch)):
                raise self.fail("not_finite", f"the test data: {missing}") from error
            raise

    def _compared(self, predictions: Any, targets: Any) -> dict[str, MetricState]:
        predicted, truth = (torch.as_tensor(part).detach().cpu() for part in (predictions, targets))
        if predicted.is_floating_point() and not torch.isfinite(predicted).all():
            raise self.fail("not_finite", "a prediction is NaN or infinite")
        args = self.training_args
        default = ("mse",) if truth.is_floating_point() else ("accuracy",)
        return measure(args.test_metric or default, _numpy(predicted), _numpy(truth), args.test_metric_args)

    def get_state(self) -> dict[str, Any]:
        if self._optimizer is None:
            tree: dict[str, Any] = {"optimizer": copy_tree(self._memory, "optimizer")}
        else:
            tree = {"optimizer": optimizer_tree(self._optimizer, self.model, self._memory)}
        tree["user"] = copy_tree(self.ctx.state, "self.ctx.state")
        if not self.training_args.share_persistent_buffers:
            tree["buffers"] = copy_tree(self._buffers(), "buffers")
        return {name: part for name, part in tree.items() if part}

    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        tree = tree or {}
        self.ctx.state = copy_tree(tree.get("user", {}), "self.ctx.state")
        self._optimizer, self._memory = None, dict(tree.get("optimizer", {}))
        if self.training_args.share_persistent_buffers:
            return
        own, kept = self._buffers(), tree.get("buffers", self._first_buffers)
        for name, buffer in own.items():
            if name not in kept or kept[name].shape != buffer.shape:
                raise self.fail("state_mismatch", f"the kept buffer {name} does not fit the model")
        set_tensors(self.model, {name: kept[name] for name in own}, self._frozen)

    def _num_updates(self) -> int:
        args, data = self.training_args, self._data
        if isinstance(data, ExampleStream):
            return 1 if args.dry_run else args.num_updates or 0
        assert data is not None
        if self.ctx.rows is not None:
            return self._limited_passes().total
        return num_updates(len(self._train_rows), args, data.batch_size, data.drop_last)

    def _training_batches(self) -> Iterator[tuple[int, Any]]:
        """Yield every batch of the step with the number of its examples."""
        data, args, seed = self._data, self.training_args, self.seed_of("order")
        if isinstance(data, ExampleStream):
            yield from data.passes(args, self._num_in)
            return
        assert data is not None
        passes = None if self.ctx.rows is None else self._limited_passes()
        order = _order(data, self._train_rows, args, seed ^ data.order_seed, passes)
        for collated, batch in data.collated(order):
            yield self._num_in(batch, collated), batch


_COPIED = (
    "returned a DataLoader with num_workers={0} over an iterable dataset that does not ask which worker reads it: each gives all of "
    "its examples, so that they train and count {0} times. Divide them in __iter__ by torch.utils.data.get_worker_info(), or leave "
    "num_workers out"
)
_UNTRAINED = (
    "times, and no parameter of the model has changed: call the optimizer's step after backward; where gradients are accumulated, "
    "after the last batches of the round, too"
)
_FIRST = 8
"""Numbers of a parameter that are compared: `.data` changes them without counting."""


def _marks_of(model: torch.nn.Module) -> list[tuple[int, int, list[Any]]]:
    """Return of each parameter where it lies, how often it was written to, and its first numbers: unchanged in all, it is the same."""
    marks = []
    for parameter in model.parameters():
        if parameter.layout is not torch.strided:
            continue
        first = parameter.detach()
        while first.ndim > 1 and first.numel():
            first = first[0]
        written = 0 if parameter.is_inference() else parameter._version
        marks.append((parameter.data_ptr(), written, first.reshape(-1)[:_FIRST].tolist()))
    return marks


def _order(
    data: Examples, rows: Any, args: TrainingArgs, seed: int, passes: Passes | None
) -> Iterator[np.ndarray[Any, Any]]:
    """Return the batches of a step by their rows.

    Args:
        rows: of the training split.
        passes: where the owner sets a minimum of rows; None elsewhere.
    """
    if passes is not None:
        return passes.batches(seed, shuffle=data.shuffle)
    size, drop = data.batch_size, data.drop_last
    return training_batches(rows, args, seed, batch_size=size, shuffle=data.shuffle, drop_last=drop)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Make the GPU use the same convolution algorithms every time."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
        yield


def _check_fit(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if missing or unknown:
        parts = [f"lack {', '.join(missing[:5])}"] if missing else []
        parts += [f"have the unknown {', '.join(unknown[:5])}"] if unknown else []
        raise PlanError(
            f"the parameters don't fit the model: they {' and '.join(parts)} "
            f"({len(own)} expected, {len(given)} found)"
        )
    for name, tensor in own.items():
        found = given[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise PlanError(
                f"parameter {name}: expected {tensor.dtype} {list(tensor.shape)}, "
                f"found {found.dtype} {list(found.shape)}"
            )


def _scalar(plan: TorchParameters, loss: Any) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise plan.fail("plan", f"training_step returned {named_type(loss)}; expected a scalar tensor")
    if loss.numel() != 1:
        raise plan.fail(
            "plan", f"training_step returned a tensor of shape {list(loss.shape)}; expected one number"
        )
    return loss.reshape(())


def _no_optimizer(found: Any) -> PlanError:
    hint, what = "", named_type(found)
    if isinstance(found, (tuple, list, Mapping)):
        hint = (
            ": several optimizers, or one with a scheduler, go into a loop of your own, `train`; a schedule for each "
            "round into training_args, such as CosineDecay"
        )
    elif isinstance(found, type):
        what, hint = f"the class {found.__name__}", f": {found.__name__}(model.parameters(), ...)"
    return PlanError(f"init_optimizer returned {what}; expected a torch.optim.Optimizer{hint}")


def _yielded(plan: TorchParameters, loss: Any) -> float:
    """Return the loss that a loop of the plan's own yielded, as a number."""
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else named_type(loss)
        raise plan.fail("plan", f"train yielded {what}; expected the loss, one number") from error


def _one_each(output: Any, size: int) -> torch.Tensor:
    """Return an output of `inference_step` if it has a row for each example of the batch."""
    part = torch.as_tensor(output).detach().cpu()
    if part.ndim == 0 or len(part) != size:
        raise PlanError(
            f"inference_step returned {list(part.shape)}; expected one row for each of the {size} examples of a batch"
        )
    return part


def _kinds_of(
    model: torch.nn.Module, buffers: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
) -> Kinds:
    layers = [
        prefix
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    return Kinds(
        buffers=tuple(name for name in shared if name in buffers),
        batch_norm=tuple(name for name in shared if name.rpartition(".")[0] in layers),
    )


def _taken_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients of a model by parameter, and leave it without any."""
    found = {
        name: parameter.grad.detach()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def _numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy()
