"""The reader of files that the plan reads itself, for data that no other reader fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from fedjob.data.readers.base import Dataset, ItemIdentity, Reader, files_of, identity_of


class FilesDataset(Dataset):
    """A file, or all files of a folder; `.items` are their paths."""

    of_files: ClassVar[bool] = True

    @cached_property
    def items(self) -> list[Path]:
        """The files, sorted."""
        return list(files_of(self.path))

    def identities(self) -> list[ItemIdentity]:
        return [identity_of(file, self.path) for file in self.items]

    def take(self, places: Sequence[int]) -> FilesDataset:
        taken = FilesDataset(self.path, self.options, name=self.name, tags=self.tags)
        taken.assets = self.assets
        taken.__dict__["items"] = [self.items[place] for place in places]
        return taken

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def columns(self) -> list[dict[str, str]]:
        return []


class FilesReader(Reader):
    """Opens any file or folder; the plan gets the paths of the files, and reads them."""

    name: ClassVar[str] = "files"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = FilesDataset
    options: ClassVar[Mapping[str, str]] = {}
