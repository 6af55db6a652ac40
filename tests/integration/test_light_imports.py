"""What starts often starts light: commands, and the node daemon that idles for weeks."""

from __future__ import annotations

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
