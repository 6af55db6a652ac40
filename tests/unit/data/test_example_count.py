from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import default_collate

from fedjob.common.errors import PlanError
from fedjob.data.example_count import count_examples
from fedjob.training_plans.batches import num_in_batch

Pair = namedtuple("Pair", "inputs targets")


@dataclasses.dataclass(frozen=True)
class Scans:
    inputs: Any
    targets: Any
    note: Any = None


class Graphs:
    """Graphs that count themselves, as those of the common libraries do."""

    def __init__(self, num_graphs: int) -> None:
        self.num_graphs, self.nodes = num_graphs, torch.zeros(30, 2)


class Graph:
    def __init__(self) -> None:
        self.nodes, self.edges = torch.zeros(30, 2), torch.zeros(2, 70)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


def boxes(*counts: int) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": zeros(count, 4), "labels": zeros(count)} for count in counts]


IMAGES = [zeros(3, 5, 5) for _ in range(8)]

EIGHT = {
    "tensors": (zeros(8, 6), zeros(8)),
    "a list of fields": [zeros(8, 6), zeros(8)],
    "arrays": (np.zeros((8, 6)), np.zeros(8)),
    "a tensor": zeros(8, 6),
    "a dictionary that begins with texts": {"id": list("abcdefgh"), "x": zeros(8, 6)},
    "a mapping that is no dictionary": UserDict(x=zeros(8, 6), y=zeros(8)),
    "a mapping that can't be written": MappingProxyType({"x": zeros(8, 6), "y": zeros(8)}),
    "nested mappings": {"image": {"t1": zeros(8, 6), "t2": zeros(8, 6)}, "y": zeros(8)},
    "nested tuples": ((zeros(8, 6), zeros(8, 2)), zeros(8)),
    "mappings side by side": ({"x": zeros(8, 6)}, {"y": zeros(8)}),
    "what is missing": {"x": zeros(8, 6), "mask": None},
    "a named tuple": Pair(zeros(8, 6), zeros(8)),
    "a dataclass": Scans(zeros(8, 6), zeros(8)),
    "images of detection": (IMAGES, boxes(1, 2, 3, 1, 2, 3, 1, 0)),
    "texts with labels": (list("abcdefgh"), zeros(8)),
    "lists of tokens": {"tokens": [[1, 2, 3], [4]] * 4, "y": [0, 1] * 4},
    "pairs of image and label": [(zeros(3, 5, 5), 1) for _ in range(8)],
    "dictionaries with a label": [{"x": zeros(6), "y": 1} for _ in range(8)],
    "packed sequences": pack_sequence([zeros(9 - k, 2) for k in range(8)]),
    "packed sequences with labels": (pack_sequence([zeros(9 - k, 2) for k in range(8)]), zeros(8)),
    "a sparse tensor": (torch.eye(8).to_sparse(), zeros(8)),
    "a table and a column": (pd.DataFrame({"a": range(8)}), pd.Series(range(8))),
    "graphs": Graphs(8),
    "graphs with labels": (Graphs(8), zeros(8)),
}


@pytest.mark.parametrize("batch", EIGHT.values(), ids=EIGHT)
@pytest.mark.parametrize("collated", [None, 8])
def test_the_examples_of_a_batch_are_counted(batch: Any, collated: int | None) -> None:
    assert count_examples(batch, collated) == 8
    assert num_in_batch(batch, collated) == 8


def test_a_sparse_matrix_is_counted_by_its_rows() -> None:
    from scipy import sparse

    assert count_examples((sparse.eye(8).tocsr(), np.zeros(8))) == 8


SINGLE = {
    "features and a label": (zeros(6), torch.tensor(1)),
    "a text, features and a label": {"id": "p3", "x": zeros(6), "y": torch.tensor(1)},
    "an image and its label": (zeros(3, 5, 5), 1),
    "tokens, their mask and a label": {"tokens": zeros(128), "mask": zeros(128), "y": 1},
    "a number": torch.tensor(3.0),
    "a text": "admitted with",
    "two texts": ("admitted with", "left with"),
}


@pytest.mark.parametrize("example", SINGLE.values(), ids=SINGLE)
def test_a_single_example_of_a_stream_counts_as_one(example: Any) -> None:
    assert count_examples(example) == 1


COLLATED = {
    "time is the first axis": ({"x": zeros(20, 8, 3), "length": zeros(8)}, 8),
    "time is the first axis of all": ((zeros(20, 8), zeros(20, 8)), 8),
    "detection with as many boxes everywhere": ((IMAGES, boxes(*[3] * 8)), 8),
    "a list of images": (IMAGES, 8),
    "two fields of one kind": ([zeros(8, 6), zeros(8, 6)], 8),
    "a setting beside the rows": ({"x": zeros(8, 6), "y": zeros(8), "temperature": 0.5}, 8),
    "weights of classes beside the rows": ({"x": zeros(8, 6), "weights": zeros(2)}, 8),
    "graphs of an unknown class": ([Graph() for _ in range(8)], 8),
    "a graph of an unknown class": (Graph(), 8),
    "features in lists": (default_collate([([1.0, 2.0], 0)] * 8), 8),
    "broken examples left out": ([zeros(6, 4), zeros(6)], 6),
    "four windows of each": ((zeros(32, 4), zeros(32)), 32),
    "everything left out": ([], 0),
}


@pytest.mark.parametrize(("batch", "expected"), COLLATED.values(), ids=COLLATED)
def test_how_many_were_put_together_decides_where_two_readings_are_possible(
    batch: Any, expected: int
) -> None:
    assert count_examples(batch, 8) == expected


def test_images_of_which_some_were_left_out_are_not_counted_by_their_channels() -> None:
    with pytest.raises(PlanError, match="may be 3 or 6"):
        count_examples(IMAGES[:6], 8)


DOUBTFUL = {
    "fields that differ": ((zeros(3, 5, 5), zeros(5, 5)), "parts differ in their first axis"),
    "one row or many numbers": (zeros(6), "may be one example or 6"),
    "two tensors or two examples": ([zeros(8, 6), zeros(8, 6)], "may be 2 or 8"),
    "a setting beside rows": ({"x": zeros(8, 6), "y": zeros(8), "t": 0.5}, "numbers beside arrays"),
    "a class that nobody knows": (Graph(), "part of type .*Graph"),
    "a set": ({1, 2}, "part of type set"),
}


@pytest.mark.parametrize(("batch", "words"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_batch_that_can_not_be_counted_is_refused_by_name(batch: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        count_examples(batch)
    assert "num_examples(self, batch)" in str(caught.value)


def test_a_batch_that_holds_itself_ends() -> None:
    batch: list[Any] = []
    batch += [batch, batch, zeros(2)]
    with pytest.raises(PlanError, match="nested too deeply"):
        count_examples(batch)
