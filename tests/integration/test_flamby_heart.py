"""The paper's table: its data are the paper's, and a file that is not there is fetched and checked."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from types import ModuleType

import numpy as np
import pytest
import torch

from fedjob.data.loader import open_dataset
from tests.parts import shared_data

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "flamby_heart"


@pytest.fixture(scope="module")
def heart() -> Path:
    """Return the folder of the paper's files."""
    return shared_data("heart")


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """Return the example's `hospitals`, with `plan` beside it."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        module = import_module("hospitals")
        module.plan = import_module("plan")  # type: ignore[attr-defined]
        yield module
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("hospitals", "plan"):
            sys.modules.pop(name, None)


@pytest.fixture
def server(heart: Path) -> Iterator[str]:
    """Serve the four files on loopback; return the address."""
    handler = partial(_Quiet, directory=str(heart))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join(10)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


def opened(example: ModuleType, path: Path, **options: str) -> object:
    return open_dataset({"path": str(path), "reader": "csv", "options": options})


def test_each_hospital_has_the_papers_rows_and_features(example: ModuleType, heart: Path) -> None:
    names = ",".join(example.plan.NAMES)
    counts = []
    for hospital in example.MD5:
        dataset = opened(example, heart / f"processed.{hospital}.data", names=names, na="?")
        ((features, labels, train, test),) = example.plan.parts(dataset)
        assert features.shape == (len(labels), 13)
        assert torch.isfinite(features).all()
        assert sorted([*train, *test]) == list(range(len(labels)))
        counts.append((len(train), len(test)))
    assert counts == [(199, 104), (172, 89), (30, 16), (85, 45)]


def test_the_pooled_table_holds_the_same_parts(example: ModuleType, heart: Path, tmp_path: Path) -> None:
    files = example.hospital_files(heart)
    pooled = opened(example, example.pool(files, tmp_path / "pooled.csv", example.plan.NAMES))
    names = ",".join(example.plan.NAMES)
    parts = list(example.plan.parts(pooled))
    for part, path in zip(parts, files.values(), strict=True):
        (alone,) = example.plan.parts(opened(example, path, names=names, na="?"))
        assert torch.equal(part[0], alone[0])
        assert np.array_equal(part[3], alone[3])


def test_missing_files_are_downloaded_once(
    example: ModuleType, heart: Path, server: str, tmp_path: Path
) -> None:
    files = example.hospital_files(tmp_path / "data", server)
    assert {path.read_bytes() for path in files.values()} == {
        path.read_bytes() for path in heart.glob("*.data")
    }
    assert example.hospital_files(tmp_path / "data", "http://127.0.0.1:9") == files


def test_a_file_that_is_not_the_papers_is_refused(example: ModuleType, server: str, tmp_path: Path) -> None:
    (tmp_path / "processed.va.data").write_text("1,2,3\n")
    with pytest.raises(
        ValueError, match=r"processed\.va\.data is not the file of the paper: expected md5 4249d"
    ):
        example.hospital_files(tmp_path, server)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_table_is_made_through_a_hub_and_four_nodes(heart: Path, tmp_path: Path) -> None:
    command = [
        EXAMPLE / "table.py",
        "--methods",
        "FedAvg",
        "--seeds",
        "1",
        "--data",
        heart,
        "--output",
        tmp_path,
    ]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FedAvg" in done.stdout
    (run,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    for k in range(4):
        assert float(run[f"hospital_{k}"]) == pytest.approx(float(run[f"published_{k}"]), abs=0.15)
    assert float(run["pooled"]) == pytest.approx(float(run["published_pooled"]), abs=3 * 0.024)
    assert (tmp_path / "table.png").stat().st_size > 10_000
