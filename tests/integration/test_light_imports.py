"""What starts often starts light: commands, and the node daemon that idles for weeks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Processes

HEAVY = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow", "tensorboard")
TELL = "; import sys; print('heavy:', *[name for name in {heavy!r} if name in sys.modules])"


def heavy_after(processes: Processes, code: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    said = processes.run("python", "-c", code + TELL.format(heavy=heavy)).stdout
    return said.rpartition("heavy:")[2].split()


def test_importing_fedjob_imports_nothing_heavy(processes: Processes) -> None:
    assert heavy_after(processes, "import fedjob") == []


@pytest.mark.parametrize(
    "words",
    [[], ["hub"], ["node"], ["node", "data", "add"], ["node", "start"]],
    ids=lambda words: "-".join(words),
)
def test_asking_for_help_imports_nothing_heavy(processes: Processes, words: list[str]) -> None:
    code = f"from fedjob.cli import main\ntry: main({[*words, '--help']!r})\nexcept SystemExit: pass\nx = 0"
    assert heavy_after(processes, code, (*HEAVY, "numpy", "rich", "uvicorn")) == []


def test_the_node_daemon_imports_nothing_heavy(processes: Processes) -> None:
    assert heavy_after(processes, "import fedjob.node.daemon.daemon", (*HEAVY, "numpy", "uvicorn")) == []


@pytest.mark.parametrize(
    "module", ["settings", "node_state", "task_orders", "approvals", "datasets", "budgets"]
)
def test_what_an_owner_does_by_a_command_imports_no_daemon(processes: Processes, module: str) -> None:
    daemon = ("fedjob.node.daemon.daemon", "fedjob.messaging.transport.mqtt", "paho")
    assert heavy_after(processes, f"import fedjob.node.owner.{module}", (*HEAVY, *daemon)) == []


RUN = """
from pathlib import Path

from fedjob import FedAvg, Job
from fedjob.identity.keys import Identity
from tests.integration.nodes import ADD_ONE, TRAINING_ARGS, Federation
from tests.integration.test_jobs_over_memory import open_session

folder = Path({folder!r})
(folder / "plan.py").write_text(ADD_ONE)
federation = Federation(folder)
try:
    federation.node().start()
    with open_session(federation, folder / "lab", Identity.generate("lab")) as session:
        about = {{"training_args": TRAINING_ARGS, "data": {{"tags": ["toy"]}}, "rounds": 1}}
        job = Job(FedAvg(), training_plan=f"{{folder}}/plan.py:AddOne", session=session, **about)
        job.run(progress=False)
finally:
    federation.close()
x = 0"""


def test_a_job_begins_without_torchs_compiler(processes: Processes, tmp_path: Path) -> None:
    """It takes a second, and comes with the first optimizer: who runs a job is not to wait for it."""
    assert heavy_after(processes, RUN.format(folder=str(tmp_path)), ("torch._dynamo",)) == []
