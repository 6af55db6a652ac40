"""The reader of data for a torch Dataset: the node gives the path, the approved plan the class that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from fedjob.common.errors import SpecError
from fedjob.data.readers.base import Dataset, Reader
from fedjob.data.readers.files import FilesDataset

D = TypeVar("D")


class TorchDataset(FilesDataset):
    """A file or folder of which the owner registered the number of examples; `.items` are the files.

    In a plan, with a class that is part of the plan's text:

        from pathlib import Path

        from fedjob import TorchPlan
        from torch.utils.data import Dataset

        class Scans(Dataset):
            def __init__(self, path, size):
                self.files, self.size = sorted(Path(path).iterdir()), size

        class ScanPlan(TorchPlan):
            def training_data(self, dataset, training_args):
                return dataset.build(Scans, size=64)          # Scans(dataset.path, size=64)
    """

    @property
    def num_rows(self) -> int:
        """The number of examples that the owner registered.

        Raises:
            SpecError: the owner registered none.
        """
        given = self.options.get("rows", "")
        if not given.isdecimal() or int(given) < 1:
            raise SpecError(
                f"reader torch can't count examples that a plan's class reads: register --option rows=N, found {given!r}"
            )
        return int(given)

    def build(self, kind: type[D], /, *args: Any, **more: Any) -> D:
        """Return `kind(path, *args, **more)`.

        Args:
            kind: a map-style Dataset of torch, `__len__` and `__getitem__`.

        Raises:
            SpecError: `kind` is no such class, or has more examples than the owner registered.
        """
        if not (isinstance(kind, type) and hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
            raise SpecError(
                f"dataset.build takes a Dataset class with __len__ and __getitem__, not {kind!r:.100}"
            )
        make: Any = kind
        built = make(self.path, *args, **more)
        if len(built) > self.num_rows:
            raise SpecError(
                f"{kind.__name__} has {len(built)} examples; its owner registered {self.num_rows} (option rows)"
            )
        found: D = built
        return found


class TorchReader(Reader):
    """Opens any file or folder; a class of the plan reads it."""

    name: ClassVar[str] = "torch"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = TorchDataset
    options: ClassVar[Mapping[str, str]] = {"rows": "the number of examples"}
