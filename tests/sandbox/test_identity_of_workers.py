"""A worker belongs to one job, grant, plan, dataset and use, and serves nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from fedjob.node.execution.worker_place import WorkerIdentity

ONE = WorkerIdentity(job="j", grant="g", plan="p", dataset="d", version="v", use="private", gpus=(0,))


@pytest.mark.parametrize("name", [field.name for field in fields(WorkerIdentity)])
def test_whatever_differs_makes_another_worker(name: str) -> None:
    other = replace(ONE, **{name: (1,) if name == "gpus" else "other"})
    assert other != ONE


def test_newer_data_and_other_devices_make_an_old_worker_useless() -> None:
    assert replace(ONE, version="w").replaces(ONE)
    assert replace(ONE, gpus=(1,)).replaces(ONE)
    assert not ONE.replaces(ONE)
    assert not replace(ONE, use="mock").replaces(ONE), "it may be asked for again"
