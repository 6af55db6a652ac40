"""Examples in batches, from everything that `training_data` may return."""

from __future__ import annotations

import copy
import dataclasses
import linecache
import operator
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from fedjob.common.errors import PlanError
from fedjob.data.example_count import count_examples
from fedjob.training_plans.example_order import epoch_batches
from fedjob.training_plans.source.plan_source import PLAN_FILENAME
from fedjob.training_plans.training_args import TrainingArgs

Rows = np.ndarray[Any, np.dtype[np.int64]]
IndexBatches = Iterable[Rows]


class Examples(ABC):
    """Examples with numbers from 0; `len` counts them.

    `batch_size` and `shuffle` are what the user's own DataLoader asked for, None
    where the training arguments decide.
    """

    batch_size: int | None = None
    shuffle: bool = True
    drop_last: bool = False
    order_seed: int = 0
    """Seed of the generator of the user's own DataLoader, which the round's seed is mixed with; 0 for none."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, order: IndexBatches) -> Iterator[Any]:
        """Yield one batch for each array of numbers."""

    def collated(self, order: IndexBatches) -> Iterator[tuple[int, Any]]:
        """Yield the same batches, each with how many examples were put together into it."""
        sizes: deque[int] = deque()

        def noted() -> Iterator[Rows]:
            for numbers in order:
                sizes.append(len(numbers))
                yield numbers

        for batch in self.batches(noted()):
            yield sizes.popleft(), batch


class TensorExamples(Examples):
    """Tensors whose first axis counts the examples; a batch is a tuple of tensors."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = tuple(tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batches(self, order: IndexBatches) -> Iterator[Any]:
        for numbers in order:
            index = torch.from_numpy(numbers)
            yield tuple(tensor.index_select(0, index.to(tensor.device)) for tensor in self.tensors)


class DatasetExamples(Examples):
    """A torch Dataset, collated as its DataLoader would.

    Args:
        settings: further arguments of its DataLoader, by name, such as `worker_init_fn`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any] = default_collate,
        num_workers: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset, self.collate, self.num_workers = dataset, collate, num_workers
        self.settings = dict(settings or {})

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, order: IndexBatches) -> Iterator[Any]:
        if self.num_workers or self.settings:
            numbered = [[int(number) for number in numbers] for numbers in order]
            # of its own for each round: what workers draw is then a function of the round's seed
            yield from DataLoader(
                self.dataset,
                batch_sampler=numbered,
                collate_fn=self.collate,
                num_workers=self.num_workers,
                generator=self._generator(),
                **self.settings,
            )
            return
        for numbers in order:
            yield self.collate([self.dataset[int(number)] for number in numbers])

    def _generator(self) -> torch.Generator | None:
        """Return what workers' seeds are drawn from: the round's seed, and that of the user's own generator."""
        if not self.order_seed:
            return None
        drawn = int(torch.empty((), dtype=torch.int64).random_())
        return torch.Generator().manual_seed(drawn ^ self.order_seed)


class ExampleStream:
    """A DataLoader that decides its own order: it can't be split, and is used as it is.

    What can be read only once, such as a generator, is asked for anew before it is read again. Examples are
    counted while they are read, because counting them first would read a stream twice.

    Args:
        again: returns a loader like this one that was not read yet.
    """

    def __init__(self, loader: DataLoader[Any], again: Callable[[], DataLoader[Any]] | None = None) -> None:
        self._again = again
        self.used = False
        """True if anything was read of it."""
        self._passes = [0]
        self._take(loader)

    @property
    def num_examples(self) -> int:
        """The number of examples of a pass: what the loader's sampler states, or the most that training has seen."""
        stated, sampler = 0, self.loader.batch_sampler
        if isinstance(sampler, BatchSampler) and not isinstance(self.loader.dataset, IterableDataset):
            stated = len(sampler.sampler)  # type: ignore[arg-type]
        return max(stated, *self._passes)

    @property
    def num_copies(self) -> int:
        """The number of workers that each read all of a dataset which a plan has written; 0 where they may divide it.

        torch gives each worker a copy, and leaves it to `__iter__` or to `worker_init_fn` to divide it.
        """
        loader = self.loader
        alone = loader.num_workers < 2 or loader.worker_init_fn is not None
        if alone or not isinstance(loader.dataset, IterableDataset):
            return 0
        code = getattr(type(loader.dataset).__iter__, "__code__", None)
        if code is None or not code.co_filename.startswith(PLAN_FILENAME):
            return 0
        return 0 if _ASKED in "".join(linecache.getlines(code.co_filename)) else loader.num_workers

    def passes(
        self, args: TrainingArgs, count: Callable[[Any, int | None], int]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the batches of as many passes as are asked for, each with the number of its examples.

        Args:
            count: returns it, of a batch and of how many examples were put together into that.

        Raises:
            PlanError: the stream gives nothing more before all was done.
        """
        limit, done = (1 if args.dry_run else args.num_updates), 0
        self._passes = [0]
        for epoch in range(args.epochs or 2**62):
            before = done
            for number, (collated, batch) in enumerate(self.collated()):
                if (args.batch_maxnum is not None and number >= args.batch_maxnum) or done == limit:
                    break
                done += 1
                size = count(batch, collated)
                self._passes[-1] += size
                yield size, batch
            if done == before and epoch and done != limit:
                raise PlanError(
                    f"training_data gave {done} batches and nothing in pass {epoch + 1}: return a stream that "
                    "begins anew each time it is read"
                )
            if done in (before, limit) or epoch + 1 == args.epochs:
                return
            self._passes.append(0)

    def collated(self) -> Iterator[tuple[int | None, Any]]:
        """Yield the batches of one pass, each with how many examples were put together into it, if that is known."""
        if self.used and self._again is not None and _is_read_once(self.loader.dataset):
            self._take(self._again())
        was_used, self.used, empty = self.used, True, True
        for pair in self._pass():
            empty = False
            yield pair
        if empty and was_used and self._again is not None:
            self._take(self._again())
            yield from self._pass()

    def _take(self, loader: DataLoader[Any]) -> None:
        self.loader = self._counted = loader
        # a loader with a pass of its own may do more with a batch than torch's does
        if type(loader).__iter__ is DataLoader.__iter__:
            self._counted = copy.copy(loader)
            self._counted.collate_fn = _CountingCollate(loader.collate_fn, loader.batch_sampler is not None)

    def _pass(self) -> Iterator[tuple[int | None, Any]]:
        if self._counted is self.loader:
            yield from ((None, batch) for batch in self.loader)
            return
        for size, batch in self._counted:
            if size >= 0:
                yield size, batch
            else:
                yield None, tuple(batch) if size == _TUPLE else batch


_TUPLE, _OTHER = -1, -2
_ASKED = "get_worker_info"
"""The function of torch by which a dataset knows which worker reads it."""


class _CountingCollate:
    """A collate function that says of how many examples it made a batch; it may travel to worker processes.

    Of what is not put together, it says whether it was a tuple: torch makes a list of it, which could as
    well be a list of examples.
    """

    def __init__(self, collate: Callable[[Any], Any], of_several: bool) -> None:
        self.collate, self.of_several = collate, of_several

    def __call__(self, given: Any) -> tuple[int, Any]:
        if self.of_several:
            return len(given), self.collate(given)
        made = self.collate(given)
        return _TUPLE if type(given) is tuple and type(made) in (list, tuple) else _OTHER, made


class _Generated(IterableDataset[Any]):
    """The batches of an iterator, which are there once."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def _is_read_once(dataset: Any) -> bool:
    if not isinstance(dataset, IterableDataset):
        return False
    first = iter(dataset)
    return first is dataset or first is iter(dataset)


def examples_of(data: Any, where: str, again: Callable[[], Any] | None = None) -> Examples | ExampleStream:
    """Turn what a user's method returned into examples.

    Args:
        data: a torch Dataset or DataLoader, a generator of batches, or a tuple of tensors or arrays.
        where: names the method in errors.
        again: calls the method again, for a stream that can be read once.

    Raises:
        PlanError: it is something else, or its parts differ in length.
    """
    if (loader := _stream_loader(data)) is not None:
        return ExampleStream(loader, None if again is None else partial(_renewed, again, where))
    if isinstance(data, DataLoader):
        return _loader_examples(data)
    if isinstance(data, torch.utils.data.TensorDataset):
        return TensorExamples(data.tensors)
    if isinstance(data, Dataset):
        if not hasattr(data, "__len__"):
            raise PlanError(f"{where} returned a {type(data).__name__} without __len__; a Dataset needs one")
        return DatasetExamples(data)
    if isinstance(data, (tuple, list)) and data:
        tensors = [as_tensor(part, where) for part in data]
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise PlanError(
                f"{where} returned parts of {', '.join(map(str, lengths))} rows; as many of each are needed"
            )
        return TensorExamples(tensors)
    raise PlanError(
        f"{where} returned {_name(data)}; expected a torch Dataset, a DataLoader, a generator, or (inputs, targets)"
    )


def as_tensor(data: Any, where: str) -> torch.Tensor:
    """Turn an array, a column or a table into a tensor with rows.

    Floating-point numbers that are not tensors yet become float32, which is
    what models are made of unless somebody says otherwise.
    """
    if isinstance(data, torch.Tensor):
        tensor = data.detach()
    else:
        if np.ma.is_masked(data):
            raise PlanError(
                f"{where} returned {_name(data)} that is masked in part: fill or drop what is masked"
            )
        array = np.asarray(data)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = _signed(array, where)
        if array.dtype.kind not in "biuf":
            raise PlanError(
                f"{where} returned {_name(data)} of type {array.dtype}; "
                "numbers are needed: encode texts and fill what is missing first"
            )
        # torch knows the machine's own byte order alone
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if tensor.ndim == 0:
        raise PlanError(f"{where} returned a single number where rows are needed")
    return tensor


def choose_device(wanted: bool, gpu_share: float) -> torch.device:
    """Return where a plan computes: the first GPU that this process sees where one is wanted and held, else the CPU.

    Args:
        gpu_share: of the GPU's memory that torch may have in this process, beyond which it raises `OutOfMemoryError`; 0 for no
            GPU.
    """
    if not (wanted and gpu_share and torch.cuda.is_available()):
        return torch.device("cpu")
    if gpu_share < 1:
        for number in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(gpu_share, number)
    return torch.device("cuda")


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor in a batch; what can move itself, such as a packed sequence or a graph, does.

    Tensors of pinned memory move while the next batch is being made.
    """
    if device.type == "cpu":
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, Mapping):
        moved = {key: to_device(part, device) for key, part in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return moved
        same_kind = copy.copy(batch)
        same_kind.update(moved)
        return same_kind
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(part, device) for part in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        twin = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(twin, field.name, to_device(getattr(batch, field.name), device))
        return twin
    return batch


def _signed(array: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """Return whole numbers without sign as a type with one, because torch computes with no others."""
    if array.dtype.itemsize == 8 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise PlanError(f"{where} returned whole numbers over 2**63, with which torch can't compute")
    return array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)


def num_in_batch(batch: Any, collated: int | None, own: Callable[[Any], Any] | None = None) -> int:
    """Return how many examples a batch holds.

    Args:
        collated: how many were put together into it, None where that is not known.
        own: a plan's `num_examples`, None where it has none.

    Raises:
        PlanError: the batch can't be counted, or the plan gave no count.
    """
    if own is None:
        if collated and _is_rows(batch, collated):  # most batches, which need no reading
            return collated
        return count_examples(batch, collated)
    given = own(batch)
    try:
        number: Any = given.item() if isinstance(given, torch.Tensor) else given
        counted = operator.index(number)
    except (TypeError, ValueError, RuntimeError):
        counted = -1
    if counted < 0:
        raise PlanError(f"num_examples returned {given!r:.80}; expected a whole number, 0 or more")
    return counted


def _is_rows(batch: Any, count: int) -> bool:
    """Tell whether a batch is a tuple of tensors with so many rows each."""
    return type(batch) is tuple and all(
        type(part) is torch.Tensor and part.ndim > 0 and part.shape[0] == count for part in batch
    )


def missing_in(batch: Any, depth: int = 8) -> str:
    """Return that a batch holds missing or infinite numbers, and what to do; empty where it holds none."""
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "fc":
        batch = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float64))
    if isinstance(batch, torch.Tensor):
        if not (batch.is_floating_point() or batch.is_complex()) or batch.layout != torch.strided:
            return ""
        if bool(torch.isnan(batch).any()):
            return (
                "the inputs hold missing values (NaN): fill or drop them in training_data, or by preprocess"
            )
        return (
            "" if bool(torch.isfinite(batch).all()) else "the inputs hold infinite values: cut them off first"
        )
    if not depth:
        return ""
    parts: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    elif dataclasses.is_dataclass(batch):
        parts = [getattr(batch, field.name, None) for field in dataclasses.fields(batch)]
    return next(filter(None, (missing_in(part, depth - 1) for part in parts)), "")


def _stream_loader(data: Any) -> DataLoader[Any] | None:
    """Return the loader of what decides its own order; None for anything else."""
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=None)
    if isinstance(data, Iterator):
        return DataLoader(_Generated(data), batch_size=None)
    if not isinstance(data, DataLoader):
        return None
    return None if has_plain_order(data) else data


def _renewed(again: Callable[[], Any], where: str) -> DataLoader[Any]:
    loader = _stream_loader(again())
    if loader is None:
        raise PlanError(f"{where} returned a stream first, and then something else")
    return loader


def _loader_examples(loader: DataLoader[Any]) -> Examples:
    """Return the examples of a user's DataLoader, of an order of torch's, with all its settings.

    fedjob draws an order of the same kind from the round's seed, so that a round can be repeated.
    """
    batches = loader.batch_sampler
    assert isinstance(batches, BatchSampler)
    settings = _settings_of(loader)
    examples = DatasetExamples(loader.dataset, loader.collate_fn, loader.num_workers, settings)
    examples.batch_size, examples.drop_last = batches.batch_size, batches.drop_last
    examples.shuffle = isinstance(batches.sampler, RandomSampler)
    generator = getattr(batches.sampler, "generator", None) or loader.generator
    examples.order_seed = 0 if generator is None else generator.initial_seed()
    return examples


def has_plain_order(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader's batches are of one size and in torch's own order, each example once in a pass."""
    batches = loader.batch_sampler
    own_pass = type(loader).__iter__ is not DataLoader.__iter__
    if own_pass or isinstance(loader.dataset, IterableDataset) or type(batches) is not BatchSampler:
        return False
    sampler = batches.sampler
    return (
        type(sampler) in (RandomSampler, SequentialSampler)
        and not getattr(sampler, "replacement", False)
        and getattr(sampler, "_num_samples", None) is None
        and _length(sampler) == _length(loader.dataset)
    )


_WITH_WORKERS = ("timeout", "prefetch_factor", "multiprocessing_context", "worker_init_fn")
_ALWAYS = ("pin_memory", "pin_memory_device", "in_order")


def _settings_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the settings of a loader that are not those of its order and its batches, where they are not torch's.

    Workers live for a round and all its passes, whether or not they are persistent: a round that begins with fresh
    ones can be repeated.
    """
    names = (*_ALWAYS, *(_WITH_WORKERS if loader.num_workers else ()))
    plain = DataLoader(loader.dataset, num_workers=min(1, loader.num_workers))
    found = {name: getattr(loader, name) for name in names if hasattr(plain, name)}
    return {name: value for name, value in found.items() if value != getattr(plain, name)}


def _length(sized: Any) -> int:
    try:
        return len(sized)
    except TypeError:
        return -1


def _name(data: Any) -> str:
    return "nothing (None)" if data is None else f"a {type(data).__name__}"


def batches_of(
    data: Examples | ExampleStream | None, rows: Rows, batch_size: int
) -> Iterator[tuple[int | None, Any]]:
    """Yield these examples once, in their order; of a stream all that it gives.

    Args:
        batch_size: where the user's own DataLoader asked for none.

    Returns:
        Batches, each with how many examples were put together into it, None where that is not known.
    """
    if isinstance(data, ExampleStream):
        yield from data.collated()
    elif data is not None:
        yield from data.collated(epoch_batches(rows, data.batch_size or batch_size))
