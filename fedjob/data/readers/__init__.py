"""Readers of datasets, by name: one file of this folder for each, one line in the table.

Third parties add theirs as entry points of the group `fedjob.reader`. Importing this imports neither numpy nor pandas.
"""

from __future__ import annotations

from pathlib import Path

from fedjob.common.errors import SpecError
from fedjob.common.registry import Registry
from fedjob.data.leftovers import listed
from fedjob.data.readers.base import Dataset, Reader, check_path, files_of
from fedjob.data.readers.images import IMAGE_SUFFIXES
from fedjob.data.readers.medical_folder import is_medical_folder

__all__ = [
    "READERS",
    "Dataset",
    "Reader",
    "find_reader",
    "fitting_reader",
    "guess_reader",
]

READERS: Registry[Reader] = Registry(
    "reader",
    {
        "csv": "fedjob.data.readers.csv:CsvReader",
        "files": "fedjob.data.readers.files:FilesReader",
        "images": "fedjob.data.readers.images:ImagesReader",
        "medical-folder": "fedjob.data.readers.medical_folder:MedicalFolderReader",
        "mnist": "fedjob.data.readers.mnist:MnistReader",
        "npy": "fedjob.data.readers.npy:NpyReader",
        "npz": "fedjob.data.readers.npz:NpzReader",
        "parquet": "fedjob.data.readers.parquet:ParquetReader",
        "sql": "fedjob.data.readers.sql:SqlReader",
        "torch": "fedjob.data.readers.torch:TorchReader",
    },
)

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".data": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npz": "npz",
}


def find_reader(name: str) -> Reader:
    """Return the reader of that name.

    Raises:
        SpecError: there is none; the nearest is named.
    """
    return READERS.find(name)()


def guess_reader(path: str | Path) -> str:
    """Return the name of the reader that fits a path.

    Raises:
        SpecError: nothing readable there, or no reader fits.
    """
    checked = check_path(Path(path))
    children = listed(checked) if checked.is_dir() else []
    names = [child.name for child in children] if checked.is_dir() else [checked.name]
    if any("-idx3-ubyte" in name or "-idx1-ubyte" in name for name in names):
        return "mnist"
    if checked.is_dir():
        if any(child.is_dir() for child in children):
            return "medical-folder" if is_medical_folder(checked) else "images"
        kinds = {_SUFFIXES.get(child.suffix.lower(), "") for child in children}
        if kinds in ({"csv"}, {"parquet"}):
            return kinds.pop()
        raise SpecError(f"no reader fits the folder {checked}: name one of {', '.join(READERS)}")
    suffixes = [suffix.lower() for suffix in checked.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz", ".zip", ".zst"):
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise SpecError(f"no reader fits {checked.name}: name one of {', '.join(READERS)}")


def fitting_reader(path: str | Path) -> str:
    """Return the name of the reader for data that nobody described: the one guessed, else plain files.

    Raises:
        SpecError: nothing readable there.
    """
    checked = check_path(Path(path))
    try:
        guessed = guess_reader(checked)
    except SpecError:
        return "files"
    if guessed == "images" and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in files_of(checked)):
        return "files"
    return guessed
