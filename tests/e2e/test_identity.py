"""Who a researcher is: the same every time a home is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedjob import connect
from fedjob.common.errors import ConfigError, RepositoryUnreachable
from tests.processes import Processes


@pytest.mark.feature("FB-14")
def test_a_home_is_one_researcher_over_sessions_and_commands(processes: Processes, tmp_path: Path) -> None:
    hub = processes.start(
        "fedjob", "hub", "start", "--home", tmp_path / "hub", "--port", "0", "--mqtt-port", "0", name="hub"
    )
    url = hub.wait_for(r"hub ready: (\S+)")[1]
    home = tmp_path / "alice"
    processes.run("fedjob", "init", "--home", home, "--id", "alice", "--hub", url)
    keys = set()
    for _ in range(2):
        with connect(home=home) as session:
            assert session.party == "alice"
            keys.add(session.identity.public_key_hex)
    assert len(keys) == 1
    with connect(hub=url, home=tmp_path / "nobody") as session:
        given = session.party  # enrolled by itself, under a name of its own
    with connect(home=tmp_path / "nobody") as session:
        assert session.party == given
    listed = processes.run("fedjob", "hub", "party", "list", "--home", tmp_path / "hub", "--json").stdout
    assert {"alice", given} <= {row["party"] for row in json.loads(listed)}
    with pytest.raises(ConfigError, match="alice"):
        connect(home=home, id="bob")
    hub.stop()
    with pytest.raises(RepositoryUnreachable):
        connect(home=home)
