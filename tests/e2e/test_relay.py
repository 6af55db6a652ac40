"""Two federations: a node of the first is a researcher in the second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import load_spec
from tests.e2e.federation import Federation, preferred_kind

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.feature("NV-23", "PS-04")
def test_a_relay_passes_on_the_sum_of_its_own_federation(tmp_path: Path) -> None:
    (tmp_path / "nation").mkdir()
    (tmp_path / "region").mkdir()
    kind = preferred_kind()
    with Federation(tmp_path / "nation", kind) as nation, Federation(tmp_path / "region", kind) as region:
        for node, rows in zip(region.add_nodes("ward1", "ward2"), (3, 4), strict=True):
            path = tmp_path / f"{node.name}.csv"
            path.write_text("a,b\n" + "1,2\n" * rows)
            node.add("beds", path, "ward")
        nation.add_nodes("south")
        nation.nodes["south"].set(sandbox="none")  # its plan talks to the region, as its owner has approved
        region.start_nodes()
        nation.start_nodes()
        relay = tmp_path / "relay"
        region.cli("init", "--id", "south-region", "--hub", region.url, home=relay)
        nation.cli("init", "--id", "lab", "--hub", nation.url)
        asked = nation.processes.run(
            "python",
            ROOT / "examples" / "relay.py",
            *(nation.url, "south", region.url, str(relay)),
            env={"FEDJOB_HOME": str(nation.folder / "lab")},
            timeout_s=120,
        )
        assert "7 rows in the region" in asked.stdout
        (listed,) = json.loads(nation.cli("job", "list", "--json").stdout)
        assert (listed["protocol"], listed["state"]) == ("function", "completed")
        (listed,) = json.loads(region.cli("job", "list", "--json", home=relay).stdout)
        (job,) = (relay / "jobs").iterdir()
        assert listed["id"] == job.name
        assert load_spec(JobFolder(job).spec).props == {"via": "south"}
