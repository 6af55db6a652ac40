"""Images of every depth and mode: their numbers arrive, or the image is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedjob.common.errors import SpecError
from fedjob.data.loader import describe, open_dataset

DEEP = (np.arange(48).reshape(6, 8) * 1000).astype("uint16")


def dataset_of(
    folder: Path, image: Image.Image, name: str = "a.png", *, more: Any = None, **options: str
) -> Any:
    (folder / "x").mkdir(parents=True, exist_ok=True)
    image.save(folder / "x" / name, **(more or {}))
    return open_dataset({"path": str(folder), "reader": "images", "options": options})


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_keep_all_their_levels(tmp_path: Path, name: str) -> None:
    dataset = dataset_of(tmp_path, Image.fromarray(DEEP), name, mode="grey")
    found = dataset.image(0)
    assert found.dtype == np.uint16
    assert np.array_equal(found, DEEP)
    assert describe(tmp_path, "images", {"mode": "grey"})["columns"][0]["type"] == "uint16[6, 8]"
    colours = open_dataset({"path": str(tmp_path), "reader": "images"}).arrays()[0][0]
    assert np.array_equal(colours, np.repeat(DEEP[:, :, None], 3, axis=2))


def test_sixteen_bits_are_scaled_in_size_and_not_in_value(tmp_path: Path) -> None:
    flat = dataset_of(tmp_path, Image.fromarray(np.full((6, 8), 40_000, "uint16")), mode="grey", size="4x3")
    assert flat.image(0).shape == (3, 4)
    assert set(flat.image(0).ravel().tolist()) == {40_000}


def test_big_endian_tiffs_come_in_the_machines_order(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    image = Image.frombytes("I;16B", (8, 6), DEEP.astype(">u2").tobytes())
    image.save(tmp_path / "x" / "a.tif")
    found = open_dataset({"path": str(tmp_path), "reader": "images", "options": {"mode": "grey"}}).image(0)
    assert found.dtype.isnative
    assert np.array_equal(found, DEEP)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_whole_and_real_numbers_come_as_they_are(tmp_path: Path, dtype: str) -> None:
    numbers = (np.arange(48).reshape(6, 8) * 70_000 - 5).astype(dtype)
    found = dataset_of(tmp_path, Image.fromarray(numbers), "a.tif", mode="grey").image(0)
    assert found.dtype == dtype
    assert np.array_equal(found, numbers)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_other_modes_become_bytes(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray((np.arange(48).reshape(6, 8) * 5).astype("uint8"))
    image = grey.convert("RGB").convert(mode) if mode != "LA" else grey.convert("LA")
    name = "a.tif" if mode == "CMYK" else "a.png"
    found = dataset_of(tmp_path, image, name).image(0)
    assert found.dtype == np.uint8
    assert found.shape == (6, 8, 3)
    if mode not in ("1", "P"):
        assert np.abs(found[:, :, 0].astype(int) - np.asarray(grey).astype(int)).max() <= 1


def test_images_of_different_depths_are_not_put_together(tmp_path: Path) -> None:
    dataset_of(tmp_path, Image.fromarray(DEEP), "a.png")
    dataset = dataset_of(tmp_path, Image.new("L", (8, 6)), "b.png", mode="grey")
    with pytest.raises(SpecError, match="uint8, the first image of uint16"):
        dataset.arrays()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_need_a_background(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (200, 10, 10, 0))
    more: dict[str, int] = {}
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([200, 10, 10])
        more = {"transparency": 0}
    elif mode == "LA":
        image = image.convert("LA")
    with pytest.raises(SpecError, match=r"transparent pixels.*--option background="):
        dataset_of(tmp_path, image, more=more).image(0)
    for background, value in (("black", 0), ("#808080", 128)):
        found = dataset_of(tmp_path, image, more=more, background=background).image(0)
        assert set(found.ravel().tolist()) == {value}
    with pytest.raises(SpecError, match="background is a colour"):
        dataset_of(tmp_path, image, more=more, background="seethrough").image(0)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png"])
def test_a_file_of_several_frames_is_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    dataset = dataset_of(tmp_path, frames[0], name, more={"save_all": True, "append_images": frames[1:]})
    with pytest.raises(SpecError, match="several frames; one is read"):
        dataset.image(0)


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.fromarray((np.arange(48).reshape(6, 8) * 5).astype("uint8"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    found = dataset_of(tmp_path, image, more={"exif": exif}, mode="grey").image(0)
    assert np.array_equal(found, np.rot90(np.asarray(image), -1))
