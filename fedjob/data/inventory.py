"""The count of what a dataset is made of: what was taken, and what of its folder was left out and why, for its owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedjob.common.checks import MAX_NAMED, some_of
from fedjob.data.readers.base import Dataset, files_of
from fedjob.data.readers.files import FilesDataset
from fedjob.data.readers.images import ImagesDataset
from fedjob.data.readers.medical_folder import MedicalFolderDataset
from fedjob.data.readers.table import TableDataset


def counted(dataset: Dataset) -> list[str]:
    """Return lines that say what was counted, and what was skipped; empty where a row is simply a row.

    It reads no content beyond what opening the dataset has read: names of files, and tables that are in memory.
    """
    match dataset:
        case ImagesDataset():
            return _images(dataset)
        case MedicalFolderDataset():
            return _subjects(dataset)
        case FilesDataset():
            return [f"counted: {_kinds(dataset.items)}"]
        case TableDataset():
            return _rows(dataset)
    return []


def _images(dataset: ImagesDataset) -> list[str]:
    counts = Counter(item.class_name for item in dataset.items)
    taken = {item.path for item in dataset.items}
    lines = [f"counted: {', '.join(f'{counts[name]} {name}' for name in dataset.classes)}"]
    empty = [name for name in dataset.classes if not counts[name]]
    if empty:
        lines.append(f"skipped: {_listed('class', 'classes', empty)} without an image")
    other = [file for file in files_of(dataset.path) if file not in taken]
    return lines + _not_used(other, "that are no images in the folder of a class")


def _subjects(dataset: MedicalFolderDataset) -> list[str]:
    listed, wanted, folders = dataset.listed, list(dataset.modalities), dataset.folders
    taken = {item.name for item in dataset.items}
    with_row = set(folders if listed is None else listed)
    no_row = [name for name in folders if name not in with_row]
    no_image = [name for name in folders if name in with_row and name not in taken]
    lines = [f"counted: {len(taken)} subjects of {len(folders)} folders, each with {', '.join(wanted)}"]
    if no_image:
        lines.append(
            f"skipped: {_listed('subject', 'subjects', no_image)} without all of {', '.join(wanted)}"
        )
    if no_row:
        lines.append(f"skipped: {_listed('folder', 'folders', no_row)} without a row in the demographics")
    if no_folder := sorted(with_row - set(folders)):
        lines.append(f"skipped: {_listed('row', 'rows', no_folder)} of the demographics without a folder")
    return lines


def _rows(dataset: TableDataset) -> list[str]:
    files = dataset.files
    lines = [f"counted: the rows of {len(files)} files"] if len(files) > 1 else []
    if dataset.rows_read is None:  # it was counted without being kept in memory
        return lines
    frame = dataset.frame()
    gaps = frame.isna()
    with_gaps = int(gaps.any(axis=1).sum())
    if with_gaps:
        worst = gaps.sum().sort_values(ascending=False, kind="stable")
        named = [f"{name} {count}" for name, count in worst[worst > 0].items()]
        lines.append(
            f"counted: {with_gaps} of {len(frame)} rows lack a value ({some_of(named)}); "
            "an analysis of such columns leaves these rows out"
        )
    return lines


def _not_used(files: Sequence[Path], why: str) -> list[str]:
    return [f"skipped: {_kinds(files)} {why}"] if files else []


def _kinds(files: Iterable[Path]) -> str:
    """Return how many files of which kind there are: `12 files: 10 .txt, 2 without an ending`."""
    counts = Counter(file.suffix.lower() or "without an ending" for file in files)
    total = sum(counts.values())
    often = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    kinds = ", ".join(f"{count} {kind}" for kind, count in often[:MAX_NAMED])
    more = ", ..." if len(counts) > MAX_NAMED else ""
    return f"{total} file{'s' if total != 1 else ''} ({kinds}{more})"


def _listed(one: str, many: str, names: Sequence[str]) -> str:
    return f"{len(names)} {one if len(names) == 1 else many} ({some_of(names)})"
