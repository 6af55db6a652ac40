"""The table of accuracy under privacy (`make privacy-table`): one training of each kind, and how it is printed and drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import matplotlib  # noqa: F401 - its settings are compared before and after each test, in any order of the tests
import numpy as np
import pandas as pd
import pytest

from fedjob import Protect, RecordDP
from tests.parts import shared_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """Return the script."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield import_module("privacy_table")
    finally:
        sys.path[:] = before


def small(setting: object) -> object:
    """Return a setting with a few steps only."""
    return replace(setting, rounds=2, args={**setting.args, "num_updates": 4})


@pytest.mark.filterwarnings(
    "ignore:Secure RNG turned off", "ignore:Full backward hook", "ignore:Optimal order"
)
def test_nodes_and_opacus_learn_digits_with_noise_and_without(benchmark: ModuleType, tmp_path: Path) -> None:
    setting = small(benchmark.digits(1))
    found = {
        (epsilon, secagg): benchmark.federated(
            setting,
            Protect(
                secagg=secagg or None,
                dp=None if epsilon is None else RecordDP(epsilon=epsilon, delta=benchmark.DELTA),
            ),
            1,
            tmp_path / f"{epsilon}-{secagg}",
        )
        for epsilon in (None, 8.0)
        for secagg in (False, True)
    }
    assert found[None, False] == found[None, True], (
        "a sum is exact enough that no row is told apart differently"
    )
    assert all(accuracy > 0.6 for accuracy in found.values())
    assert benchmark.pooled(setting, 8.0, 1) > 0.6
    assert benchmark.pooled(setting, None, 1) > 0.6


def test_the_hearts_are_the_papers_rows_brought_to_size_without_looking_at_them(
    benchmark: ModuleType,
) -> None:
    files = benchmark.hospital_files(shared_data("heart"))
    setting = benchmark.hearts(1, files)
    rows = [len(labels) for _, labels in setting.nodes.values()]
    assert rows == [199, 172, 30, 85]
    assert len(setting.test[1]) == 740 - sum(rows)
    other = benchmark.hearts(2, files)
    assert (other.test[0] == setting.test[0]).all()
    least = 2 * setting.args["batch_size"]
    assert min(rows) >= least, "private training refuses fewer rows"


def test_the_table_has_mean_and_spread_of_the_seeds_and_the_plot_is_drawn(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    runs = pd.DataFrame(
        [
            {
                "dataset": "digits",
                "epsilon": epsilon or 0,
                "how": how,
                "seed": seed,
                "accuracy": 0.5 + 0.1 * seed,
            }
            for epsilon in benchmark.EPSILONS
            for how in benchmark.COLUMNS
            for seed in (1, 2)
        ]
    )
    lines = benchmark.table(runs).splitlines()
    assert lines[2] == "| digits | none |" + " 0.650 ± 0.071 |" * 3
    assert lines[-1].startswith("| digits | 1 |")
    benchmark.draw(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.usefixtures("benchmark")
def test_the_table_of_tree_noise_on_the_page_is_what_its_script_computes() -> None:
    script, page = import_module("tree_table"), (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    for epsilon, blocks, passes in script.SETTINGS:
        cells = " | ".join(f"{one:.1f}" for one in script.noise_on_sum(epsilon, blocks, passes))
        assert f"| {epsilon:g} | {blocks} | {passes} | {cells} |" in page


@pytest.mark.usefixtures("benchmark")
def test_the_picture_of_tree_noise_shows_what_the_noise_of_nodes_comes_to(tmp_path: Path) -> None:
    script = import_module("tree_table")
    for epsilon, blocks, passes in script.DRAWN:
        steps = blocks * passes
        lines = script.noise_on_prefixes(epsilon, blocks, passes)
        assert [len(line) for line in lines.values()] == [steps] * 3
        ends = tuple(float(line[-1]) for line in lines.values())
        assert ends == pytest.approx(script.noise_on_sum(epsilon, blocks, passes))
        drawn = script.drawn_noise(epsilon, blocks, passes, size=400)
        assert np.abs(drawn / lines["tree noise"] - 1).max() < 0.2  # of 400 numbers
    script.draw(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 5000
