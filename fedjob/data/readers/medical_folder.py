"""The reader of medical images in a folder per subject and modality, with a table of demographics.

    root/
        demographics.csv            a row for each subject; or participants.tsv, see BIDS
        subject-01/T1/scan.nii.gz   one NIfTI file for each modality
        subject-01/T2/scan.nii
        ...

A subject is read if it has a row in the table and an image of every modality.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import MissingPackage, SpecError, UnreadableData
from fedjob.data.column_types import numeric_array, text_column
from fedjob.data.leftovers import is_file_with_content, listed
from fedjob.data.readers.base import Dataset, ItemIdentity, Reader, check_folder, words
from fedjob.data.readers.loading_plan import LoadingPlan
from fedjob.data.readers.table import records_of, type_name
from fedjob.data.readers.text_layout import TEXT_OPTIONS
from fedjob.data.readers.text_table import TextTable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NIFTI_SUFFIXES = (".nii", ".nii.gz")
MOST_VOXELS = 1 << 29
"""Of one image: 2 GiB as float32."""

_LONGEST_HEADER = 540
"""Bytes of a NIfTI-2 file's; a header begins with the number of its bytes."""

_LAST_START = 1 << 24
"""Byte of a file at which its image begins at the latest, behind what programs noted of it."""

_BEST_PACKED = 1032
"""A byte of gzip holds so many at most, https://www.zlib.net/zlib_tech.html."""

TABLE_SUFFIXES = (".csv", ".tsv")
SUBJECT = "subject"
"""The column of `frame` with the names of the subjects."""

PARTICIPANTS = "participants.tsv"
"""The table of demographics in a folder of the Brain Imaging Data Structure, https://bids.neuroimaging.io."""


@dataclass(frozen=True)
class MedicalSubject:
    """One subject.

    Args:
        images: modality -> its file.
        demographics: column -> value; empty where there is no table.
    """

    name: str
    images: Mapping[str, Path]
    demographics: Mapping[str, Any] = field(default_factory=dict)


class MedicalFolderDataset(Dataset):
    """Subjects, each with an image of every modality."""

    _plan: LoadingPlan = LoadingPlan()

    def named(self, plan: LoadingPlan) -> MedicalFolderDataset:
        named = MedicalFolderDataset(self.path, self.options, name=self.name, tags=self.tags)
        named._plan = plan
        return named

    @cached_property
    def modalities(self) -> dict[str, list[str]]:
        """Modality -> the names of folders that may hold it: from the loading plan, else one folder of that name."""
        wanted = words(self.options, "modalities")
        known = self._plan.modalities or {name: [name] for name in wanted or self._found()}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise SpecError(
                f"option modalities names {unknown[0]!r}; the loading plan has {', '.join(known)}"
            )
        return {name: known[name] for name in wanted} if wanted else known

    def _found(self) -> list[str]:
        found = sorted({_folder(file) for subject in self._folders for file in _images(subject)})
        if not found:
            raise SpecError(
                f"{self.path} has no folder SUBJECT/MODALITY with a NIfTI file ({', '.join(NIFTI_SUFFIXES)})"
            )
        return found

    @cached_property
    def _folders(self) -> list[Path]:
        return [child for child in listed(self.path) if child.is_dir()]

    @cached_property
    def _demographics(self) -> TextTable | None:
        """The file of the demographics; None where there is none."""
        given = self.options.get("demographics")
        tables = [file for file in listed(self.path) if file.suffix.lower() in TABLE_SUFFIXES]
        if given is None and len(tables) > 1:
            tables = [file for file in tables if file.name == PARTICIPANTS] or tables
        if given is None and len(tables) > 1:
            raise SpecError(
                f"{self.path} has {len(tables)} tables: choose one with --option demographics={tables[0].name}"
            )
        if given is None and not tables:
            return None
        file = self.path / given if given is not None else tables[0]
        if file.parent != self.path:
            raise SpecError("option demographics names a file in the dataset's folder itself")
        return TextTable(
            [file], {name: value for name, value in self.options.items() if name in TEXT_OPTIONS}
        )

    @cached_property
    def _table(self) -> pd.DataFrame | None:
        """The demographics, by subject; None where there are none."""
        import pandas as pd

        text = self._demographics
        if text is None:
            return None
        new_names = self._plan.new_names(text.names)
        file = self.options.get("demographics", "the table of demographics")
        index = self.options.get("subject", new_names[text.names[0]])
        own = {name: there for there, name in new_names.items()}
        if index not in own:
            raise SpecError(f"{file} has no column {index!r}; it has {', '.join(own)}")
        if SUBJECT in own and index != SUBJECT:
            raise SpecError(
                f"{file} has a column {SUBJECT!r} beside {index!r}, which names the subjects: give it another name with a "
                "loading plan"
            )
        names = text.texts(own[index])
        if names.dropna().duplicated().any():
            raise UnreadableData(
                f"{file}: column {index!r} names {int(names.dropna().duplicated().sum())} subjects twice"
            )
        table = text.read().rename(columns=new_names).drop(columns=index)
        return table[names.notna().to_numpy()].set_index(pd.Index(names.dropna()))

    @property
    def notes(self) -> list[str]:
        return [] if self._demographics is None else self._demographics.notes

    @cached_property
    def items(self) -> list[MedicalSubject]:
        """The subjects that have a row and every modality, sorted by name."""
        table, found = self._table, []
        rows = {} if table is None else dict(zip(table.index, records_of(table), strict=True))
        for folder in self._folders:
            images = {name: self._image_of(folder, folders) for name, folders in self.modalities.items()}
            if all(images.values()) and (table is None or folder.name in rows):
                there = {name: file for name, file in images.items() if file is not None}
                row = {str(name): value for name, value in rows.get(folder.name, {}).items()}
                found.append(MedicalSubject(folder.name, there, row))
        if not found:
            raise UnreadableData(
                f"{self.path} has no subject with a row of demographics and all of {', '.join(self.modalities)}"
                f"{self._unlike(rows)}"
            )
        return found

    def _unlike(self, rows: Mapping[str, Any]) -> str:
        """Describe how the names in the table differ from those of all folders; empty where some are the same."""
        folders = [folder.name for folder in self._folders]
        if not rows or set(rows) & set(folders):
            return ""
        return (
            f": no name in the table is that of a folder; it names {sorted(rows)[0]!r}, a folder is {folders[0]!r} "
            "(another column of names: --option subject=NAME)"
        )

    def _image_of(self, subject: Path, folders: Sequence[str]) -> Path | None:
        for name in folders:
            files = [file for file in _images(subject) if _folder(file) == name]
            if len(files) > 1:
                raise SpecError(
                    f"{subject.name}/{name} has {len(files)} NIfTI files; expected one for each modality"
                )
            if files:
                return files[0]
        return None

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def columns(self) -> list[dict[str, str]]:
        first = self.items[0]
        found = [{"name": name, "type": _type_of(file)} for name, file in first.images.items()]
        if self._table is None:
            return found
        return found + [
            {"name": str(name), "type": type_name(self._table[name].dtype)} for name in self._table
        ]

    def frame(self) -> pd.DataFrame:
        """Return the demographics of the subjects, in their order, with a first column `subject`."""
        names = text_column([item.name for item in self.items])
        if self._table is None:
            return names.to_frame(SUBJECT)
        frame = self._table.loc[names.tolist()].reset_index(drop=True)
        frame.insert(0, SUBJECT, names)
        return frame

    @property
    def listed(self) -> list[str] | None:
        """Names of all subjects that the demographics list; None where there are no demographics."""
        return None if self._table is None else [str(name) for name in self._table.index]

    @property
    def folders(self) -> list[str]:
        """Names of all folders in which subjects are looked for."""
        return [folder.name for folder in self._folders]

    def image(self, item: MedicalSubject | int, modality: str | None = None) -> np.ndarray[Any, Any]:
        """Return one image, float32, with the axes of its file.

        Args:
            item: the subject, or its position in `items`.
            modality: None for the first.
        """
        import numpy as np

        chosen = self.items[item] if isinstance(item, int) else item
        name = next(iter(self.modalities)) if modality is None else modality
        if name not in chosen.images:
            raise SpecError(f"there is no modality {name!r}; there are {', '.join(chosen.images)}")
        file = chosen.images[name]
        with _reading(file):
            _check_header(file)
            numbers = np.asarray(_nibabel().load(file).dataobj)
        if numbers.dtype.kind not in "biuf":
            raise SpecError(
                f"{file} holds {numbers.dtype}, not one number for each voxel: read it in the plan"
            )
        if (
            numbers.dtype.kind in "iu"
            and numbers.size
            and max(-int(numbers.min()), int(numbers.max())) > 1 << 24
        ):
            raise SpecError(
                f"{file} holds whole numbers over {1 << 24}, such as labels, which float32 can't tell apart: read "
                "the file in the plan, item.images[...]"
            )
        with np.errstate(over="ignore"):
            found = numbers.astype(np.float32)
        if numbers.dtype.kind == "f" and (np.isinf(found) & np.isfinite(numbers)).any():
            raise SpecError(
                f"{file} holds numbers that float32 can't: read the file in the plan, item.images[...]"
            )
        return found

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (images, targets), all in memory.

        Images are float32 of shape (subjects, modalities, ...), without the modality that is the target. Targets
        are a column of the demographics, or the images of one modality, as option `target` says.

        Raises:
            SpecError: there is no such target, or the images differ in size.
        """

        target = self.options.get("target", "")
        columns = [] if self._table is None else [str(name) for name in self._table]
        if target not in (*columns, *self.modalities):
            raise SpecError(
                f"register --option target=NAME: a column ({', '.join(columns) or 'none'}) or a modality "
                f"({', '.join(self.modalities)}); found {target!r}"
            )
        inputs = self._stacked([name for name in self.modalities if name != target])
        if target in self.modalities:
            return inputs, self._stacked([target])[:, 0]
        return inputs, numeric_array(self.frame()[target])

    def _stacked(self, modalities: Sequence[str]) -> np.ndarray[Any, Any]:
        import numpy as np

        images = [[self.image(item, name) for name in modalities] for item in self.items]
        shapes = {image.shape for row in images for image in row}
        if len(shapes) > 1:
            raise SpecError(
                f"the images have {len(shapes)} different shapes, such as {sorted(shapes)[:2]}: read them one by one, "
                ".items and .image(), and resample them in the plan"
            )
        return np.stack([np.stack(row) for row in images])

    def identities(self) -> list[ItemIdentity]:
        found = []
        for item in self.items:
            stats = [file.stat() for file in item.images.values()]
            newest, size = max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats)
            found.append(ItemIdentity(item.name, newest, f"size:{size}"))
        return found

    def take(self, places: Sequence[int]) -> MedicalFolderDataset:
        taken = self.named(self._plan)
        taken.assets = self.assets
        taken.__dict__.update(modalities=self.modalities, items=[self.items[place] for place in places])
        return taken


def is_medical_folder(path: Path) -> bool:
    """Return whether a folder looks like such a dataset: SUBJECT/MODALITY/image.nii."""
    return any(_images(child) for child in listed(path) if child.is_dir())


def _images(subject: Path) -> list[Path]:
    return [
        file
        for modality in listed(subject)
        if modality.is_dir()
        for file in listed(modality)
        if file.name.endswith(NIFTI_SUFFIXES) and is_file_with_content(file)
    ]


def _folder(file: Path) -> str:
    return file.parent.name


def _type_of(file: Path) -> str:
    with _reading(file):
        return f"nifti[{', '.join(map(str, _check_header(file)))}]"


def _check_header(file: Path) -> tuple[int, ...]:
    """Return the shape that a file's first bytes claim, before anything of that size is read.

    Raises:
        UnreadableData: there is no such image in the file, or it would fill the memory.
    """
    nibabel, packed = _nibabel(), file.name.endswith(".gz")
    with gzip.open(file) if packed else file.open("rb") as opened:
        first = opened.read(_LONGEST_HEADER)
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    known = [kind for kind in kinds if kind.sizeof_hdr in _either_order(first[:4])]
    if not known or len(first) < known[0].sizeof_hdr:
        raise UnreadableData(
            f"{file} can't be read as NIfTI: it does not begin as such a file (DICOM is turned into it by dcm2niix)"
        )
    header = known[0](first[: known[0].sizeof_hdr], check=False)
    shape = tuple(int(length) for length in header.get_data_shape())
    offset, number = float(header["vox_offset"]), math.prod(shape)
    if not shape or min(shape) < 1:
        raise UnreadableData(f"{file} is damaged: an axis of its image has no voxels")
    if number > MOST_VOXELS:
        raise UnreadableData(
            f"{file} says that it has more than {MOST_VOXELS} voxels, which would fill the memory: cut it into files of their "
            "own, or read it piece by piece in the plan, item.images[...]"
        )
    most_left = file.stat().st_size * (_BEST_PACKED if packed else 1)
    if not 0 <= offset <= _LAST_START or offset + number * header.get_data_dtype().itemsize > most_left:
        raise UnreadableData(f"{file} is damaged or cut off: it is shorter than the image that it announces")
    return shape


def _either_order(four: bytes) -> tuple[int, int]:
    return int.from_bytes(four, "little"), int.from_bytes(four, "big")


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingPackage("reader medical-folder needs nibabel: pip install 'fedjob[imaging]'") from error
    return nibabel


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever nibabel raises while it reads a file into one error that names the file."""
    try:
        yield
    except (MissingPackage, UnreadableData, MemoryError):
        raise
    except Exception as error:  # a damaged file may make the parser raise anything
        raise UnreadableData(f"{file} can't be read as NIfTI: {type(error).__name__}") from error


class MedicalFolderReader(Reader):
    """Opens folders of medical images."""

    name: ClassVar[str] = "medical-folder"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = MedicalFolderDataset
    options: ClassVar[Mapping[str, str]] = {
        **TEXT_OPTIONS,
        "demographics": "the csv or tsv file with the demographics, where the folder has several tables",
        "subject": "the column of this table with the names of the subjects' folders (default the first)",
        "modalities": "the modalities to read, comma separated, in their order (default all)",
        "target": "the column or modality that .arrays() gives as targets",
    }

    def accept(self, path: Path) -> Path:
        return check_folder(path, self.name, "of subjects")
