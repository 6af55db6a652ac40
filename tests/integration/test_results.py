"""Results: every kind, from any process, checked by hash, and out into files of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from safetensors.torch import load_file

from fedjob import FedAvg, Job, JobFailed, Statistics
from fedjob.common.codec import unpack
from fedjob.common.errors import BreakpointIncompatible, NotReady, ObjectCorrupt, SpecError, WrongResult
from fedjob.researcher.results.onnx_model import export_onnx
from fedjob.researcher.results.result import JobResult
from tests import remote
from tests.data import TRAINING, make_points
from tests.integration.test_functions import write_table
from tests.parts import package
from tests.plans import Raises, Tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(tmp_path: Path) -> Job:
    job = Job(
        FedAvg(),
        training_plan=Tiny,
        data={f"n{k}": str(make_points(tmp_path / f"{k}.npz", 40, k)) for k in range(2)},
        nodes="local",
        training_args=TRAINING,
        rounds=2,
        seed=3,
        home=tmp_path,
    )
    job.run(progress=False)
    return job


@pytest.fixture
def table(tmp_path: Path) -> Job:
    data = {name: write_table(tmp_path / f"{name}.csv", A=[1]) for name in ("n0",)}
    job = Job(remote.large_table.bind(num_rows=4), data=data, nodes="local", home=tmp_path)
    job.run(progress=False)
    return job


@pytest.mark.feature("TB-53", "TB-57", "TB-56")
def test_a_result_has_the_kind_that_its_job_makes(trained: Job, table: Job, tmp_path: Path) -> None:
    assert trained.result.kind == "params"
    assert trained.result.artifact.name == "params.safetensors"
    assert isinstance(trained.result.object, torch.nn.Module)
    assert table.result.kind == "table"
    assert table.result.table.columns == ["number", "half"]
    assert table.result.table.rows[3] == (3, 1.5)
    assert table.result.dataframe.equals(table.result.table.dataframe)
    assert table.result.dataframe.dtypes.astype(str).to_dict() == {"number": "int64", "half": "float64"}
    assert table.result.table.to_csv(tmp_path / "t.csv").read_text().splitlines()[:2] == [
        "number,half",
        "0,0.0",
    ]
    value = Job(remote.nothing_needed.bind(word=1), nodes="local", home=tmp_path).run(progress=False)
    assert value.kind == "value"
    with pytest.raises(TypeError, match="result is not a table"):
        _ = trained.result.table
    assert "not" not in repr(trained.result)
    assert "<table" in table.result._repr_html_()
    rows = trained.plot("participation").axes[0].get_yticklabels()
    assert [label.get_text() for label in rows] == trained.nodes


def test_tables_of_several_nodes_are_one_with_a_column_for_the_node(tmp_path: Path) -> None:
    data = {name: write_table(tmp_path / f"{name}.csv", A=[1]) for name in ("n0", "n1")}
    result = Job(remote.large_table.bind(num_rows=2), data=data, nodes="local", home=tmp_path).run(
        progress=False
    )
    assert set(result.value) == {"n0", "n1"}
    assert result.table.columns == ["node", "number", "half"]
    assert [row[0] for row in result.table] == ["n0", "n0", "n1", "n1"]


@pytest.mark.feature("TB-53")
def test_any_process_reads_a_result_from_the_folder_alone(trained: Job, table: Job) -> None:
    script = (
        "import sys\nfrom fedjob.researcher.results.result import JobResult\n"
        "trained, table = map(JobResult.load, sys.argv[1:])\n"
        "print(sorted(trained.params), len(trained.history), len(table.table), trained.model().training)\n"
        "assert 'requests' not in sys.modules and 'paho' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(trained.folder), str(table.folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
    )
    assert f"{sorted(trained.result.params)} {len(trained.result.history)} 4" in done.stdout


@pytest.mark.feature("TB-56")
def test_without_pandas_a_table_says_what_to_install(table: Job, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "pandas.py").write_text("raise ImportError('there is no pandas here')\n")
    script = (
        "import sys\nfrom fedjob.researcher.results.result import JobResult\n"
        "try:\n    JobResult.load(sys.argv[1]).dataframe\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(table.folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path / "none"), "PATH": "/usr/bin"},
    )
    assert "pip install 'fedjob[researcher]'" in done.stdout


@pytest.mark.feature("TB-58")
def test_an_artifact_is_checked_by_its_hash_and_overwrites_nothing(trained: Job, tmp_path: Path) -> None:
    artifact = trained.result.artifact
    saved = artifact.save(tmp_path / "out" / "model.safetensors")
    assert saved.read_bytes() == artifact.path.read_bytes()
    with pytest.raises(SpecError, match="exists already"):
        artifact.save(saved)
    artifact.save(saved, force=True)
    with pytest.raises(SpecError, match="exists already"):
        trained.result.save(saved)
    raw = bytearray(artifact.path.read_bytes())
    raw[-1] ^= 1
    artifact.path.unlink()
    artifact.path.write_bytes(raw)
    with pytest.raises(ObjectCorrupt, match="changed after"):
        artifact.save(tmp_path / "tampered")
    assert not (tmp_path / "tampered").exists()
    assert not list(tmp_path.glob(".tampered*"))


@pytest.mark.feature("TB-05")
def test_the_short_script_leaves_a_csv_file(table: Job, tmp_path: Path) -> None:
    job = table
    if job.success:
        job.result.artifact.save(tmp_path / "output.csv")
    assert pandas.read_csv(tmp_path / "output.csv").equals(job.result.dataframe)


def test_a_result_is_saved_in_the_form_that_its_name_asks_for(
    trained: Job, table: Job, tmp_path: Path
) -> None:
    assert trained.result.save(tmp_path / "m.safetensors").exists()
    (tmp_path / "folder").mkdir()
    assert trained.result.save(tmp_path / "folder").name == "model.safetensors"
    assert len(pandas.read_csv(table.result.save(tmp_path / "t.csv"))) == 4
    assert len(pandas.read_parquet(table.result.save(tmp_path / "t.parquet"))) == 4
    value = Job(remote.nothing_needed.bind(word="x"), nodes="local", home=tmp_path).run(progress=False)
    assert json.loads(value.save(tmp_path / "v.json").read_text()) == [True, "x"]
    assert len(json.loads(table.result.save(tmp_path / "t.json").read_text())) == 4
    assert unpack(value.save(tmp_path / "v.mpk").read_bytes())
    for job in (trained, table):
        assert (
            job.result.about
            in (tmp_path / ("m.safetensors.txt" if job is trained else "t.csv.txt")).read_text()
        )


def test_results_in_hand_stay_what_they_are_when_the_job_goes_on(trained: Job, tmp_path: Path) -> None:
    before, artifact = trained.result, trained.result.artifact
    params = {name: tensor.clone() for name, tensor in before.params.items()}
    after = Job.resume(trained.breakpoints[-1], rounds=5).run(progress=False)
    for name, tensor in params.items():
        assert torch.equal(before.params[name], tensor)
    assert any(not torch.equal(after.params[name], tensor) for name, tensor in params.items())
    assert load_file(before.save(tmp_path / "before.safetensors")).keys() == params.keys()
    assert load_file(artifact.save(tmp_path / "artifact.safetensors")).keys() == params.keys()
    kept = load_file(artifact.check())
    assert all(torch.equal(kept[name], tensor) for name, tensor in params.items())
    assert "2 rounds" in repr(before)
    assert "5 rounds" in repr(after)
    assert len(before.history["round"].unique()) < len(after.history["round"].unique())
    predicted = Job(before, data=tmp_path / "0.npz", nodes="local", home=tmp_path).run(progress=False).value
    assert len(predicted) == 40
    last = Job.resume(trained.folder, rounds=6).run(progress=False)
    assert artifact.sha256 != last.artifact.sha256 != after.artifact.sha256
    assert after.artifact.check().exists()


ENDINGS = [
    ".csv",
    ".parquet",
    ".json",
    ".mpk",
    ".safetensors",
    ".pt",
    ".pkl",
    ".onnx",
    ".xlsx",
    ".CSV",
    ".txt",
]


def test_a_file_says_what_it_is_or_is_not_written(trained: Job, table: Job, tmp_path: Path) -> None:
    value = Job(remote.nothing_needed.bind(word="x"), nodes="local", home=tmp_path).run(progress=False)
    held = {
        "params": (trained.result, {".safetensors"}),
        "table": (table.result, {".csv", ".CSV", ".parquet", ".json", ".mpk"}),
        "value": (value, {".json", ".mpk"}),
    }
    for kind, (result, formats) in held.items():
        for ending in ENDINGS:
            path = tmp_path / f"{kind}{ending}"
            if ending in formats:
                assert result.save(path).exists()
                continue
            with pytest.raises(SpecError, match=f"can't be saved as \\{ending.lower()}; expected "):
                result.save(path)
            assert not path.exists()
    with pytest.raises(SpecError, match="pickles, which run code"):
        trained.result.save(tmp_path / "m.pt")
    for wrong in (tmp_path / "m.pt", tmp_path / "m.onnx"):
        with pytest.raises(SpecError, match="ends in"):
            trained.result.export(wrong)
        with pytest.raises(SpecError, match="ends in"):
            trained.result.artifact.save(wrong)


def test_analytics_are_saved_as_json_with_whom_they_are_about(tmp_path: Path) -> None:
    pandas.DataFrame({"x": [1.0, None, 4.0]}).to_csv(tmp_path / "a.csv", index=False)
    asked = Statistics(mean="x", min="x", histogram={"x": [2, 3]})
    found = Job(asked, data=tmp_path / "a.csv", nodes="local", home=tmp_path).run(progress=False)
    plain = json.loads(found.save(tmp_path / "s.json").read_text())
    assert plain["columns"] == [{"column": "x", "mean": 2.5, "min": 1.0}]
    assert plain["histogram"][-1] == {"column": "x", "low": 3.0, "high": "Infinity", "count": 1}
    assert "x has 2 of 3 values" in (tmp_path / "s.json.txt").read_text()
    with pytest.raises(SpecError, match=r"result\.value\[name\]\.to_csv"):
        found.save(tmp_path / "s.csv")


@pytest.mark.parametrize("ending", [".mpk", ".pickle", ".pt", ".npz"])
def test_first_parameters_of_another_format_are_refused_by_their_name(
    trained: Job, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"model{ending}"
    file.write_bytes(b"x")
    with pytest.raises(SpecError, match=f"model\\{ending}': parameters are a safetensors file"):
        trained.clone(init=file)
    with pytest.raises(BreakpointIncompatible, match=f"model\\{ending} is a file"):
        Job.resume(file)


def test_a_folder_given_for_first_parameters_is_called_one_and_what_is_in_it_is_named(trained: Job) -> None:
    with pytest.raises(SpecError, match=r"init: .*round_\d+ is a folder; .*in it are .*\.safetensors"):
        trained.clone(init=trained.breakpoints[-1])


def test_a_model_is_exported_with_words_on_how_to_load_it(trained: Job, tmp_path: Path) -> None:
    path = trained.result.export(tmp_path / "model.safetensors")
    words = path.with_name("model.safetensors.txt").read_text()
    assert 'load_state_dict(load_file("model.safetensors"))' in words
    assert trained.result.artifact.sha256 in words
    model = trained.training_plan.model
    model.load_state_dict(load_file(path))
    with pytest.raises(SpecError, match="exists already"):
        trained.result.export(path)
    with pytest.raises(SpecError, match="state_dict, onnx"):
        trained.result.export(tmp_path / "x", format="pickle")
    with pytest.raises(SpecError, match="example"):
        trained.result.export(tmp_path / "x.onnx", format="onnx")


def test_an_example_that_does_not_fit_the_model_is_named_in_one_line(trained: Job, tmp_path: Path) -> None:
    package("onnxscript")
    with pytest.raises(SpecError, match=r"can't be computed with that example \(shape \(1, 77\)\)") as caught:
        trained.result.export(tmp_path / "x.onnx", format="onnx", example=torch.zeros(1, 77))
    assert len(str(caught.value).splitlines()) == 1


def test_an_exported_onnx_model_predicts_as_the_trained_one(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = package("onnx")
    package("onnxscript")
    model = trained.result.model().eval()
    inputs = torch.linspace(-1, 1, next(model.parameters()).shape[1])[None]
    path = trained.result.export(tmp_path / "m.onnx", format="onnx", example=inputs)
    loaded = onnx.load(str(path))
    onnx.checker.check_model(loaded)
    evaluator = onnx.reference.ReferenceEvaluator(loaded)
    (found,) = evaluator.run(None, {loaded.graph.input[0].name: inputs.numpy()})
    numpy.testing.assert_allclose(found, model(inputs).detach().numpy(), atol=1e-6)
    assert capsys.readouterr().out == ""


def test_an_onnx_model_that_one_file_cant_hold_has_its_tensors_beside_it(tmp_path: Path) -> None:
    onnx = package("onnx")
    package("onnxscript")
    model, inputs = torch.nn.Linear(300, 20).eval(), torch.linspace(-1, 1, 300)[None]
    path = export_onnx(model, tmp_path / "m.onnx", inputs, force=False, one_file_bytes=10_000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 10_000 < (tmp_path / "m.onnx.data").stat().st_size
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    (found,) = evaluator.run(None, {onnx.load(str(path)).graph.input[0].name: inputs.numpy()})
    numpy.testing.assert_allclose(found, model(inputs).detach().numpy(), atol=1e-5)
    with pytest.raises(SpecError, match=r"exists already.*force=True"):
        export_onnx(model, tmp_path / "m.onnx", inputs, force=False, one_file_bytes=10_000)


@pytest.mark.feature("PS-34", "PS-52")
def test_there_is_no_result_before_the_end_but_a_partial_one(trained: Job, tmp_path: Path) -> None:
    replace(trained.record, state="running").save(trained.folder / "record.json")
    with pytest.raises(NotReady, match="is running") as caught:
        JobResult.load(trained.folder)
    assert (caught.value.id, caught.value.state) == (trained.id, "running")
    partial = trained.partial
    assert partial.round == 2
    assert partial.params is not None
    assert set(partial.params) == set(trained.training_plan.get_params())
    assert partial.rows
    failed = Job(
        FedAvg(),
        training_plan=Raises,
        data=str(make_points(tmp_path / "r.npz", 40, 1)),
        nodes="local",
        training_args=TRAINING,
        home=tmp_path,
    )
    with pytest.raises(JobFailed):
        failed.run(progress=False)
    assert failed.partial.round == 0


def test_a_result_begins_the_next_job_and_can_be_its_data(trained: Job, table: Job, tmp_path: Path) -> None:
    again = Job(
        FedAvg(),
        training_plan=Tiny,
        data={"n0": str(tmp_path / "0.npz")},
        nodes="local",
        training_args=TRAINING,
        init=trained.result,
        home=tmp_path,
    )
    first = load_file(again.folder / "initial.safetensors")
    assert all(torch.equal(first[name], tensor) for name, tensor in trained.result.params.items())
    used = Job(remote.sums, data=table.result.artifact, nodes="local", home=tmp_path)
    assert used.run(progress=False).value == {"number": 6, "half": 3}
    with pytest.raises(SpecError, match="is no trained model"):
        Job(table.result, data="x", home=tmp_path)


def test_completed_is_said_only_when_the_result_can_be_fetched(table: Job) -> None:
    events = [(event.type, event.body.get("state", "")) for event in table.events() if not event.task]
    assert events.index(("result", "")) < events.index(("state", "completed"))


def test_a_damaged_or_missing_result_says_so(table: Job) -> None:
    (table.folder / "result" / "manifest.mpk").unlink()
    with pytest.raises(NotReady, match="holds no result"):
        _ = table.result


def test_replies_are_kept_round_by_round(trained: Job) -> None:
    result = trained.result
    assert sorted(result.raw) == [1, 2]
    assert set(result.raw[1]["train"]) == {"n0", "n1"}
    assert result.replies[2].get("n1").sample_size > 0
    assert len(result.replies[1].dataframe()) == 2
    with pytest.raises(WrongResult, match="KeepBest"):
        _ = result.best
