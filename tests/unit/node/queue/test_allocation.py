from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.requirements import read_need
from fedjob.node.config.capacity import Capacity, CapacityPart, read_pools
from fedjob.node.config.config import NodeConfig
from fedjob.node.queue.allocation import Allocation, granted, judge, need_of

LEDGER = Allocation(
    Capacity(
        whole=CapacityPart(cpus=8, memory_bytes=32 << 30, gpus=(0, 1, 2)),
        labels=frozenset({"edge"}),
        pools=read_pools("gpu: workers=1 gpus=0,1 memory=16Gi; batch: workers=2 cpus=4"),
    )
)


def short(ledger: Allocation = LEDGER, job: str = "j", **need: Any) -> tuple[str, ...]:
    return ledger.short(job, read_need(need))


def test_what_is_lacking_is_named_and_all_of_it() -> None:
    assert short() == ()
    assert short(cpus=9, memory="33Gi", gpus=4, labels=["arm"]) == ("labels", "cpus", "memory", "gpus")
    assert short(pool="nothing") == ("pool",)
    assert short(pool="edge", cpus=4) == (), "a label is a pool as a whole"


def test_a_pool_and_the_rest_share_nothing() -> None:
    assert short(gpus=2) == ("gpus",), "two of three belong to the pool"
    assert short(pool="gpu", gpus=2) == ()
    assert short(pool="gpu", cpus=1) == ("cpus",)
    assert short(cpus=5) == ("cpus",)


def test_no_device_is_held_twice_and_a_holding_can_grow() -> None:
    one = LEDGER.take("a", "ann", read_need({"pool": "gpu", "gpus": 1}))
    assert one is not None
    two = one.take("b", "bob", read_need({"pool": "gpu", "gpus": 1}))
    assert two is not None
    assert (two.gpus_of("a"), two.gpus_of("b")) == ((0,), (1,))
    assert two.take("c", "bob", read_need({"pool": "gpu", "gpus": 1})) is None
    assert two.take("a", "ann", read_need({"pool": "gpu", "gpus": 1})) is two
    assert two.take("a", "bob", read_need({})) is None, "another researcher's job"
    grown = two.free("b").take("a", "ann", read_need({"pool": "gpu", "gpus": 2}))
    assert grown is not None
    assert grown.gpus_of("a") == (0, 1)


def test_a_reservation_ends_with_its_lease_and_what_was_taken_does_not() -> None:
    need = read_need({"cpus": 3})
    held = LEDGER.reserve("a", "ann", need, 10.0)
    assert held is not None
    assert held.short("b", need) == ("cpus",)
    assert held.expire(9.0) is held
    assert held.expire(10.0).holdings == {}
    taken = held.take("a", "ann", need)
    assert taken is not None
    again = taken.reserve("a", "ann", need, 5.0)
    assert again is not None
    assert again.expire(99.0).holdings == taken.holdings


def test_the_answer_to_an_offer_says_the_first_thing_that_stands_in_the_way() -> None:
    need = read_need({"cpus": 1})
    state: dict[str, Any] = {"workers": 2, "active": 1, "ahead": 0, "is_open": True}
    assert judge(LEDGER, "j", need, **state).schedule == ""
    assert judge(LEDGER, "j", need, **{**state, "ahead": 1}).schedule == "no_free_worker"
    assert judge(LEDGER, "j", need, **{**state, "is_open": False}).schedule == "outside_hours"
    assert judge(LEDGER, "j", read_need({"gpus": 9}), **state).schedule == "resources"
    assert judge(LEDGER, "j", need, **{**state, "workers": 0}).schedule == "no_workers"


@pytest.mark.parametrize("text", ["gpu", "gpu: workers=many", "gpu: fast=1", ": workers=1", "gpu: memory=x"])
def test_what_is_no_pool_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="pools"):
        read_pools(text)


def test_a_smaller_capacity_gives_nothing_more_and_takes_nothing_away() -> None:
    held = LEDGER.take("a", "ann", read_need({"cpus": 4}))
    assert held is not None
    less = replace(held, capacity=Capacity(whole=CapacityPart(cpus=2)))
    assert less.short("b", read_need({"cpus": 1})) == ("cpus",)
    assert "a" in less.holdings


def test_a_job_holds_only_devices_that_its_grant_names() -> None:
    ledger = Allocation(Capacity(whole=CapacityPart(gpus=(0, 1, 2))))
    asked = {"gpus": 1}
    assert need_of(asked) == read_need(asked)
    only_two = need_of(granted(asked, (2,)))
    held = ledger.take("a", "ann", only_two)
    assert held is not None
    assert held.gpus_of("a") == (2,)
    assert held.short("b", only_two) == ("gpus",), "0 and 1 are free, and not granted"
    assert held.short("b", need_of(granted(asked, None))) == ()
    assert ledger.never(need_of(granted(asked, ()))) == ("gpus",)
    assert ledger.never(need_of(granted({"gpus": 2}, (2, 7)))) == ("gpus",), "7 is not lent"
    with pytest.raises(SpecError, match="granted_gpus"):
        read_need(granted(asked, (0,)))


def test_several_jobs_hold_one_device_where_its_owner_shares_it() -> None:
    shared = Allocation(Capacity(whole=CapacityPart(gpus=(0, 1)), gpu_jobs=2))
    one = read_need({"gpus": 1})
    for job, device in (("a", 0), ("b", 1), ("c", 0), ("d", 1)):
        taken = shared.take(job, "ann", one)
        assert taken is not None
        shared = taken
        assert shared.gpus_of(job) == (device,), "the device that fewest jobs hold"
    assert shared.take("e", "ann", one) is None
    assert shared.free("b").take("e", "ann", one) is not None
    assert shared.never(read_need({"gpus": 3})) == ("gpus",), "a share of a device is no device"


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 1.0), ({"gpu_jobs": 2}, 0.5), ({"job_workers": 2, "workers": 2}, 0.5), ({"job_workers": 4}, 1.0)],
    ids=str,
)
def test_workers_on_one_device_have_equal_shares_of_its_memory(
    settings: dict[str, Any], share: float
) -> None:
    assert NodeConfig(gpus=1, **settings).gpu_share == share
