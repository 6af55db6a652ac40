"""The reader of images and labels in the IDX format of MNIST (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.leftovers import listed
from fedjob.data.readers.base import Dataset, Reader

if TYPE_CHECKING:
    import numpy as np

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGES = re.compile(r"(?P<split>.*?)[-_.]?images[-_.]idx3[-_.]ubyte(\.gz)?")
_MAX_BYTES = 4 << 30


class MnistDataset(Dataset):
    """Images of one byte a pixel, and their labels; the files may be compressed with gzip."""

    @cached_property
    def _files(self) -> tuple[Path, Path]:
        folder = self.path if self.path.is_dir() else self.path.parent
        files = listed(folder) if self.path.is_dir() else [self.path]
        found = {m["split"]: file for file in files if (m := _IMAGES.fullmatch(file.name))}
        if not found:
            raise SpecError(
                f"{self.path}: no IDX images here; expected a file *-images-idx3-ubyte, .gz or not"
            )
        split = self.options.get("split") or ("train" if "train" in found else sorted(found)[0])
        if split not in found:
            raise SpecError(f"{self.path} has no split {split!r}; it has {', '.join(sorted(found))}")
        images = found[split]
        stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        for labels in (folder / stem, folder / f"{stem}.gz"):
            if labels.is_file():
                return images, labels
        raise SpecError(f"{folder}: the labels of {images.name} are missing; expected {stem}, .gz or not")

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return _head(self._files[0], axes=3)[0]

    @property
    def num_rows(self) -> int:
        return self._shape[0]

    @property
    def columns(self) -> list[dict[str, str]]:
        return [
            {"name": "image", "type": f"uint8[{self._shape[1]}, {self._shape[2]}]"},
            {"name": "label", "type": "int"},
        ]

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (images, labels): uint8 of shape (rows, height, width), int64 of shape (rows,)."""
        images, labels = _read_idx(self._files[0], axes=3), _read_idx(self._files[1], axes=1)
        if len(images) != len(labels):
            raise SpecError(f"{self.path} has {len(images)} images and {len(labels)} labels")
        return images, labels.astype("int64")


def _open(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _head(path: Path, *, axes: int) -> tuple[tuple[int, ...], str]:
    try:
        with _open(path) as file:
            magic = file.read(4)
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UnreadableData(f"{path} can't be read as IDX: {error}") from error
    if magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] != axes:
        raise UnreadableData(f"{path} is not an IDX file of {axes} axes: it begins with {magic.hex()}")
    return shape, _TYPES[magic[2]]


def _read_idx(path: Path, *, axes: int) -> np.ndarray[Any, Any]:
    import numpy as np

    shape, dtype = _head(path, axes=axes)
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if expected > _MAX_BYTES:
        raise UnreadableData(f"{path} announces {expected} bytes; at most {_MAX_BYTES} are read")
    try:
        with _open(path) as file:
            file.read(4 + 4 * axes)
            # one byte more than expected is enough to detect a longer file without unpacking all of it
            data = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableData(f"{path} can't be read as IDX: {error}") from error
    if len(data) != expected:
        raise UnreadableData(f"{path} is damaged: {expected} bytes announced, found {len(data)} or more")
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))


class MnistReader(Reader):
    """Opens IDX files, or a folder of them."""

    name: ClassVar[str] = "mnist"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = MnistDataset
    options: ClassVar[Mapping[str, str]] = {
        "split": "the split to read, train or t10k, where a folder has both (default train)",
    }
