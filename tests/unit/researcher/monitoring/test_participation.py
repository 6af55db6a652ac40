"""The participation of nodes: who took part, who did not and why, in how many rounds and from how many rows."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.types import new_job_id
from fedjob.data.node_names import NumberedNames
from fedjob.data.shares import RowRanges, SharedDatasets
from fedjob.researcher.monitoring.participation import NOT_ASKED, Participation, participation_of
from fedjob.researcher.storage.position import AggregationRecord, Position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import Component, JobSpec


def spec(**num_rows: int | None) -> JobSpec:
    datasets = {node: {"name": "heart", "num_rows": rows, "version": ""} for node, rows in num_rows.items()}
    return JobSpec(id=new_job_id(), protocol=Component(name="fedavg"), seed=1, rounds=3, datasets=datasets)


def entry(round_: int, *nodes: str, step: str = "train", **left_out: str) -> AggregationRecord:
    return AggregationRecord(
        round=round_,
        step=step,
        aggregator="weighted_mean",
        inputs=[[n, "", 1.0] for n in nodes],
        left_out=left_out,
    )


def after(*ledger: AggregationRecord, round_: int) -> Position:
    return Position(round=round_, state={}, ledger=ledger)


def rows(**used: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    return {n: dict(zip(("registered", "read", "used"), three, strict=True)) for n, three in used.items()}


def test_a_node_that_is_left_out_stands_beside_those_that_count_with_its_reason_and_its_rows() -> None:
    job = spec(cleveland=303, hungarian=294, va=200)
    record = JobRecord(rows=rows(hungarian=(294, 294, 294)))
    position = after(entry(1, "hungarian", cleveland="columns: num", va="columns: num"), round_=1)
    found = participation_of(job, record, position)
    assert found.took_part == ("hungarian",)
    assert found.left_out == {"cleveland": "columns: num", "va": "columns: num"}
    assert str(found) == ("1 of 3 nodes, 294 of 797 rows; left out: cleveland, va (columns: num)")
    assert not found.complete


def test_a_table_has_a_row_for_each_node_and_empty_cells_where_rows_are_not_known() -> None:
    job = spec(cleveland=303, hungarian=294)
    record = JobRecord(absent={"va": "it did not answer the search"}, rows=rows(hungarian=(294, 294, 290)))
    ledger = (entry(1, "hungarian", "cleveland"), entry(2, "hungarian", cleveland="silent"))
    frame = participation_of(job, record, after(*ledger, round_=2)).dataframe
    assert list(frame.columns) == ["node", "rounds", "rows_registered", "rows_read", "rows_used", "left_out"]
    assert frame.fillna(-1).to_numpy().tolist() == [
        ["cleveland", 1, 303, -1, -1, "silent"],
        ["hungarian", 2, 294, 294, 290, ""],
        ["va", 0, -1, -1, -1, "it did not answer the search"],
    ]
    assert len(Participation().dataframe) == 0


def test_a_node_that_did_not_answer_the_search_is_among_the_nodes_and_its_rows_are_not_known() -> None:
    record = JobRecord(absent={"va": "it did not answer the search"}, rows=rows(a=(10, 10, 8)))
    found = participation_of(spec(a=10), record, after(entry(1, "a"), round_=1))
    assert str(found) == "1 of 2 nodes, 8 of 10 rows; left out: va (it did not answer the search)"
    assert found["a"].rows == "8 of 10 rows"


def test_a_node_that_missed_a_round_and_came_back_is_named_with_its_rounds() -> None:
    ledger = (entry(1, "a", "b"), entry(2, "a", b="silent"), entry(3, "a", "b"))
    found = participation_of(spec(a=4, b=4), JobRecord(), after(*ledger, round_=3))
    assert found.left_out == {}
    assert found.partly == {"b": 2}
    assert str(found) == "2 of 2 nodes; not in every round: b (2 of 3 rounds)"


def test_nodes_that_a_protocol_visits_one_after_the_other_in_a_round_all_count() -> None:
    found = participation_of(
        spec(a=4, b=4), JobRecord(), after(entry(1, "a", step="visit"), entry(1, "b", step="visit"), round_=1)
    )
    assert found.complete
    assert found.num_rounds == 1


def test_preparations_and_validations_beside_training_are_no_rounds_of_their_own() -> None:
    ledger = (
        entry(1, "a", step="learn", b="silent"),
        entry(1, "a", "b"),
        entry(2, "a", step="validate", b="no_test_data: one row"),
    )
    found = participation_of(spec(a=4, b=1), JobRecord(), after(*ledger, round_=1))
    assert found.complete
    assert found.num_rounds == 1


def test_a_job_that_only_validates_counts_its_validation() -> None:
    found = participation_of(
        spec(a=4, b=1), JobRecord(), after(entry(1, "a", step="validate", b="no_test_data: x"), round_=1)
    )
    assert found.left_out == {"b": "no_test_data: x"}


def test_a_node_that_no_round_chose_says_so_and_one_that_could_not_start_says_why() -> None:
    record = JobRecord(absent={"c": "resources: gpus"})
    found = participation_of(spec(a=1, b=1, c=1), record, after(entry(1, "a"), round_=1))
    assert found.left_out == {"b": NOT_ASKED, "c": "resources: gpus"}


def test_rows_are_summed_only_where_every_node_that_counts_reported_them() -> None:
    found = participation_of(
        spec(a=5, b=None), JobRecord(rows=rows(a=(5, 5, 5))), after(entry(1, "a", "b"), round_=1)
    )
    assert found.rows_used is None
    assert str(found) == "2 of 2 nodes"


def test_a_line_names_a_few_nodes_of_each_reason_once_and_cuts_long_reasons() -> None:
    away: dict[str, Any] = {f"n{i:02}": "x" * 500 for i in range(12)}
    line = str(participation_of(spec(a=1), JobRecord(absent=away), after(entry(1, "a"), round_=1)))
    assert line.startswith("1 of 13 nodes; left out: n00, n01, n02, n03, n04 and 7 more (xxx")
    assert line.count("xxx...") == 1
    unlike = {f"n{i:02}": f"exception: {i}" for i in range(12)}
    line = str(participation_of(spec(a=1), JobRecord(absent=unlike), after(entry(1, "a"), round_=1)))
    assert line.endswith("n04 (exception: 4), 7 more for other reasons")


def test_a_thousand_nodes_of_which_each_round_takes_some_are_a_line_and_not_a_wall() -> None:
    names = [f"node-{k:04d}" for k in range(1000)]
    ledger = tuple(entry(k, *names[20 * k : 20 * k + 40]) for k in range(30))
    found = participation_of(spec(**dict.fromkeys(names, 5)), JobRecord(), after(*ledger, round_=30))
    assert str(found) == (
        "620 of 1000 nodes; not in every round: node-0000, node-0001, node-0002, node-0003, node-0004 and 615 more "
        "(1 to 2 of 30 rounds); left out: node-0620, node-0621, node-0622, node-0623, node-0624 and 375 more "
        "(it was not chosen for any round)"
    )


def test_a_participation_survives_the_codec_of_a_result() -> None:
    found = participation_of(spec(a=5, b=3), JobRecord(), after(entry(1, "a", b="silent"), round_=1))
    assert from_plain(Participation, to_plain(found)) == found


def test_html_escapes_what_nodes_said() -> None:
    found = participation_of(spec(a=5, b=3), JobRecord(), after(entry(1, "a", b="<b>x</b>"), round_=1))
    assert "<b>x" not in found._repr_html_()
    assert found.lines() == ["a: 5 rows registered", "b: left out (3 rows registered): <b>x</b>"]


def test_of_a_simulation_it_is_that_of_a_map_of_the_same_nodes() -> None:
    plain = spec(**{"node-0001": 3, "node-0002": 4, "node-0003": 5})
    info = {"name": "heart", "version": ""}
    shares = RowRanges(names=NumberedNames(3), stops=array("q", [3, 7, 12]))
    shared = replace(plain, datasets=SharedDatasets(info=info, index="rows.npy", rows=shares))
    record = JobRecord(rows=rows(**{"node-0001": (3, 3, 2), "node-0002": (4, 4, 4)}))
    position = after(entry(1, "node-0001", "node-0002"), entry(2, "node-0002"), round_=2)
    expected, found = (participation_of(one, record, position) for one in (plain, shared))
    assert str(found) == str(expected)
    assert found.nodes == expected.nodes
    assert (found.took_part, found.partly, found.left_out) == (
        expected.took_part,
        expected.partly,
        expected.left_out,
    )
    assert (found.rows_used, found.rows_registered) == (6, 12)
