"""The pictures of a node taken back from one update of it, with and without protections.

The attack of Fowl et al. 2021, https://arxiv.org/abs/2110.13057, by a researcher who sends a model made for it, see
`tests.inversion`.

    python benchmarks/gradient_inversion.py                         a table, and privacy-output/inversion.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fedjob import Protect, RecordDP  # noqa: E402
from tests.inversion import NUM, RECOGNISED, Array, attacked  # noqa: E402

NODES, SHOWN = 8, 14
WEAK, STRONG = RecordDP(epsilon=8.0, delta=1e-5), RecordDP(epsilon=1.0, delta=1e-5)
CASES: dict[str, tuple[Protect | None, int]] = {
    "no protection": (None, 1),
    f"secure sum of {NODES} nodes": (Protect(secagg=True), NODES),
    "RecordDP, epsilon 8": (Protect(dp=WEAK), 1),
    "RecordDP, epsilon 1": (Protect(dp=STRONG), 1),
    "both, epsilon 8": (Protect(secagg=True, dp=WEAK), NODES),
}


def draw(true: Array, found: dict[str, tuple[Array, Array]], path: Path) -> None:
    """Draw the first pictures of the node, and what was taken back of each, a row for each protection."""
    from matplotlib.figure import Figure

    rows = {"the node's pictures": (true, "")}
    for name, (pictures, alike) in found.items():
        rows[name] = (pictures, f"{(alike >= RECOGNISED).sum()} of {NUM} recovered")
    figure = Figure(figsize=(9, 0.66 * len(rows)))
    cells = figure.subplots(len(rows), SHOWN)
    for line, (name, (pictures, count)) in zip(cells, rows.items(), strict=True):
        for cell, picture in zip(line, pictures, strict=False):
            cell.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            cell.set_xticks([])
            cell.set_yticks([])
            for side in cell.spines.values():
                side.set_color("lightgrey")
        line[0].set_ylabel(
            f"{name}\n{count}".strip(), rotation=0, ha="right", va="center", fontsize=8.5, labelpad=6
        )
    figure.subplots_adjust(left=0.2, right=0.995, top=0.99, bottom=0.01, wspace=0.08, hspace=0.08)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Attack once under each protection, print how many pictures came back, and draw some."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path, default=Path("privacy-output", "inversion.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found, true = {}, None
    print(f"| protection | pictures recovered, of {NUM} | correlation, median | highest |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="fedjob-inversion-") as folder:
        for number, (name, (protect, num_nodes)) in enumerate(CASES.items()):
            true, pictures, alike = attacked(protect, num_nodes, Path(folder) / str(number))
            found[name] = pictures, alike
            ordered = sorted(alike)
            print(
                f"| {name} | {(alike >= RECOGNISED).sum()} | {ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f} |",
                flush=True,
            )
    given.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(true, found, given.figure)
    print(f"\n{given.figure}")


if __name__ == "__main__":
    main()
