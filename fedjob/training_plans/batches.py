"""The data that `training_data` may return, as numbered examples that come in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
    """A torch Dataset, collated as its DataLoader would."""

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any] = default_collate,
        num_workers: int = 0,
    ) -> None:
        self.dataset, self.collate, self.num_workers = dataset, collate, num_workers

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, order: IndexBatches) -> Iterator[Any]:
        if self.num_workers:
            numbered = [[int(number) for number in numbers] for numbers in order]
            yield from DataLoader(
                self.dataset, batch_sampler=numbered, collate_fn=self.collate, num_workers=self.num_workers
            )
            return
        for numbers in order:
            yield self.collate([self.dataset[int(number)] for number in numbers])


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
    plain = (
        not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and not getattr(loader.sampler, "replacement", False)
        and getattr(loader.sampler, "_num_samples", None) is None
    )
    if not plain:
        return ExampleStream(loader)
    examples = DatasetExamples(loader.dataset, loader.collate_fn, loader.num_workers)
    examples.batch_size = loader.batch_size
    examples.shuffle = isinstance(loader.sampler, RandomSampler)
    examples.drop_last = loader.drop_last
    return examples


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


if TYPE_CHECKING:
    import numpy as np

    from fedjob.training_plans.training_args import TrainingArgs

    Numbers = np.ndarray[Any, np.dtype[np.int64]]


def split_indices(num_rows: int, args: TrainingArgs, seed: int) -> tuple[Numbers, Numbers]:
    """Divide rows into train and test, the same way for the same seed.

    A ratio above 0 keeps at least one row for testing and, below 1, one for
    training, where there are two rows. Of k folds, sizes differ by one row at most.

    Returns:
        Two arrays, each ascending; together every row once.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(num_rows)
    if args.test_fold is not None:
        part, parts = args.test_fold
        start, end = num_rows * (part - 1) // parts, num_rows * part // parts
    else:
        start, end = 0, int(num_rows * args.test_ratio)
        if 0 < args.test_ratio < 1 and num_rows > 1:
            end = min(max(end, 1), num_rows - 1)
    return np.sort(np.concatenate([order[:start], order[end:]])), np.sort(order[start:end])


def epoch_batches(
    rows: Numbers, batch_size: int, *, drop_last: bool = False, maximum: int | None = None
) -> Iterator[Numbers]:
    """Cut an order of rows into batches; the last may be short."""
    end = len(rows) - len(rows) % batch_size if drop_last and len(rows) >= batch_size else len(rows)
    for number, start in enumerate(range(0, end, batch_size)):
        if maximum is not None and number >= maximum:
            return
        yield rows[start : min(start + batch_size, end)]


def training_batches(
    rows: Numbers,
    args: TrainingArgs,
    seed: int,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[Numbers]:
    """Yield the batches of a round: epochs, or updates that cycle over the rows.

    Each pass has an order of its own, drawn from one generator.

    Args:
        rows: of the training split.
        batch_size: of the user's own DataLoader, instead of the arguments'.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    done, total = 0, num_updates(len(rows), args, batch_size, drop_last)
    while done < total:
        order = generator.permutation(rows) if shuffle else rows
        size = batch_size or args.batch_size
        for batch in epoch_batches(
            order, size, drop_last=drop_last or args.drop_last, maximum=args.batch_maxnum
        ):
            if done == total:
                return
            done += 1
            yield batch


def num_updates(
    num_rows: int, args: TrainingArgs, batch_size: int | None = None, drop_last: bool = False
) -> int:
    """Return how many batches `training_batches` yields."""
    if args.dry_run:
        return min(1, num_rows)
    if args.num_updates is not None:
        return args.num_updates if num_rows else 0
    size = batch_size or args.batch_size
    whole, rest = divmod(num_rows, size)
    per_epoch = whole if whole and (drop_last or args.drop_last) else whole + bool(rest)
    if args.batch_maxnum is not None:
        per_epoch = min(per_epoch, args.batch_maxnum)
    return per_epoch * (args.epochs or 1)


def is_told(done: int, total: int, args: TrainingArgs) -> bool:
    """Tell whether a `metrics` event follows an update: every `log_interval`, and at the end of each epoch.

    Args:
        done: updates so far.
        total: of the round, 0 where only its end will tell.
    """
    per_epoch = total // args.epochs if args.epochs else 0
    at_end = done == total or (per_epoch > 0 and done % per_epoch == 0)
    return at_end or done % args.log_interval == 0
