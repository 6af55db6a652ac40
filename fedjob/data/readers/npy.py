"""The reader of a folder with two arrays, inputs and targets, that are mapped into memory and never read as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.readers.base import Dataset, Reader, check_folder

if TYPE_CHECKING:
    import numpy as np

INPUTS, TARGETS = "inputs.npy", "targets.npy"


class NpyDataset(Dataset):
    """Inputs and targets, an array each. What is written to them stays in the process that writes it."""

    @cached_property
    def _arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np

        try:
            inputs, targets = (
                np.load(self.path / name, mmap_mode="c", allow_pickle=False) for name in (INPUTS, TARGETS)
            )
        except (OSError, ValueError) as error:
            raise UnreadableData(f"{self.path} can't be read as {INPUTS} and {TARGETS}: {error}") from error
        if not inputs.ndim or not targets.ndim or len(inputs) != len(targets):
            shapes = f"shapes {list(inputs.shape)} and {list(targets.shape)}"
            raise SpecError(
                f"{self.path.name} has inputs and targets of {shapes}: expected as many of one as of the other"
            )
        return inputs, targets

    @property
    def num_rows(self) -> int:
        return len(self._arrays[0])

    @property
    def columns(self) -> list[dict[str, str]]:
        return [
            {"name": name.removesuffix(".npy"), "type": f"{array.dtype}[{', '.join(map(str, array.shape))}]"}
            for name, array in zip((INPUTS, TARGETS), self._arrays, strict=True)
        ]

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (inputs, targets), which are read from their files where they are looked at."""
        return self._arrays


class NpyReader(Reader):
    """Opens folders of `inputs.npy` and `targets.npy`, for arrays that are larger than memory."""

    name: ClassVar[str] = "npy"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = NpyDataset
    options: ClassVar[Mapping[str, str]] = {}

    def accept(self, path: Path) -> Path:
        return check_folder(path, self.name, f"with {INPUTS} and {TARGETS}")
