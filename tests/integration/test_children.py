"""Child tasks: `ctx.launch` here and at nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob import Job, JobFailed
from tests import launching


def local(function: object, home: Path) -> object:
    return Job(function, nodes="local", data=None, home=home).run(progress=False).value


def test_a_local_job_computes_its_children_in_its_own_process(tmp_path: Path) -> None:
    texts = list(launching.TEXTS)
    assert local(launching.count_all.bind(texts=texts), tmp_path) == {"a": 4, "b": 3, "c": 3}
    assert local(launching.diamond, tmp_path) == 15
    assert local(launching.three_levels.bind(seconds=0.01), tmp_path) == 0.01


def test_only_what_was_declared_can_be_launched(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"square was not declared: write launches=\[square\]"):
        local(launching.disobedient, tmp_path)


def test_the_failure_of_a_child_is_the_failure_of_who_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="no luck"):
        local(launching.with_a_broken_child, tmp_path)


def test_the_spec_lists_what_may_be_launched(tmp_path: Path) -> None:
    job = Job(launching.count_all.bind(texts=[]), nodes="local", home=tmp_path)
    assert list(job.spec.launches.values()) == ["count_words"]
