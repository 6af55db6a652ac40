"""What the researcher's half of an inference decides, and the forms that predictions come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, unpack
from fedjob.common.errors import PlanError
from fedjob.common.types import ENDLESS
from fedjob.common.values import decode, encode
from fedjob.protocols import inference
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Reply, View
from fedjob.protocols.evaluation import Evaluation
from fedjob.protocols.inference import Inference
from fedjob.protocols.predictions import joined, merged, predictions_of, rows_of, table, to_keep
from fedjob.protocols.usage import Usage
from tests.unit.protocols.training.sites import unequal_sites

NODES = ("a", "b")


def answers(**values: Any) -> Gathered:
    """Node -> what it predicted, or a pair of that and the limit that it reached."""
    replies = {}
    for node, value in values.items():
        array, usage = value if isinstance(value, tuple) else (value, None)
        replies[node] = Reply(node=node, value=encode(np.array(array)), usage=usage, num_examples=len(array))
    return Gathered(total=Contribution(), replies=replies, left_out={})


def view(rounds: int = ENDLESS) -> View:
    return View(rounds=rounds, nodes=NODES)


def test_a_node_whose_limit_is_reached_is_not_asked_again_and_the_job_ends_with_the_last() -> None:
    protocol = Inference()
    state = protocol.start({})
    assert isinstance(ask := protocol.instruct(state, view()), Ask)
    assert ask.to is None
    state = protocol.finish(state, answers(a=([1.0], Usage(0, 1)), b=[2.0]))
    assert isinstance(ask := protocol.instruct(state, view()), Ask)
    assert ask.to == ("b",)
    state = protocol.finish(state, answers(b=([3.0], Usage(0, 1))))
    assert isinstance(done := protocol.instruct(state, view()), Done)
    assert {node: decode(value).tolist() for node, value in done.value.nodes.items()} == {
        "a": [1.0],
        "b": [2.0, 3.0],
    }


def test_a_state_that_was_a_breakpoint_ends_in_the_same() -> None:
    protocol = Inference()
    state = protocol.finish(protocol.start({}), answers(a=[1.0], b=[2.0]))
    again = unpack(pack(state))
    for one in (state, again):
        one["passes"] = protocol.finish(one, answers(a=[4.0]))["passes"]
    ends = [protocol.instruct(one, view(rounds=1)) for one in (state, again)]
    assert all(isinstance(end, Done) for end in ends)
    assert pack(ends[0].value.nodes) == pack(ends[1].value.nodes)  # type: ignore[union-attr]


@pytest.mark.parametrize("protocol", [Evaluation(), Inference(output="table")], ids=lambda one: one.name)
def test_who_begins_anew_after_every_ask_ends_in_the_same(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    sites = unequal_sites(tmp_path)
    whole, cut = sites.play(protocol, 2), sites.play(protocol, 2, anew=True)
    assert whole.asks == cut.asks
    assert whole.value == cut.value


def test_of_more_predictions_than_a_job_carries_along_the_newest_stay() -> None:
    large = np.zeros(3 << 20)
    state = Inference().start({})
    for _ in range(3):
        state = Inference().finish(state, answers(a=large))
    assert [round_ for round_, _ in state["passes"]["a"]] == [3]
    assert 2 * large.nbytes > inference.KEPT_BYTES


def test_an_event_tells_as_many_rows_as_it_holds() -> None:
    told = Inference().report(answers(a=np.zeros((1500, 20)), b=[[1.0, 2.0]]))
    assert told["b"] == {"num_rows": 1, "rows": [[1.0, 2.0]]}
    assert told["a"]["num_rows"] == 1500
    assert 0 < len(told["a"]["rows"]) <= 500
    assert len(pack(told["a"]["rows"])) <= inference.MAX_REPORTED_BYTES


def test_batches_make_the_predictions_of_the_whole() -> None:
    whole = predictions_of({"x": np.arange(6), "y": np.ones((6, 2))}, [f"p{n}" for n in range(6)])
    parts = [whole.first(2), predictions_of({n: a[2:] for n, a in whole.outputs.items()}, whole.ids[2:])]
    again = joined([type(p).from_plain(unpack(pack(p.to_plain()))) for p in parts])
    pd.testing.assert_frame_equal(table(again), table(whole))
    assert again.ids == whole.ids


def test_names_of_items_are_in_the_files_that_stay_and_nowhere_else() -> None:
    found = predictions_of(np.array([0.5, 0.25]), ["ward/anna.png", "bo"])
    ((name, data),) = to_keep(found, "table")
    assert name == "predictions.csv"
    assert data.decode().splitlines() == ["item,row,prediction", "ward/anna.png,0,0.5", "bo,1,0.25"]
    assert [name for name, _ in to_keep(found, "files")] == ["000000_ward_anna.png.npy", "000001_bo.npy"]
    assert list(table(found).columns) == ["row", "prediction"]
    assert predictions_of(np.zeros(3), ["one"]).ids == ()


def test_what_is_no_table_says_so() -> None:
    with pytest.raises(PlanError, match="output='files'"):
        table(predictions_of(np.zeros((2, 200, 200))))


def test_passes_of_other_kinds_stay_apart() -> None:
    counts = {"num_rows": 2, "num_files": 1}
    assert merged([(1, counts), (2, counts)]) == {"num_rows": 4, "num_files": 2}
    mixed = merged([(1, counts), (2, encode(np.zeros(1)))])
    assert set(mixed) == {"1", "2"}
    assert rows_of(counts, 10) == []
