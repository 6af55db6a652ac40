"""`fedjob node data add` with a loading plan, and what comes of it at the node."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from click.testing import CliRunner, Result

import fedjob
from fedjob import Job
from fedjob.common.identity import Identity
from fedjob.node.cli.data import data
from fedjob.node.settings import NodeConfig
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session


@fedjob.function
def columns(dataset):  # type: ignore[no-untyped-def]
    return [str(name) for name in dataset.frame()]


def test_a_loading_plan_is_registered_shown_and_used_also_for_the_mock(tmp_path: Path) -> None:
    private, mock, plan = tmp_path / "p.csv", tmp_path / "m.csv", tmp_path / "plan.toml"
    pd.DataFrame({"ALTER": [61, 47], "ill": [1, 0]}).to_csv(private, index=False)
    pd.DataFrame({"ALTER": [50], "ill": [1]}).to_csv(mock, index=False)
    plan.write_text('[columns]\nage = "ALTER"\n')
    federation = Federation(tmp_path)
    node = federation.node("clinic", NodeConfig(approval="off", threads=1))

    def types(*words: str | Path) -> Result:
        return CliRunner().invoke(
            data, [*map(str, words), "--home", str(node.home.root)], catch_exceptions=False
        )

    added = types("add", "people", private, "--mock", mock, "--loading-plan", plan)
    assert added.exit_code == 0
    assert "2 rows, 2 columns" in added.output
    assert "warning" not in added.output
    assert "columns      age = ALTER" in types("show", "people").output
    shown = json.loads(types("show", "people", "--json").output)
    assert shown["loading"] == {"columns": {"age": "ALTER"}}
    assert [column["name"] for column in shown["columns"]] == ["age", "ill"]

    node.start()
    try:
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            (handle,) = [found for found in session.datasets() if found.name == "people"]
            assert list(handle.mock().frame()) == ["age", "ill"]
            for use in ("private", "mock"):
                job = Job(columns, data=handle, use=use, session=session)
                job.run(progress=False)
                assert job.result.value == ["age", "ill"]
    finally:
        federation.close()
