"""Training plans for torch models."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.kinds import Kinds
from fedjob.common.plans.args import Arguments, TrainingArgs
from fedjob.common.plans.base import Adjust, RawArgs, TrainingPlan, TrainOutcome
from fedjob.common.plans.examples import Examples, Stream, examples_of, num_in_batch, to_device
from fedjob.common.plans.order import epoch_batches, is_told, num_updates, split_indices, training_batches
from fedjob.common.plans.plan_checks import overrides
from fedjob.common.plans.randomness import seeded
from fedjob.common.plans.statetree import copy_tree, load_optimizer, optimizer_tree
from fedjob.common.seeds import seed_for
from fedjob.metrics.base import MetricState
from fedjob.metrics.states import add_all, is_state, mean_state, measure, values


class TorchPlan(TrainingPlan):
    """A torch model and how to train it; write the methods that do nothing here.

    `init_model`, `init_optimizer`, `training_data` and `training_step` are
    needed; `testing_data` and `testing_step` are not.
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
    }
    measured_by: ClassVar[str] = "testing_step"

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
        """Return a torch Dataset, a DataLoader, or (inputs, targets) as tensors or arrays."""
        raise NotImplementedError

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of a batch, a scalar tensor."""
        raise NotImplementedError

    def testing_data(self, dataset: Any, training_args: Mapping[str, Any]) -> Any:
        """Return the data to validate on; without it `test_ratio` splits `training_data`."""
        raise NotImplementedError

    def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return (predictions, targets), or {"name": value}; without it the loss is measured."""
        raise NotImplementedError

    def inference_step(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return a prediction for each example of a batch, or `{"name": prediction}` for several outputs.

        Without it, what the model makes of the batch's first part.
        """
        return model(batch[0] if isinstance(batch, (tuple, list)) else batch)

    dataset: Any = None
    _data: Examples | Stream | None = None
    _test: Examples | Stream | None = None
    _loaded: Mapping[str, Any] | None = None
    _optimizer: torch.optim.Optimizer | None = None
    _memory: Mapping[str, Any]

    def build(self, model_args: Mapping[str, Any] | None, training_args: RawArgs) -> None:
        self.training_args = TrainingArgs.parse(training_args, extra_args=self.extra_args)
        self.model_args = Arguments(model_args or {}, what="model_args")
        self.timing = {}
        with seeded(seed_for(self.ctx.job_seed, 0, "", "init")):
            model = self.init_model(self.model_args)
        if not isinstance(model, torch.nn.Module):
            raise PlanError(f"init_model returned {_name(model)}; expected a torch.nn.Module")
        self.model = model
        self._first_buffers = {name: buffer.detach().clone() for name, buffer in self._buffers().items()}
        self._start()

    def start_step(self, training_args: RawArgs) -> None:
        self.training_args = TrainingArgs.parse(training_args, extra_args=self.extra_args)
        self.timing = {}
        self.ctx.state = {}
        self._start()
        if self._loaded is not None and self._loaded != self.training_args.raw:
            self.load_data(self.dataset)

    def _start(self) -> None:
        """Choose the device and forget what stays at the node."""
        wanted = self.training_args.use_gpu and self.ctx.allow_gpu
        self.device = torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
        self.ctx.device = self.device.type
        self.model.to(self.device)
        if not self.training_args.share_persistent_buffers:
            with torch.no_grad():
                for name, buffer in self._buffers().items():
                    buffer.copy_(self._first_buffers[name])
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
                raise PlanError(
                    f"init_optimizer returned {_name(optimizer)}; expected a torch.optim.Optimizer"
                )
            try:
                load_optimizer(optimizer, self._memory)
            except (ValueError, KeyError, TypeError) as error:
                raise self.fail(
                    "state_mismatch", f"the optimizer's state does not fit the model: {error}"
                ) from error
            self._optimizer = optimizer
        return self._optimizer

    def load_data(self, dataset: Any) -> None:
        args = self.training_args
        self.dataset, self._test = dataset, None
        with seeded(self.seed_of("data", every_round=False)):
            given = self.training_data(dataset, args.for_user())
            self._data = examples_of(given, f"{type(self).__name__}.training_data")
            if overrides(self, TorchPlan, "testing_data"):
                given = self.testing_data(dataset, args.for_user())
                if given is not None:
                    self._test = examples_of(given, f"{type(self).__name__}.testing_data")
        self._loaded = dict(args.raw)
        rows = np.arange(0 if isinstance(self._data, Stream) else len(self._data))
        self._train_rows, self._test_rows = rows, rows[:0]
        if self._test is not None and args.test_fold:
            raise PlanError("test_fold divides training_data, but this plan has testing_data: leave one out")
        if self._test is None and (args.test_ratio or args.test_fold):
            if isinstance(self._data, Stream):
                raise PlanError(
                    "training_data returned a DataLoader with a sampler of its own or an iterable dataset, "
                    "which can't be split: return a Dataset, or write testing_data"
                )
            seed = self.seed_of("split", every_round=False)
            self._train_rows, self._test_rows = split_indices(len(rows), args, seed)
            self._test = self._data

    @property
    def num_train(self) -> int:
        if isinstance(self._data, Stream):
            return self._data.count()
        return 0 if self._data is None else len(self._train_rows)

    def get_params(self, *, copy: bool = True) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().to("cpu", copy=copy).contiguous() for name, tensor in self._shared().items()
        }

    def set_params(self, params: Mapping[str, torch.Tensor]) -> None:
        own = self._shared()
        _check_names(own, params)
        with torch.no_grad():
            for name, tensor in own.items():
                given = params[name]
                if given.shape != tensor.shape or given.dtype != tensor.dtype:
                    raise PlanError(
                        f"parameter {name}: expected {tensor.dtype} {list(tensor.shape)}, "
                        f"found {given.dtype} {list(given.shape)}"
                    )
                tensor.copy_(given)

    def kinds(self) -> Kinds:
        buffers, shared = self._buffers(), self._shared()
        layers = [
            prefix
            for prefix, module in self.model.named_modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        ]
        return Kinds(
            buffers=tuple(name for name in shared if name in buffers),
            batch_norm=tuple(name for name in shared if name.rpartition(".")[0] in layers),
        )

    def train(self, adjust: Adjust | None = None) -> TrainOutcome:
        started = time.perf_counter()
        if self._data is None:
            raise PlanError("the data is not loaded: call load_data before train")
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with seeded(self.seed_of("train")), _repeatable():
            outcome = self._run_updates(adjust)
        self._check_finite()
        self.timing["train"] = self.timing.get("train", 0.0) + time.perf_counter() - started
        return outcome

    def _run_updates(self, adjust: Adjust | None) -> TrainOutcome:
        total, num_rows = self._num_updates(), self.num_train
        done, samples, loss_sum = 0, 0, 0.0
        for batch in self._training_batches():
            size = num_in_batch(batch)
            loss = self._update(to_device(batch, self.device), adjust)
            done, samples, loss_sum = done + 1, samples + size, loss_sum + loss * size
            if is_told(done, total, self.training_args):
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
                        "loss": loss,
                    },
                )
                self.ctx.progress(done, max(total, done))
        if not samples:
            raise self.fail("no_data", "training_data gave no examples to train on")
        mean = mean_state(loss_sum / samples, samples)
        return TrainOutcome(num_rows or samples, done, loss_sum / samples, {"loss": mean})

    def training_loss(self) -> float:
        if self._data is None or isinstance(self._data, Stream):
            raise PlanError("the loss is computed over a Dataset or (inputs, targets), after load_data")
        if not len(self._train_rows):
            raise self.fail("no_data", "training_data gave no examples to measure the loss of")
        size = self._data.batch_size or self.training_args.batch_size
        total = 0.0
        self.model.eval()
        with seeded(self.seed_of("loss")), torch.no_grad(), _repeatable():
            for batch in self._data.batches(epoch_batches(self._train_rows, size)):
                total += self._loss(to_device(batch, self.device)).item() * num_in_batch(batch)
        self.model.train()
        if not math.isfinite(total):
            raise self.fail("not_finite", "the loss of the training data is not finite")
        return total / len(self._train_rows)

    def gradients(self) -> dict[str, torch.Tensor]:
        if self._data is None or isinstance(self._data, Stream):
            raise PlanError("gradients are computed over a Dataset or (inputs, targets), after load_data")
        buffers = {name: buffer.detach().clone() for name, buffer in self._buffers().items()}
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        size = self._data.batch_size or self.training_args.batch_size
        with seeded(self.seed_of("gradients")), _repeatable():
            for batch in self._data.batches(epoch_batches(self._train_rows, size)):
                loss = self._loss(to_device(batch, self.device))
                (loss * (num_in_batch(batch) / self.num_train)).backward()  # type: ignore[no-untyped-call]
        found = {
            name: parameter.grad.detach()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():  # such as the running means of batch normalisation
            for name, buffer in self._buffers().items():
                buffer.copy_(buffers[name])
        return found

    def _update(self, batch: Any, adjust: Adjust | None) -> float:
        """Take one optimizer step; return the loss before it."""
        losses: list[float] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise self.fail("not_finite", f"the loss is {losses[-1]}: try a smaller learning rate")
            if not loss.requires_grad:
                raise self.fail("plan", "training_step returned a loss that depends on no parameter")
            loss.backward()  # type: ignore[no-untyped-call]
            if adjust is not None:
                adjust(self.model)
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        else:
            closure()
            self.optimizer.step()
        return losses[0]

    def _loss(self, batch: Any) -> torch.Tensor:
        loss = self.training_step(self.model, batch)
        if not isinstance(loss, torch.Tensor):
            raise self.fail("plan", f"training_step returned {_name(loss)}; expected a scalar tensor")
        if loss.numel() != 1:
            raise self.fail(
                "plan", f"training_step returned a tensor of shape {list(loss.shape)}; expected one number"
            )
        return loss.reshape(())

    def validate(self) -> dict[str, MetricState]:
        started = time.perf_counter()
        total: dict[str, MetricState] = {}
        samples = 0
        self.model.eval()
        with seeded(self.seed_of("validate")), torch.no_grad(), _repeatable():
            for batch in self._testing_batches():
                size = num_in_batch(batch)
                total = add_all(total, self._measure(to_device(batch, self.device), size))
                samples += size
        self.model.train()
        if not samples:
            raise self.fail(
                "no_test_data", "nothing to validate on: set test_ratio above 0, or write testing_data"
            )
        self.ctx.emit(
            "metrics",
            {"phase": "test", "round": self.ctx.round, "samples": samples, **_drawable(values(total))},
        )
        self.timing["validate"] = self.timing.get("validate", 0.0) + time.perf_counter() - started
        return total

    def predict_all(self) -> np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]:
        if self._data is None:
            raise PlanError("the data is not loaded: call load_data before predict_all")
        found: list[dict[str, torch.Tensor]] = []
        self.model.eval()
        with seeded(self.seed_of("predict")), torch.no_grad(), _repeatable():
            for batch in self._all_batches():
                step = self.inference_step(self.model, to_device(batch, self.device))
                outputs = step if isinstance(step, Mapping) else {"": step}
                found.append({str(name): self._one_each(part, batch) for name, part in outputs.items()})
        self.model.train()
        if not found:
            raise self.fail("no_data", "training_data gave no examples to predict for")
        whole = {name: _numpy(torch.cat([part[name] for part in found])) for name in found[0]}
        return whole.get("", whole)

    def _one_each(self, output: Any, batch: Any) -> torch.Tensor:
        """Return an output of `inference_step` if it has a row for each example of the batch."""
        part = torch.as_tensor(output).detach().cpu()
        if part.ndim == 0 or len(part) != num_in_batch(batch):
            expected = f"expected one row for each of the {num_in_batch(batch)} examples of a batch"
            raise self.fail("plan", f"inference_step returned {list(part.shape)}; {expected}")
        return part

    def _measure(self, batch: Any, size: int) -> dict[str, MetricState]:
        if not overrides(self, TorchPlan, "testing_step"):
            loss = self._loss(batch).item()
            if not math.isfinite(loss):
                raise self.fail("not_finite", f"the loss of the test data is {loss}")
            return {"loss": mean_state(loss, size)}
        found = self.testing_step(self.model, batch)
        if isinstance(found, Mapping):
            return {str(name): self._own_metric(str(name), item, size) for name, item in found.items()}
        if isinstance(found, (tuple, list)) and len(found) == 2:
            predictions, targets = (torch.as_tensor(part).detach().cpu() for part in found)
            if predictions.is_floating_point() and not torch.isfinite(predictions).all():
                raise self.fail("not_finite", "a prediction is NaN or infinite")
            args = self.training_args
            default = ("mse",) if targets.is_floating_point() else ("accuracy",)
            return measure(
                args.test_metric or default, _numpy(predictions), _numpy(targets), args.test_metric_args
            )
        raise self.fail(
            "plan",
            f'testing_step returned {_name(found)}; expected (predictions, targets) or {{"name": value}}',
        )

    def _own_metric(self, name: str, item: Any, size: int) -> MetricState:
        if is_state(item):
            return dict(item)
        try:
            return mean_state(float(item), size)
        except SpecError as error:
            raise self.fail("not_finite", f"testing_step: metric {name!r} is {float(item)}") from error
        except (TypeError, ValueError) as error:
            raise self.fail(
                "plan", f"testing_step: metric {name!r} is {_name(item)}, not a number"
            ) from error

    def get_state(self) -> dict[str, Any]:
        if self._optimizer is None:
            tree: dict[str, Any] = {"optimizer": copy_tree(self._memory, "optimizer")}
        else:
            tree = {"optimizer": optimizer_tree(self._optimizer)}
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
        with torch.no_grad():
            for name, buffer in own.items():
                if name not in kept or kept[name].shape != buffer.shape:
                    raise self.fail("state_mismatch", f"the kept buffer {name} does not fit the model")
                buffer.copy_(kept[name])

    def _buffers(self) -> dict[str, torch.Tensor]:
        """Return the persistent buffers by name."""
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {name: tensor for name, tensor in self._tensors().items() if name not in parameters}

    def _shared(self) -> dict[str, torch.Tensor]:
        if self.training_args.share_persistent_buffers:
            return self._tensors()
        buffers = self._buffers()
        return {name: tensor for name, tensor in self._tensors().items() if name not in buffers}

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = self.model.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}

    def _num_updates(self) -> int:
        """Return how many updates the round will take, 0 where only its end will tell."""
        args, data = self.training_args, self._data
        if isinstance(data, Stream):
            return 1 if args.dry_run else args.num_updates or 0
        assert data is not None
        return num_updates(len(self._train_rows), args, data.batch_size, data.drop_last)

    def _training_batches(self) -> Iterator[Any]:
        data, args, seed = self._data, self.training_args, self.seed_of("order")
        if isinstance(data, Stream):
            yield from _stream_batches(data, args)
            return
        assert data is not None
        order = training_batches(
            self._train_rows,
            args,
            seed,
            batch_size=data.batch_size,
            shuffle=data.shuffle,
            drop_last=data.drop_last,
        )
        yield from data.batches(order)

    def _all_batches(self) -> Iterator[Any]:
        """Yield every example once, in the order of the data."""
        if self._data is None or isinstance(self._data, Stream):
            yield from self._data or ()
            return
        size = self._data.batch_size or self.training_args.batch_size
        yield from self._data.batches(epoch_batches(np.arange(len(self._data)), size))

    def _testing_batches(self) -> Iterator[Any]:
        if self._test is None:
            return
        if isinstance(self._test, Stream):
            yield from self._test
            return
        rows = self._test_rows if self._test is self._data else np.arange(len(self._test))
        yield from self._test.batches(
            epoch_batches(rows, self._test.batch_size or self.training_args.batch_size)
        )

    def _check_finite(self) -> None:
        for name, tensor in self._tensors().items():
            if tensor.is_floating_point() and tensor.numel():
                low, high = torch.aminmax(tensor.detach())
                if not (torch.isfinite(low) and torch.isfinite(high)):
                    raise self.fail("not_finite", f"parameter {name} holds NaN or infinity after training")


def _stream_batches(stream: Stream, args: TrainingArgs) -> Iterator[Any]:
    limit = 1 if args.dry_run else args.num_updates
    done = 0
    for epoch in range(args.epochs or 2**62):
        before = done
        for number, batch in enumerate(stream):
            if (args.batch_maxnum is not None and number >= args.batch_maxnum) or done == limit:
                break
            done += 1
            yield batch
        if done in (before, limit) or epoch + 1 == args.epochs:
            return


@contextmanager
def _repeatable() -> Iterator[None]:
    """Have the GPU choose the same convolution algorithms every time."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
        yield


def _check_names(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if missing or unknown:
        parts = [f"lack {', '.join(missing[:5])}"] if missing else []
        parts += [f"have the unknown {', '.join(unknown[:5])}"] if unknown else []
        raise PlanError(
            f"the parameters don't fit the model: they {' and '.join(parts)} "
            f"({len(own)} expected, {len(given)} found)"
        )


def _numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy()


def _drawable(found: Mapping[str, float]) -> dict[str, float]:
    """Leave out what nothing defines, such as the area under a curve of one class."""
    return {name: number for name, number in found.items() if math.isfinite(number)}


def _name(found: Any) -> str:
    return "nothing (None)" if found is None else f"a {type(found).__name__}"
