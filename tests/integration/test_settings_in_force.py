"""A daemon whose settings can't be read serves with the strictest, says so, and takes the mended ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob import Job
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.connection.doctor import settings_of
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session
from tests.processes import wait_until
from tests.remote import sums

OPEN = NodeConfig(approval="off", threads=1)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    (tmp_path / "nodes").mkdir()
    made = Federation(tmp_path / "nodes")
    try:
        yield made
    finally:
        made.close()


def test_what_the_owner_has_not_approved_waits_while_any_setting_is_wrong(
    federation: Federation, tmp_path: Path
) -> None:
    node = federation.node("clinic", OPEN)
    node.start()
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
        job = Job(sums, data="clinic/toy", session=session)

        def verdict() -> str:
            (found,) = job.check()
            return str(found.verdict)

        assert verdict() == "not-needed"
        for wrong in ({"hooks": "cvs"}, {"verifier": "oidc"}, {"launcher": "docker"}):
            node.config = NodeConfig(approval="off", threads=1, **wrong)  # type: ignore[arg-type]
            wait_until(lambda: session.nodes()[0].faults, timeout_s=20, what="the fault to be seen")
            (finding,) = settings_of(session.nodes())
            assert finding.check == "settings of clinic"
            assert not verdict().startswith(("not-needed", "granted"))
            node.config = OPEN
            wait_until(lambda: not session.nodes()[0].faults, timeout_s=20, what="the settings to be mended")
            assert verdict() == "not-needed"
