"""Examples in batches, from everything that `training_data` may return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from fedjob.training_plans.example_order import epoch_batches

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
    """A DataLoader that decides its own order: it can't be split, and is used as it is."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def count(self) -> int:
        """Return how many examples one pass gives, by the sizes that the loader states or by counting."""
        dataset = self.loader.dataset
        if not isinstance(dataset, IterableDataset):
            sampler = self.loader.sampler if self.loader.batch_sampler is None else self.loader.batch_sampler
            if isinstance(sampler, BatchSampler):
                return len(sampler.sampler)  # type: ignore[arg-type]
        return sum(num_in_batch(batch) for batch in self.loader)


def examples_of(data: Any, where: str) -> Examples | ExampleStream:
    """Turn what a user's method returned into examples.

    Args:
        data: a torch Dataset or DataLoader, or a tuple of tensors or arrays.
        where: names the method in errors.

    Raises:
        PlanError: it is something else, or its parts differ in length.
    """
    if isinstance(data, DataLoader):
        return _loader_examples(data)
    if isinstance(data, torch.utils.data.TensorDataset):
        return TensorExamples(data.tensors)
    if isinstance(data, IterableDataset):
        return ExampleStream(DataLoader(data, batch_size=None))
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
        f"{where} returned {_name(data)}; expected a torch Dataset, a DataLoader, or (inputs, targets)"
    )


def as_tensor(data: Any, where: str) -> torch.Tensor:
    """Turn an array, a column or a table into a tensor with rows.

    Floating-point numbers that are not tensors yet become float32, which is
    what models are made of unless somebody says otherwise.
    """
    if isinstance(data, torch.Tensor):
        tensor = data.detach()
    else:
        array = np.asarray(data)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        if array.dtype.kind not in "biuf":
            raise PlanError(
                f"{where} returned {_name(data)} of type {array.dtype}; "
                "numbers are needed: encode texts and fill what is missing first"
            )
        tensor = torch.from_numpy(np.array(array, order="C"))
    if tensor.ndim == 0:
        raise PlanError(f"{where} returned a single number where rows are needed")
    return tensor


def num_in_batch(batch: Any) -> int:
    """Return how many examples a batch holds: the first axis of the first tensor in it."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)) and batch:
        return num_in_batch(batch[0])
    return 1


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor in a batch."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(part, device) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(part, device) for part in batch)
    return batch


def _loader_examples(loader: DataLoader[Any]) -> Examples | ExampleStream:
    """Return the examples of a user's DataLoader with all its settings.

    Where it draws an order of torch's, fedjob draws one of the same kind from the round's seed, so that a round can be
    repeated. Any other loader is used as it is.
    """
    if not has_plain_order(loader):
        return ExampleStream(loader)
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


def batches_of(data: Examples | ExampleStream | None, rows: Rows, batch_size: int) -> Iterator[Any]:
    """Yield these examples once, in their order; of a stream all that it gives.

    Args:
        batch_size: where the user's own DataLoader asked for none.
    """
    if isinstance(data, ExampleStream):
        yield from data
    elif data is not None:
        yield from data.batches(epoch_batches(rows, data.batch_size or batch_size))
