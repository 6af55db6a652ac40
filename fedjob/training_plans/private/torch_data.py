"""The checks of the examples that a torch plan loads for a private training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedjob.common.errors import NotPrivate
from fedjob.training_plans.batches import DatasetExamples, Examples, ExampleStream, TensorExamples
from fedjob.training_plans.private.record_by_record import alike, check_same_examples
from fedjob.training_plans.randomness import seeded
from fedjob.training_plans.training_args import TrainingArgs

_NUM_LOOKED_AT = 8


def check_examples(examples: Examples | ExampleStream | None, args: TrainingArgs) -> None:
    """Refuse examples that come in an order, or in batches, that the noise was not computed for.

    Raises:
        NotPrivate: it says what to return instead.
    """
    if not isinstance(examples, Examples):
        raise NotPrivate(
            "training_data returned a DataLoader with a sampler of its own, an iterable dataset or a generator: under "
            "differential privacy each record is drawn with the same probability, so return (inputs, targets) or a Dataset"
        )
    if examples.batch_size not in (None, args.batch_size):
        raise NotPrivate(
            f"training_data returned a DataLoader with batch_size={examples.batch_size}, and the noise is for "
            f"batch_size={args.batch_size} of training_args: return its dataset, and say batch_size in training_args"
        )


def check_apart(
    apart: Examples | ExampleStream, whole: Examples | ExampleStream | None, places: Sequence[int], num: int
) -> None:
    """Check that examples of some records are what they are among those of all, see `record_by_record`.

    Args:
        apart: made of the records at `places`.
        whole: made of all `num` records.

    Raises:
        NotPrivate: they are not, or not one for each record.
    """
    assert isinstance(whole, Examples)
    if not isinstance(apart, Examples):
        raise NotPrivate("training_data returns something else when some of the records are missing")
    if len(whole) > num or len(apart) > len(places):
        raise NotPrivate(
            f"training_data makes {len(whole)} examples of {num} records, and the noise is for one of each: return one "
            "example of a record, such as all its windows as one tensor"
        )
    if isinstance(apart, TensorExamples) and isinstance(whole, TensorExamples):
        check_same_examples(_arrays(apart), _arrays(whole), places, num)
    elif isinstance(apart, DatasetExamples) and isinstance(whole, DatasetExamples):
        _check_items(apart, whole, places, num)
    else:
        raise NotPrivate("training_data returns something else when some of the records are missing")


def _check_items(apart: DatasetExamples, whole: DatasetExamples, places: Sequence[int], num: int) -> None:
    if len(whole) != num or len(apart) != len(places):
        raise NotPrivate(
            f"the Dataset of training_data has {len(whole)} items of {num} records: under differential privacy it has one "
            "for each record, in their order; leave records out by preprocess=[Filter(...)]"
        )
    for number in range(min(len(places), _NUM_LOOKED_AT)):
        if not alike(_item(apart, number), _item(whole, places[number])):
            raise NotPrivate(
                f"item {number} of training_data's Dataset is another one when other records are missing: under differential "
                "privacy each item comes from one record alone, and items keep the order of the records"
            )


def _item(examples: DatasetExamples, number: int) -> Any:
    with seeded(0):
        return examples.dataset[number]


def _arrays(examples: TensorExamples) -> list[Any]:
    return [_array(part) for part in examples.tensors]


def _array(part: torch.Tensor) -> Any:
    tensor = part.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
