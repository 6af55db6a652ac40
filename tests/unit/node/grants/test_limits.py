from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.errors import SpecError
from fedjob.node.grants.contract import Request
from fedjob.node.grants.limits import (
    GrantLimits,
    agreed,
    describe_limits,
    fits,
    parse_limits,
    parse_until,
    tighten,
)
from fedjob.privacy.protect import NodeDP, RecordDP
from fedjob.privacy.protections import Cap, cap_of, lowered

bounds = st.one_of(
    st.fixed_dictionaries({}, optional={"min": st.integers(0, 5), "max": st.integers(3, 9)}),
    st.fixed_dictionaries({"choices": st.lists(st.integers(0, 9), max_size=3)}),
)
some_limits = st.builds(
    GrantLimits,
    until=st.sampled_from([0.0, 10.0, 20.0]),
    runs=st.integers(0, 3),
    rows=st.integers(0, 3),
    moved_mb=st.integers(0, 3),
    inferences=st.integers(0, 3),
    min_rows=st.integers(0, 3),
    logs=st.sampled_from(["", "none", "stdout", "all"]),
    predictions=st.sampled_from(["", "leave", "stay"]),
    args=st.dictionaries(st.sampled_from(["lr", "model_args.width"]), bounds, max_size=2),
)


@given(some_limits)
def test_limits_survive_being_written_down(limits: GrantLimits) -> None:
    assert GrantLimits.from_plain(limits.to_plain()).to_plain() == limits.to_plain()


@given(
    some_limits,
    some_limits,
    st.dictionaries(st.sampled_from(["lr", "width"]), st.integers(-1, 10)),
)
def test_what_two_limits_hold_together_is_what_each_of_them_holds(
    one: GrantLimits, other: GrantLimits, args: dict[str, int]
) -> None:
    both = tighten(one, other)
    asked = Request(model_args=args, training_args=args)
    breaks = [bool(asked.breaks(limits)) for limits in (one, other, both)]
    assert breaks[2] == (breaks[0] or breaks[1])
    for now in (5.0, 10.0, 15.0, 20.0):
        assert both.over(now) == (one.over(now) or other.over(now))
    assert tighten(other, one).to_plain().keys() == both.to_plain().keys()


def test_limits_are_read_as_they_are_typed() -> None:
    limits = parse_limits(
        until="90min",
        runs=3,
        min_rows=20,
        logs="stdout",
        args=["lr=..0.5", "epochs=1..10", "optimizer=sgd,adam", "use_gpu=false", "scale=1e-3.."],
        now=1000.0,
    )
    assert limits == GrantLimits(
        until=1000.0 + 5400.0,
        runs=3,
        min_rows=20,
        logs="stdout",
        args={
            "lr": {"max": 0.5},
            "epochs": {"min": 1, "max": 10},
            "optimizer": {"choices": ["sgd", "adam"]},
            "use_gpu": {"choices": [False]},
            "scale": {"min": 0.001},
        },
    )
    assert describe_limits(limits)[1:4] == ["3 runs", "at least 20 rows each", "logs stdout"]
    assert Request(training_args={"optimizer": "sgd", "use_gpu": False, "epochs": 10}).breaks(limits) == ""
    assert "use_gpu" in Request(training_args={"use_gpu": 0}).breaks(limits)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "lr=..0.5",
            [0.1, 0, -1, [0.1, 0.2]],
            [0.6, "0.1", True, None, math.nan, -math.inf, [], [0.1, 0.6], {}],
        ),
        ("lr=1..", [1, 2.5, 10**30], [0.5, math.inf, 10**400, "2"]),
        (
            "column=age,sex",
            ["age", ["age"], ["sex", "age"]],
            ["ssn", ["age", "ssn"], "Age", "age ", [], None],
        ),
        ("n=1,2", [1, 2, 1.0], [True, "1", 3, 1.5]),
        ("use_gpu=false", [False], [0, True, "false", None]),
    ],
)
def test_an_argument_lies_within_its_range_or_it_does_not(
    text: str, inside: list[Any], outside: list[Any]
) -> None:
    limits = parse_limits(args=[text])
    (bounds,) = limits.args.values()
    assert [value for value in inside if not fits(value, bounds)] == []
    assert [value for value in outside if fits(value, bounds)] == []


def test_a_range_that_is_given_twice_has_to_be_kept_twice() -> None:
    limits = parse_limits(args=["lr=..0.5", "lr=0.1..", "c=a,b", "c=b,d"])
    assert limits.args == {"lr": {"min": 0.1, "max": 0.5}, "c": {"choices": ["b"]}}


@pytest.mark.parametrize("name", ["DP:3", "SecAgg", "DP", "", "dp ", "secagg ", "noise"])
def test_a_protection_that_is_not_built_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(SpecError, match=f"there is no protection {name!r}: .* enforces secagg, dp"):
        parse_limits(protections=[name])


@pytest.mark.parametrize(
    "name",
    [
        "dp",
        "dp:",
        "dp:0",
        "dp:-1",
        "dp:nan",
        "dp:inf",
        "dp:x",
        "dp:3,",
        "dp:3,0",
        "dp:3,1",
        "dp:3,x",
        "dp:3,1e-6,1",
    ],
)
def test_a_cap_that_promises_nothing_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="expected dp:EPSILON or dp:EPSILON,DELTA"):
        parse_limits(protections=[name])


def test_of_two_caps_the_smaller_epsilon_and_the_smaller_delta_hold() -> None:
    one, other = parse_limits(protections=["dp:3,1e-6", "secagg:5"]), parse_limits(protections=["dp:1,1e-5"])
    third = parse_limits(protections=["dp:7"])
    for both in (
        tighten(tighten(one, other), third),
        tighten(third, tighten(other, one)),
        agreed(one, other),
    ):
        assert both.protections == ("secagg:5", "dp:1,1e-06")
        assert describe_limits(both) == [
            "secure aggregation of 5 nodes or more",
            "differential privacy with epsilon 1 and delta 1e-06 at most",
        ]
        assert GrantLimits.from_plain(both.to_plain()) == both


@given(st.floats(1e-6, 1e6), st.floats(1e-12, 0.5))
def test_a_cap_is_kept_to_the_last_digit(epsilon: float, delta: float) -> None:
    kept = tighten(parse_limits(protections=[f"dp:{epsilon!r},{delta!r}"]), GrantLimits())
    assert cap_of(kept.protections) == Cap(epsilon, delta)


@pytest.mark.feature("BF-24")
def test_a_larger_epsilon_and_delta_are_lowered_to_the_owners() -> None:
    asked = RecordDP(epsilon=10.0, delta=1e-3)
    assert lowered(asked, ["dp:3,1e-6"]) == RecordDP(epsilon=3.0, delta=1e-6)
    assert lowered(asked, ["dp:3"]) == RecordDP(epsilon=3.0, delta=1e-3)
    assert lowered(asked, ["dp:30", "secagg"]) == asked


def test_the_noise_of_whole_nodes_is_common_to_all_so_that_more_is_demanded_of_the_job_and_not_lowered() -> (
    None
):
    whole = NodeDP(epsilon=10.0, delta=1e-3)
    assert lowered(whole, ["dp:3"]) == whole
    limits = parse_limits(protections=["dp:3,1e-6"])
    secagg = {"min_nodes": 3}

    def words(epsilon: float, delta: float) -> str:
        dp = {"kind": "node", "epsilon": epsilon, "delta": delta, "clip_norm": 1.0}
        return Request(protect={"secagg": secagg, "dp": dp}).breaks(limits)

    assert words(3.0, 1e-6) == words(1.0, 1e-7) == ""
    assert "allows dp:3,1e-06 at most" in words(10.0, 1e-7)
    assert words(10.0, 1e-7).endswith("run it with NodeDP(epsilon=3, delta=1e-07, ...)")
    assert words(1.0, 1e-3).endswith("run it with NodeDP(epsilon=1, delta=1e-06, ...)")


@pytest.mark.parametrize("name", ["secagg:", "secagg:2", "secagg:x", "secagg:-5", "secagg:1e9", "secagg:5:5"])
def test_a_number_of_nodes_that_no_sum_can_have_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="expected secagg:N with 3 to 1000 nodes"):
        parse_limits(protections=[name])


def test_of_two_demands_the_larger_number_of_nodes_holds() -> None:
    one, other = parse_limits(protections=["secagg"]), parse_limits(protections=["secagg:5", "secagg:4"])
    for both in (tighten(one, other), tighten(other, one), agreed(one, other)):
        assert describe_limits(both) == ["secure aggregation of 5 nodes or more"]
        assert GrantLimits.from_plain(both.to_plain()) == both


@pytest.mark.parametrize(
    ("protect", "words"),
    [
        ({}, r"demands secure aggregation.*Protect\(secagg=True\)"),
        ({"secagg": {"min_nodes": 3}}, r"sums of 5 nodes or more.*SecAgg\(min_nodes=5\)"),
        ({"secagg": {"min_nodes": 5}}, "^$"),
        ({"secagg": {"min_nodes": 9}}, "^$"),
        ({"dp": {"kind": "record", "epsilon": 1.0, "delta": 1e-5}}, "demands secure aggregation"),
    ],
    ids=str,
)
def test_a_job_without_what_is_demanded_breaks_the_limits(protect: dict[str, Any], words: str) -> None:
    limits = parse_limits(protections=["secagg:5"])
    assert re.search(words, Request(protect=protect).breaks(limits))


@pytest.mark.feature("FB-91")
@pytest.mark.parametrize(
    ("rule", "protect", "words"),
    [
        ((), {}, "^$"),
        ((), {"secagg": {"min_nodes": 3}}, "^$"),
        (("secagg",), {}, "the owner demands secure aggregation"),
        (("secagg",), {"secagg": {"min_nodes": 3}}, "^$"),
        (("secagg:off",), {}, "^$"),
        (("secagg:off",), {"secagg": {"min_nodes": 3}}, "the owner allows no secure aggregation here"),
    ],
    ids=str,
)
def test_an_owner_demands_allows_or_refuses_secure_aggregation(
    rule: tuple[str, ...], protect: dict[str, Any], words: str
) -> None:
    limits = tighten(parse_limits(protections=rule), parse_limits(protections=["dp:3"]))
    dp = {"dp": {"kind": "record", "epsilon": 1.0, "delta": 1e-5}}
    assert re.search(words, Request(protect={**protect, **dp}).breaks(limits))
    assert ("no secure aggregation" in describe_limits(limits)) == ("secagg:off" in rule)


def test_secure_aggregation_is_not_demanded_and_refused_at_once() -> None:
    with pytest.raises(SpecError, match="give one"):
        parse_limits(protections=["secagg:off", "secagg:5"])
    both = tighten(parse_limits(protections=["secagg:off"]), parse_limits(protections=["secagg:5"]))
    for protect in ({}, {"secagg": {"min_nodes": 5}}):
        assert Request(protect=protect).breaks(both), "two owners' words that nobody can keep"


def test_a_job_without_differential_privacy_is_told_what_to_run_with() -> None:
    limits = parse_limits(protections=["dp:3,1e-6", "secagg:4"])
    secagg, dp = {"min_nodes": 4}, {"kind": "record", "epsilon": 10.0, "delta": 1e-5, "max_grad_norm": 1.0}
    for protect in ({}, {"secagg": secagg}):
        words = Request(protect=protect).breaks(limits)
        assert words.endswith("Job(..., protect=Protect(dp=RecordDP(epsilon=3, delta=1e-06)))")
    assert "secure aggregation" in Request(protect={"dp": dp}).breaks(limits)
    assert Request(protect={"dp": dp, "secagg": secagg}).breaks(limits) == ""


@pytest.mark.parametrize("count", [0, -1, 2**60])
def test_a_count_is_a_whole_number_that_can_be_kept(count: int) -> None:
    with pytest.raises(SpecError, match="--runs is 1 or more"):
        parse_limits(runs=count)


def test_no_grant_ends_beyond_the_calendar() -> None:
    with pytest.raises(SpecError, match="beyond the year"):
        parse_until("9" * 300 + "d", 0.0)


def test_a_date_means_its_end() -> None:
    now = datetime(2030, 6, 30, 12).timestamp()
    assert parse_until("2030-06-30", now) == datetime(2030, 6, 30, 23, 59, 59).timestamp()
    assert parse_until("2030-07-01T08:30", now) == datetime(2030, 7, 1, 8, 30).timestamp()
    for text in ("2030-06-29", "2030-06-30T11:00", "soon", "", "30", "-3d", "30 d"):
        with pytest.raises(SpecError, match="--until"):
            parse_until(text, now)


@pytest.mark.parametrize(
    "text", ["lr", "=1..2", "lr=", "lr=..", "lr=a..b", "lr=2..1", "lr=nan..", "lr=..inf"]
)
def test_bounds_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--arg is NAME=MIN"):
        parse_limits(args=[text])
