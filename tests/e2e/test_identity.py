"""Who a researcher is: the same every time a home is used."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from fedjob import Job, Statistics, connect
from fedjob.common.errors import BrokerUnreachable, ConfigError, NoDatasets, RepositoryUnreachable, SpecError
from tests.processes import Processes


@pytest.mark.timeout(300)
@pytest.mark.feature("FB-14", "BF-42", "BF-45", "PS-51")
def test_a_home_is_one_researcher_over_sessions_and_commands(processes: Processes, tmp_path: Path) -> None:
    hub = processes.start(
        "fedjob", "hub", "start", "--home", tmp_path / "hub", "--port", "0", "--mqtt-port", "0", name="hub"
    )
    said = hub.wait_for(r"hub ready: (\S+) (\S+)")
    url, broker = said[1], said[2]
    home = tmp_path / "alice"
    processes.run("fedjob", "init", "--home", home, "--id", "alice", "--hub", url)
    key = home / "keys" / "ed25519"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    keys = set()
    for _ in range(2):
        with connect(home=home, timeout_s=30) as session:
            assert session.party == "alice"
            keys.add(session.identity.public_key_hex)
    assert len(keys) == 1
    own = shutil.copy(key, tmp_path / "own.key")
    options = ("--home", tmp_path / "carol", "--id", "carol", "--hub", url, "--key", own)
    processes.run("fedjob", "init", "--strict", *options)
    with connect(home=tmp_path / "carol", broker=broker, repo=url, timeout_s=30) as session:
        assert session.identity.public_key_hex in keys
        assert session.strict
    with pytest.raises(BrokerUnreachable):
        connect(home=home, broker="mqtt://127.0.0.1:9", timeout_s=1)
    with connect(hub=url, home=tmp_path / "nobody", timeout_s=30) as session:
        given = session.party  # enrolled by itself, under a name of its own
    with connect(home=tmp_path / "nobody", timeout_s=30) as session:
        assert session.party == given
    listed = processes.run("fedjob", "hub", "party", "list", "--home", tmp_path / "hub", "--json").stdout
    assert {"alice", given} <= {row["party"] for row in json.loads(listed)}
    with pytest.raises(ConfigError, match="alice"):
        connect(home=home, id="bob")
    with connect(home=home, timeout_s=30) as session:
        drafted = Job(Statistics(mean="age"), data={"tags": ["heart"]}).id
        assert (home / "jobs" / drafted).is_dir()
        others = Job(Statistics(mean="age"), data={"tags": ["heart"]}, home=tmp_path / "carol")
        with pytest.raises(NoDatasets):
            others.check()
        assert others._session is not None
        assert others._session.party == "carol"
        assert Job(Statistics(mean="age"), data={"tags": ["heart"]}).folder.parent.parent == home
        with pytest.raises(ConfigError, match="belongs to no federation"):
            Job(Statistics(mean="age"), data={"tags": ["heart"]}, home=tmp_path / "new").check()
        with pytest.raises(SpecError, match="another home"):
            Job(Statistics(mean="age"), data={"tags": ["heart"]}, session=session, home=tmp_path / "carol")
    table = tmp_path / "ages.csv"
    table.write_text("age,sex\n40,1\n60,0\n")
    done = Job(Statistics(mean="age"), data=table, nodes="local", home=home, name="done")
    mean = str(done.run(progress=False).value)
    hub.stop()
    with connect(home=home, timeout_s=5) as session:  # its jobs lie here
        ended = session.find(name="done")
        assert ended is not None
        assert (ended.id, str(ended.result.value)) == (done.id, mean)
        assert drafted in [job.id for job in session.jobs(state="draft")]
        found = session.find(id=drafted)
        assert found is not None
        with pytest.raises(RepositoryUnreachable):
            session.nodes()
        with pytest.raises(RepositoryUnreachable):
            found.check()
    with pytest.raises(RepositoryUnreachable):
        connect(hub=url, home=home, timeout_s=5)
