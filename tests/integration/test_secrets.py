"""What a node's owner lets a plan use does not leave the node: looked for in everything that did."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedjob import Items, Job, JobFailed
from fedjob.cli import cli
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.researcher.jobs.session import Session
from tests import stepping
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session
from tests.integration.test_batches import add_files
from tests.processes import wait_until

CANARY = "canary-7f3b91d2"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    found = Federation(tmp_path)
    config = NodeConfig(approval="on", threads=1, logs_private="all", errors="full")
    node = found.node("node1", config)
    for dataset in ("charts", "plain"):
        add_files(node, dataset, {"a": 1, "b": 2})
    node.start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


@pytest.mark.feature("BF-29")
def test_a_secret_is_used_where_the_grant_names_it_and_never_leaves(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    node = federation.nodes[0]
    home = ["--home", str(node.home.root)]
    for dataset in ("charts", "plain"):
        kept = CliRunner().invoke(cli, ["node", "secrets", "set", dataset, "ehr", *home], input=CANARY + "\n")
        assert kept.exit_code == 0, kept.output
    listed = CliRunner().invoke(cli, ["node", "secrets", "list", *home]).output
    assert "ehr" in listed
    assert CANARY not in listed
    assert node.home.secrets.stat().st_mode & 0o077 == 0

    def job(how: str, dataset: str = "charts") -> Job:
        return Job(
            stepping.Secretive,
            data=f"node1/{dataset}",
            training_args={"how": how},
            items=Items(batch=1, tolerate=5),
            session=session,
        )

    unnamed = job("length", "plain")
    unnamed.request()
    node.decide()
    with pytest.raises(JobFailed, match="KeyError"):
        unnamed.run(progress=False)
    named = job("length")
    named.request()
    ways = {"how": {"choices": ["length", "print", "emit", "raise", "return"]}}
    node.decide(limits=GrantLimits(secrets=("ehr",), args=ways))
    assert named.run(progress=False).value == [len(CANARY)] * 2
    with node.database() as database:
        spent = {grant.subject.dataset: grant.rows_spent for grant in Grants(database).all("granted")}
    assert spent == {"plain": 0, "charts": 2}, "to set up counts no rows"
    for how in ("print", "emit"):
        assert job(how).run(progress=False).value == ["done"] * 2
    for how, reason in (("raise", "batch_failures"), ("return", "secret")):
        with pytest.raises(JobFailed, match=reason):
            job(how).run(progress=False)
    time.sleep(0.6)  # logs are read twice a second
    wait_until(lambda: is_hidden_in(node.home.task_logs), timeout_s=30, what="the logs to be closed")
    outside = [path for path in (tmp_path / "lab").rglob("*") if path.is_file()]
    inside = [path for path in node.home.root.rglob("*") if path.is_file() and path != node.home.secrets]
    assert len(outside) > 20
    for path in [*outside, *inside]:
        assert CANARY.encode() not in content_of(path), f"the secret is in {path}"


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # the node tidies up
        return b""


def is_hidden_in(logs: Path) -> bool:
    """Whether what was printed is in the logs, without the secret."""
    said = b"".join(content_of(path) for path in list(logs.iterdir()))
    return b"[secret]" in said and CANARY.encode() not in said
