"""The look of pictures: for a reader of a light or of a dark notebook, and in a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from fedjob.researcher.results.pictures.figure import COLOURS, NEUTRAL, ink, new_figure, saved


def drawn() -> Any:
    figure = new_figure(3, 2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=ink())
    axis.set(title="title", xlabel="x", ylabel="y")
    return figure


def pixels(png: bytes) -> np.ndarray:
    return plt.imread(io.BytesIO(png), format="png")


def contrast(one: float, other: float) -> float:
    """Return the contrast of two greys of 0 to 1 as WCAG defines it."""
    bright, dark = sorted(
        (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (one, other)), reverse=True
    )
    return (bright + 0.05) / (dark + 0.05)


def test_a_notebook_of_any_theme_shows_no_box_and_text_that_can_be_read() -> None:
    seen = pixels(drawn()._repr_png_())
    assert seen.shape[2] == 4
    assert (seen[:3, :3, 3] == 0).all()
    assert (seen[..., 3] == 0).mean() > 0.7
    solid = seen[seen[..., 3] == 1][:, :3]
    grey = int(NEUTRAL[1:3], 16) / 255
    assert len(solid) > 50
    assert np.abs(solid - grey).max() < 0.01
    for paper in (1.0, 0x11 / 255):
        assert contrast(grey, paper) > 4


def test_a_file_is_black_on_white_before_and_after_a_notebook_showed_it(tmp_path: Path) -> None:
    figure = drawn()
    for name in ("before", "after"):
        saved(figure, tmp_path / f"{name}.png")
        seen = pixels((tmp_path / f"{name}.png").read_bytes())
        assert (seen[0, 0] == 1).all()
        assert seen[..., :3].min() < 0.05
        figure._repr_png_()


def test_colours_of_the_users_own_stay() -> None:
    with mpl.rc_context(), plt.style.context("dark_background"):
        seen = pixels(drawn()._repr_png_())
    assert (seen[0, 0] == [0, 0, 0, 1]).all()
    assert seen[..., :3].max() == 1


def test_the_style_for_notebooks_draws_as_pictures_of_fedjob_look() -> None:
    with plt.style.context("fedjob.any_theme"):
        figure, axis = plt.subplots(figsize=(3, 2))
        axis.plot([0, 1], [0, 1], label="one")
        axis.set(title="title", xlabel="x", ylabel="y")
        axis.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        own = drawn()._repr_png_()
        colours = tuple(mpl.rcParams["axes.prop_cycle"].by_key()["color"])
        texts = {
            mpl.rcParams[name] for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
        }
        plt.close(figure)
    assert tuple(f"#{colour.lstrip('#')}" for colour in colours) == COLOURS
    assert {f"#{colour.lstrip('#')}" for colour in texts} == {NEUTRAL}
    for png in (buffer.getvalue(), own):
        seen = pixels(png)
        assert (seen[:3, :3, 3] == 0).all()
        assert (seen[..., 3] == 0).mean() > 0.6
        assert seen[..., :3][seen[..., 3] > 0.9].mean(axis=-1).min() > 0.2  # nothing is black


def test_the_style_for_notebooks_is_in_the_package() -> None:
    text = (Path(__file__).parents[5] / "setup.cfg").read_text(encoding="utf-8")
    package_data = text.partition("[options.package_data]")[2].partition("\n\n")[0]
    assert "any_theme.mplstyle" in package_data
