"""The reader of images in a folder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.readers.base import Dataset, ItemIdentity, Reader, check_folder, identity_of, words

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
_MODES = {"rgb": "RGB", "grey": "L", "gray": "L"}


@dataclass(frozen=True)
class ImageItem:
    """One image file.

    Args:
        label: index of its class in `classes`.
    """

    path: Path
    label: int
    class_name: str


class ImagesDataset(Dataset):
    """Images, each in the folder of its class."""

    of_files: ClassVar[bool] = True

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes: those of option `classes`, else the names of the folders, sorted."""
        folders = sorted(child.name for child in self.path.iterdir() if child.is_dir())
        named = words(self.options, "classes")
        unknown = [name for name in folders if name not in named]
        if named and unknown:
            raise SpecError(f"{self.path} has the folder {unknown[0]!r}, which option classes does not name")
        if not folders:
            raise SpecError(f"{self.path} has no folders; expected one for each class, with images in it")
        return named or folders

    @cached_property
    def items(self) -> list[ImageItem]:
        """One item for each image, ordered by class and name."""
        found = [
            ImageItem(file, label, name)
            for label, name in enumerate(self.classes)
            if (self.path / name).is_dir()
            for file in sorted((self.path / name).rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        ]
        if not found:
            raise SpecError(
                f"{self.path} has no images in its folders; expected files {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return found

    def identities(self) -> list[ItemIdentity]:
        return [identity_of(item.path, self.path) for item in self.items]

    def take(self, places: Sequence[int]) -> ImagesDataset:
        taken = ImagesDataset(self.path, self.options, name=self.name, tags=self.tags)
        taken.__dict__.update(classes=self.classes, items=[self.items[place] for place in places])
        return taken

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def columns(self) -> list[dict[str, str]]:
        with self._open(self.items[0].path) as image:
            size = f"{image.height}, {image.width}"
        return [
            {"name": "image", "type": f"uint8[{size}{'' if self._mode == 'L' else ', 3'}]"},
            {"name": "label", "type": f"class of {', '.join(self.classes)}"},
        ]

    def frame(self) -> pd.DataFrame:
        """Return a table of paths, labels and names of classes."""
        import pandas as pd

        return pd.DataFrame(
            {
                "path": [str(item.path) for item in self.items],
                "label": [item.label for item in self.items],
                "class": [item.class_name for item in self.items],
            }
        )

    def image(self, item: ImageItem | int) -> np.ndarray[Any, Any]:
        """Return one image: uint8 of shape (height, width, 3), or (height, width) if option `mode` is grey."""
        import numpy as np

        chosen = self.items[item] if isinstance(item, int) else item
        with self._open(chosen.path) as image:
            return np.asarray(image, dtype=np.uint8)

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (images, labels), all in memory: images uint8 of one size, labels int64.

        Raises:
            SpecError: the images differ in size, and there is no option `size`.
        """
        import numpy as np

        images = [self.image(item) for item in self.items]
        for item, image in zip(self.items, images, strict=True):
            if image.shape != images[0].shape:
                raise SpecError(
                    f"{item.path} has the shape {image.shape}, the first image {images[0].shape}: "
                    "register the dataset with option size=WIDTHxHEIGHT"
                )
        return np.stack(images), np.array([item.label for item in self.items], dtype=np.int64)

    @property
    def _mode(self) -> str:
        mode = self.options.get("mode", "rgb").lower()
        if mode not in _MODES:
            raise SpecError(f"option mode is rgb or grey, not {mode!r}")
        return _MODES[mode]

    @property
    def _size(self) -> tuple[int, int] | None:
        if "size" not in self.options:
            return None
        width, _, height = self.options["size"].lower().partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise SpecError(f"option size is WIDTHxHEIGHT, not {self.options['size']!r}")
        return int(width), int(height)

    def _open(self, path: Path) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as opened:
                image = opened.convert(self._mode)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UnreadableData(f"{path} can't be read as an image: {error}") from error
        return image if self._size is None else image.resize(self._size)


class ImagesReader(Reader):
    """Opens folders of images."""

    name: ClassVar[str] = "images"
    opens: ClassVar[type[Dataset]] = ImagesDataset
    options: ClassVar[Mapping[str, str]] = {
        "classes": "all classes in their order, comma separated; needed where nodes may lack some",
        "size": "WIDTHxHEIGHT in pixels to which images are scaled (default: not scaled)",
        "mode": "rgb or grey (default rgb)",
    }

    def accept(self, path: Path) -> Path:
        return check_folder(path, self.name, "with a folder per class")
