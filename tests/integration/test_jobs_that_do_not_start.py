"""A job that can't be set up at a node that it needs has failed to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob import Job, JobFailed, Quorum
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session

TEXT = """\
import fedjob
import antigravity_of_this_test


@fedjob.function
def weighs(dataset):
    return antigravity_of_this_test.WEIGHT
"""


@pytest.mark.feature("NV-51")
def test_a_plan_whose_import_fails_at_a_required_node_has_failed_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    module = library / "antigravity_of_this_test.py"
    module.write_text("WEIGHT = 0\n")
    monkeypatch.syspath_prepend(str(library))
    monkeypatch.setenv("PYTHONPATH", str(library))  # the node has it, too
    plan = tmp_path / "plan.py"
    plan.write_text(TEXT)
    folder = tmp_path / "nodes"
    folder.mkdir()
    federation = Federation(folder)
    federation.node("clinic", NodeConfig(approval="off", threads=1)).start()
    try:
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            quorum = Quorum(required=("clinic",))
            job = Job(f"{plan}:weighs", data="clinic/toy", quorum=quorum, session=session)
            module.write_text("raise ImportError('built for another processor')\n")  # and there it is broken
            with pytest.raises(JobFailed, match="clinic: plan") as caught:
                job.run(progress=False)
    finally:
        federation.close()
    assert (job.state, job.reason, caught.value.reason) == ("failed", "start", "start")
