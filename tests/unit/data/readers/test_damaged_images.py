"""Image files that lie, are damaged, or hold more than can be read: read right, or refused by an error without content."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers.images import MOST_PIXELS, read_image
from fedjob.data.readers.medical_folder import MOST_VOXELS

SECRET = b"SCHMIDT"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, more: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_png(channels: int, kind: int, more: bytes = b"") -> bytes:
    row = b"\0" + np.full((4, channels), 300, ">u2").tobytes()
    return png(4, 3, 16, kind, row * 3, more)


def tiff(bits: int, sample: int, numbers: np.ndarray, *, photometric: int = 1, order: Any = "<") -> bytes:
    """Return a greyscale TIFF file, 4 by 3, of one strip without compression."""
    data = numbers.astype(numbers.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4), (257, 3), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 3)]
    tags += [(279, len(data)), (339, sample)]
    start = 8 + 2 + 12 * len(tags) + 4
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, value in tags:
        found += struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(
            f"{order}I", start if tag == 273 else value
        )
    return found + struct.pack(f"{order}I", 0) + data


def read(folder: Path, name: str, data: bytes, mode: str = "L") -> np.ndarray:
    path = folder / name
    path.write_bytes(data)
    return read_image(path, mode, None, "black")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("rgb.png", deep_png(3, 2), "colours of 16 bits"),
        ("rgba.png", deep_png(4, 6), "colours of 16 bits"),
        ("la.png", deep_png(2, 4), "colours of 16 bits"),
        ("rgb.ppm", b"P6\n4 3\n65535\n" + bytes(72), "colours of 16 bits"),
        ("rgb.ppm", b"P3\n1 1\n1000\n300 300 300\n", "colours of 16 bits"),
        ("clear.png", deep_png(1, 0, chunk(b"tRNS", struct.pack(">H", 300))), "transparent pixels"),
        ("signed.tif", tiff(8, 2, np.full(12, -3, "i1")), "with a sign"),
        ("signed.tif", tiff(8, 2, np.full(12, -3, "i1"), order=">"), "with a sign"),
        ("large.tif", tiff(32, 1, np.full(12, 3_000_000_000, "u4")), "2147483648 or more"),
        ("white.tif", tiff(16, 1, np.full(12, 40_000, "u2"), photometric=0), "0 for white"),
        ("white.tif", tiff(32, 3, np.full(12, 0.5, "f4"), photometric=0), "0 for white"),
        ("half.tif", tiff(16, 3, np.full(12, 0.5, "f2")), "can't be read.*no image of the kinds"),
        ("double.tif", tiff(64, 3, np.full(12, 0.5, "f8")), "can't be read.*no image of the kinds"),
        ("scan.png", bytes(128) + b"DICM" + SECRET, r"DICOM.*dcm2niix"),
        (
            "script.png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "can't be read.*no image of the kinds",
        ),
        ("empty.png", b"", "can't be read.*no image of the kinds"),
        ("words.pgm", b"P2\n4 3\n255\n1 2 " + SECRET, "damaged"),
        ("words.pgm", b"P2\n4 3\n" + SECRET, "damaged"),
    ],
)
def test_what_would_arrive_as_other_numbers_is_refused(
    name: str, data: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        read(tmp_path, name, data, "RGB")
    assert SECRET.decode() not in str(refused.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "sample", "dtype", "value"),
    [(16, 1, "u2", 40_000), (16, 2, "i2", -3), (32, 2, "i4", -70_000), (32, 3, "f4", -3.5)],
)
def test_signed_unsigned_and_real_numbers_arrive_in_both_byte_orders(
    bits: int, sample: int, dtype: str, value: float, order: str, tmp_path: Path
) -> None:
    found = read(tmp_path, "a.tif", tiff(bits, sample, np.full(12, value, dtype), order=order))
    assert found.dtype.isnative
    assert found.tolist() == [[value] * 4] * 3


def test_where_white_is_0_eight_bits_are_turned_round(tmp_path: Path) -> None:
    found = read(tmp_path, "a.tif", tiff(8, 1, np.full(12, 40, "u1"), photometric=0))
    assert set(found.ravel().tolist()) == {215}


def test_an_uncompressed_tiff_on_its_side_is_refused_as_it_would_be_another_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (4, 2)).save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(SpecError, match=r"on its side.*save it the right way up"):
        read_image(tmp_path / "a.tif", "L", None, "")


@pytest.mark.parametrize(
    ("name", "orientation"),
    [("a.jpg", 6), ("a.jpg", 3), ("a.tif", 8), ("a.tif", 6), ("a.tif", 7), ("a.png", 5), ("a.webp", 8)],
)
def test_images_of_every_kind_are_turned_as_they_say(name: str, orientation: int, tmp_path: Path) -> None:
    # blocks, so that JPEG keeps them
    pixels = np.kron(np.array([[0, 80], [160, 240]], "uint8"), np.ones((16, 32), "uint8"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"compression": "tiff_lzw"} if name.endswith("tif") else {}
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **more)
    turned = {
        3: np.rot90(pixels, 2),
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).T,
        8: np.rot90(pixels),
    }[orientation]
    found = read_image(tmp_path / name, "L", None, "")
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).max() <= 8


def test_a_jpeg_in_cmyk_has_the_colours_that_a_viewer_shows(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg", "RGB", None, "")
    assert np.abs(found.astype(int) - [200, 40, 90]).max() <= 6


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png(60_000, 60_000, 8, 2, bytes(100))),
        ("b.png", png(1 << 13, (1 << 13) + 1, 1, 0, bytes(100))),
        ("a.ppm", b"P6\n40000 40000\n255\n"),
        ("a.pgm", b"P5\n9000 9000\n65535\n"),
    ],
)
def test_an_image_that_claims_to_be_huge_takes_no_memory(name: str, data: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableData, match=f"more than {MOST_PIXELS} pixels"):
            read(tmp_path, name, data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


KINDS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about odd entries of TIFF
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_in_a_file_is_one_named_error(kind: str, tmp_path: Path) -> None:
    rng, file = random.Random(kind), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), "uint8")).save(file, kind)
    whole, path = file.getvalue(), tmp_path / f"a.{kind.lower()}"
    refused: list[str] = []
    for trial in range(200):
        damaged = bytearray(whole)
        if trial % 3:
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(rng.choice((min(60, len(whole)), len(whole))))] = rng.randrange(256)
        else:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(bytes(damaged))
        try:
            read_image(path, "RGB", None, "black")
        except SpecError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(words.startswith(str(path)) for words in refused)


# -- folders ---------------------------------------------------------------------------------


def folder_of(root: Path, *names: str | bytes) -> Path:
    (root / "x").mkdir(parents=True)
    Image.new("L", (2, 2), 7).save(root / "plain.png")
    content = (root / "plain.png").read_bytes()
    (root / "plain.png").unlink()
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(root / "x"), os.fsencode(name)))).write_bytes(content)
    return root


def opened(root: Path, reader: str = "images") -> Any:
    return open_dataset({"path": str(root), "reader": reader, "options": {}})


def test_a_name_that_is_no_text_is_refused_in_words_that_are(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", "a.png", b"\xff\xfe.png")
    for work in (lambda: opened(root).items, lambda: describe(root, "images")):
        with pytest.raises(UnreadableData, match=r"not text in UTF-8, '\\udcff\\udcfe.png'") as refused:
            work()
        str(refused.value).encode()


def test_a_class_whose_name_is_no_text_is_refused_as_well(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", "a.png")
    os.mkdir(os.fsencode(root) + b"/\xff")
    with pytest.raises(UnreadableData, match="not text in UTF-8"):
        describe(root, "images")


def test_links_to_files_are_followed_and_a_link_to_nothing_is_no_missing_image(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", "a.png")
    (tmp_path / "store").mkdir()
    (root / "x" / "a.png").rename(tmp_path / "store" / "a")
    (root / "x" / "a.png").symlink_to(tmp_path / "store" / "a")
    assert opened(root).image(0).shape == (2, 2, 3)
    (tmp_path / "store" / "a").unlink()
    with pytest.raises(UnreadableData, match="a link to a file that is not there"):
        opened(root).items  # noqa: B018


@pytest.mark.parametrize("reader", ["images", "medical-folder"])
def test_a_pipe_among_the_files_is_not_waited_for(reader: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", "a.png")
    if reader == "medical-folder":
        write(nifti(np.zeros((2, 2, 2), "f4")), root / "s" / "T1" / "a.nii")
    os.mkfifo(root / "x" / "b.png")
    (root / "t" / "T1").mkdir(parents=True)
    os.mkfifo(root / "t" / "T1" / "a.nii")
    (root / "t" / "T1" / "a.png").write_bytes((root / "x" / "a.png").read_bytes())
    assert opened(root, reader).image(0).size == (12 if reader == "images" else 8)


def test_thousands_of_small_files_are_listed_at_once(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", *(f"{k:05}.png" for k in range(3_000)))
    dataset = opened(root)
    assert len(dataset.identities()) == 3_000
    assert dataset.items[2_999].path.name == "02999.png"


# -- NIfTI -----------------------------------------------------------------------------------

NUMBERS = np.arange(24, dtype="i2").reshape(2, 3, 4)


def nifti(numbers: np.ndarray, *, kind: Any = nibabel.Nifti1Header, order: Any = "<", **fields: Any) -> bytes:
    """Return a file whose header says what it is given, true or not."""
    header = kind(endianness=order)
    header.set_data_dtype(numbers.dtype.newbyteorder(order))
    header.set_data_shape(fields.pop("shape", numbers.shape))
    header["vox_offset"] = header.sizeof_hdr + 4
    for name, value in fields.items():
        header[name] = value
    packed: bytes = header.binaryblock + bytes(4)
    return packed + numbers.astype(numbers.dtype.newbyteorder(order)).tobytes("F")


def write(data: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def image_of(data: bytes, root: Path, name: str = "a.nii") -> np.ndarray:
    write(data, root / "s" / "T1" / name)
    image: np.ndarray = opened(root, "medical-folder").image(0)
    return image


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("slope", "start", "expected"),
    [(2.0, -10.0, NUMBERS * 2.0 - 10), (0.0, 5.0, NUMBERS), (np.nan, 5.0, NUMBERS), (0.5, 0.0, NUMBERS / 2)],
)
def test_slope_and_intercept_count_and_a_slope_of_0_or_nan_means_none(
    kind: Any, order: str, slope: float, start: float, expected: np.ndarray, tmp_path: Path
) -> None:
    data = nifti(NUMBERS, kind=kind, order=order, scl_slope=slope, scl_inter=start)
    assert image_of(data, tmp_path).tolist() == expected.tolist()
    assert image_of(gzip.compress(data), tmp_path / "gz", "a.nii.gz").tolist() == expected.tolist()


def test_what_is_no_number_in_an_image_stays_so(tmp_path: Path) -> None:
    numbers = NUMBERS.astype("f4")
    numbers[0, 0, 0], numbers[1, 0, 0] = np.nan, np.inf
    assert np.array_equal(image_of(nifti(numbers), tmp_path), numbers, equal_nan=True)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "larger numbers than float32 has": (nifti(NUMBERS * 1e300), "holds numbers that float32 can't"),
    "no intercept": (nifti(NUMBERS, scl_slope=1.0, scl_inter=np.nan), "can't be read as NIfTI"),
    "a huge shape": (nifti(NUMBERS, shape=(32767, 32767, 32767)), f"more than {MOST_VOXELS} voxels"),
    "more than is there": (nifti(NUMBERS, shape=(512, 512, 512)), "shorter than the image"),
    "a negative axis": (nifti(NUMBERS, dim=[3, -2, 3, 4, 1, 1, 1, 1]), "no voxels"),
    "no axis": (nifti(NUMBERS, dim=[0] * 8), "no voxels"),
    "an empty axis": (nifti(NUMBERS, dim=[3, 0, 3, 4, 1, 1, 1, 1]), "no voxels"),
    "a start beyond the end": (nifti(NUMBERS, vox_offset=1e9), "shorter than the image"),
    "a start that is no number": (nifti(NUMBERS, vox_offset=np.nan), "shorter than the image"),
    "a start within the header": (nifti(NUMBERS, vox_offset=10), "can't be read as NIfTI"),
    "an unknown kind of numbers": (nifti(NUMBERS, datatype=4096), "can't be read as NIfTI"),
    "nothing": (b"", "can't be read as NIfTI"),
    "half a header": (nifti(NUMBERS)[:200], "can't be read as NIfTI"),
    "half an image": (nifti(NUMBERS)[:-20], "shorter than the image"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_or_lying_nifti_file_is_refused_packed_or_not(damage: str, tmp_path: Path) -> None:
    data, words = DAMAGED[damage]
    with pytest.raises(SpecError, match=words):
        image_of(data, tmp_path)
    with pytest.raises(SpecError, match=rf"{words}|can't be read as NIfTI"):
        image_of(gzip.compress(data), tmp_path / "gz", "a.nii.gz")


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: nifti(np.zeros(1, "f4"), shape=(1024, 1024, 500)) + bytes(1 << 20),
        lambda: nifti(np.zeros(1, "f4"), vox_offset=(1 << 24) + 16) + bytes(32 << 20),
    ],
)
def test_a_packed_file_that_claims_a_gigabyte_takes_no_memory(
    bomb: Callable[[], bytes], tmp_path: Path
) -> None:
    packed = gzip.compress(bomb(), 1)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableData, match="shorter than the image that it announces"):
            image_of(packed, tmp_path, "a.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(UnreadableData, match="shorter"):
        describe(tmp_path, "medical-folder")
