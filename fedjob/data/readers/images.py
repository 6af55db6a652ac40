"""The reader of images in a folder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.leftovers import is_file_with_content, listed, walked
from fedjob.data.readers.base import Dataset, ItemIdentity, Reader, check_folder, identity_of, words

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
_MODES = {"rgb": "RGB", "grey": "L", "gray": "L"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What a file may hold, whatever its name: Pillow would start Ghostscript for one that begins like PostScript."""

MOST_PIXELS = 1 << 26
"""Of one image: 256 MiB when it is read; a file of some kilobytes may claim any number."""

_SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 339, 1, 2
_ORIENTATION, _ON_ITS_SIDE = 274, (5, 6, 7, 8)
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


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
        folders = [child.name for child in listed(self.path) if child.is_dir()]
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
            for file in walked(self.path / name)
            if file.suffix.lower() in IMAGE_SUFFIXES and is_file_with_content(file)
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
        taken.assets = self.assets
        taken.__dict__.update(classes=self.classes, items=[self.items[place] for place in places])
        return taken

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def columns(self) -> list[dict[str, str]]:
        first = self.image(0)
        return [
            {"name": "image", "type": f"{first.dtype}[{', '.join(map(str, first.shape))}]"},
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
        """Return one image, the way up that a viewer shows it.

        Returns:
            Shape (height, width, 3), or (height, width) if option `mode` is grey. The numbers are those of the
            file: uint8, or uint16, int32 or float32 for greyscale images of more than 8 bits. Levels of fewer bits than
            8 or 16 are spread over all of these, as a viewer does.

        Raises:
            SpecError: it can't be read, or not without loss: it has several frames, more than `MOST_PIXELS` pixels,
                colours of 16 bits, or transparent pixels and there is no option `background`.
        """
        chosen = self.items[item] if isinstance(item, int) else item
        return read_image(chosen.path, self._mode, self._size, self.options.get("background", ""))

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (images, labels), all in memory: images of one size and dtype, see `image`; labels int64.

        Raises:
            SpecError: the images differ in size, and there is no option `size`, or they differ in depth.
        """
        import numpy as np

        images = [self.image(item) for item in self.items]
        for item, image in zip(self.items, images, strict=True):
            if image.shape != images[0].shape:
                raise SpecError(
                    f"{item.path} has the shape {image.shape}, the first image {images[0].shape}: "
                    "register the dataset with option size=WIDTHxHEIGHT"
                )
            if image.dtype != images[0].dtype:
                raise SpecError(
                    f"{item.path} has numbers of {image.dtype}, the first image of {images[0].dtype}: "
                    "bring all images to one depth, or read them one by one, .items and .image()"
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


def read_image(path: Path, mode: str, size: tuple[int, int] | None, background: str) -> np.ndarray[Any, Any]:
    """Read an image without loss.

    Args:
        mode: RGB or L, as Pillow calls them.
        size: width and height to scale it to; None keeps it.
        background: colour on which transparent pixels are laid; empty where there may be none.

    Raises:
        SpecError: see `ImagesDataset.image`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            _check_before_decoding(opened, path)
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                _check_deep(image, opened, path)
                return _deep(image, opened.format or "", mode, size)
            flat = _flattened(image, path, background).convert(mode)
    except (SpecError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except (
        Exception
    ) as error:  # a damaged file may make a parser raise anything, with bytes of the file in its words
        if _is_dicom(path):
            raise UnreadableData(
                f"{path} is a DICOM file: turn it into a PNG file, or a series into NIfTI files for the reader medical-folder, "
                "such as by dcm2niix"
            ) from error
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableData(
                f"{path} can't be read: it is damaged, or no image of the kinds that are known ({', '.join(_FORMATS)}): save it as one of them, or "
                "read the file in the plan, .items"
            ) from error
        raise UnreadableData(
            f"{path} can't be read as an image, it is damaged ({type(error).__name__})"
        ) from error
    import numpy as np

    return np.asarray(flat if size is None else flat.resize(size), dtype=np.uint8)


def _check_before_decoding(opened: Any, path: Path) -> None:
    """Refuse what would take too much memory, or arrive as other numbers than those of the file; nothing is decoded yet.

    Raises:
        SpecError: there are too many pixels, several frames, or numbers that Pillow reads with a loss.
    """
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise _too_large(path)
    if getattr(opened, "is_animated", False) and opened.format != "MPO":  # a camera's file, with previews
        raise SpecError(f"{path} has several frames; one is read: split them into files of their own")
    if opened.mode not in ("I", "F") and not opened.mode.startswith("I;16") and _is_deep(opened):
        raise SpecError(
            f"{path} has colours of 16 bits, of which 8 would be lost: save it with 8 bits a colour, or read the file in the "
            "plan, .items"
        )
    tags = getattr(opened, "tag_v2", {})
    if tags.get(_ORIENTATION, 1) in _ON_ITS_SIDE and width != height and opened.tile[0][0] == "raw":
        raise SpecError(
            f"{path} lies on its side and is not compressed, which Pillow takes for another image: save it the right way up"
        )
    if opened.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise SpecError(
            f"{path} has numbers of 8 bits with a sign, which would be read without it: save it with 16 bits, or read the "
            "file in the plan, .items"
        )


def _is_deep(opened: Any) -> bool:
    """Return whether one colour of a pixel has more than 8 bits in the file, as its decoder is ordered to read it."""
    if not opened.tile:
        return False
    decoder, *_, given = opened.tile[0]
    if opened.format == "PPM" and decoder != "raw":
        return len(given) > 1 and given[1] > 255  # the largest number that the file may have
    raw = given if isinstance(given, str) else next((one for one in given or () if isinstance(one, str)), "")
    return ";16" in raw


def _check_deep(image: Any, opened: Any, path: Path) -> None:
    """Refuse greyscale images of more than 8 bits whose numbers mean something else than they seem to.

    Raises:
        SpecError: white is 0, there are transparent pixels, or numbers are too large for Pillow.
    """
    tags = getattr(opened, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise SpecError(
            f"{path} has 0 for white: save it with 0 for black, or read the file in the plan, .items"
        )
    if "transparency" in opened.info:
        raise SpecError(f"{path} has transparent pixels and more than 8 bits: save it without transparency")
    unsigned = opened.format == "TIFF" and _UNSIGNED in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if image.mode == "I" and unsigned and image.getextrema()[0] < 0:
        raise SpecError(
            f"{path} has whole numbers of 2147483648 or more, which int32 can't hold: read the file in the plan, .items"
        )


def _too_large(path: Path) -> SpecError:
    return UnreadableData(
        f"{path} says that it has more than {MOST_PIXELS} pixels, which would fill the memory: scale it down, cut it into tiles, "
        "or read the file in the plan, .items"
    )


def _is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM part 10 says."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _flattened(image: Any, path: Path, background: str) -> Any:
    """Return an image without transparency.

    Under a transparent pixel lies a colour that nobody sees; showing it would be another image.
    """
    from PIL import Image, ImageColor

    if not image.has_transparency_data:
        return image
    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema()[0] == 255:
        return whole
    if not background:
        raise SpecError(
            f"{path} has transparent pixels: register the dataset with the colour that lies under them, such as "
            "--option background=black"
        )
    try:
        colour = ImageColor.getrgb(background)
    except ValueError as error:
        raise SpecError(
            f"option background is a colour such as black or #808080, not {background!r}"
        ) from error
    return Image.alpha_composite(Image.new("RGBA", whole.size, (*colour[:3], 255)), whole)


def _deep(image: Any, format_: str, mode: str, size: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    """Return a greyscale image of more than 8 bits with its own numbers; Pillow would clip them at 255."""
    import numpy as np
    from PIL import Image

    array = np.asarray(image)
    array = array.astype(array.dtype.newbyteorder("="))
    if image.mode == "I" and format_ in ("PNG", "PPM"):  # both have at most 16 bits without sign
        array = array.astype(np.uint16)
    if size is not None:
        scaled = np.asarray(Image.fromarray(array.astype(np.float32)).resize(size))
        if array.dtype.kind != "f":
            scaled = np.clip(np.rint(scaled), array.min(), array.max())
        array = scaled.astype(array.dtype)
    return array if mode == "L" else np.repeat(array[:, :, None], 3, axis=2)


class ImagesReader(Reader):
    """Opens folders of images."""

    name: ClassVar[str] = "images"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = ImagesDataset
    options: ClassVar[Mapping[str, str]] = {
        "classes": "all classes in their order, comma separated; needed where nodes may lack some",
        "size": "WIDTHxHEIGHT in pixels to which images are scaled (default: not scaled)",
        "mode": "rgb or grey (default rgb)",
        "background": "the colour under transparent pixels, such as black (default: such images are refused)",
    }

    def accept(self, path: Path) -> Path:
        return check_folder(path, self.name, "with a folder per class")
