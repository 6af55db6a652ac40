"""The writer of a file of parameters, from its beginning to its end, in stretches of any length."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fedjob.common.errors import EncodeError, NoSpace
from fedjob.common.files import FULL, private, write_at
from fedjob.parameters.files import raw_bytes
from fedjob.parameters.safetensors_header import Schema, file_size_of, header_of

if TYPE_CHECKING:
    import torch


class ParamsWriter:
    """A file that gets the bytes that `save_params` gives tensors of this schema, and takes the memory of a stretch.

    Used as a context: a file that did not get all its bytes is removed at its end. Nothing is fsynced.

    Args:
        path: where no file is.
        schema: of the tensors; their numbers are to be written in the order of `names_in_order`.
        grown: is called with the number of bytes that the file has, after each write.

    Raises:
        NoSpace: the disk is full; no partial file is left.
        EncodeError: at the end of the context, fewer or more numbers came than the schema has.
    """

    def __init__(
        self, path: Path, schema: Schema, grown: Callable[[int], object] = lambda size_bytes: None
    ) -> None:
        self._path, self._schema, self._grown = path, schema, grown
        self.size_bytes = file_size_of(schema)
        self._at = 0
        self._descriptor = -1

    def __enter__(self) -> ParamsWriter:
        self._descriptor = private(str(self._path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        try:
            self._write(header_of(self._schema))
        except BaseException:
            self._close(keep=False)
            raise
        return self

    def write(self, stretch: torch.Tensor) -> None:
        """Append numbers, in the dtype of the tensor that they belong to."""
        self._write(raw_bytes(stretch))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_whole = error is None and self._at == self.size_bytes
        self._close(keep=is_whole)
        if error is None and not is_whole:
            raise EncodeError(
                f"{self._path.name}: expected {self.size_bytes} bytes of parameters, found {self._at}"
            )

    def _write(self, block: bytes | memoryview) -> None:
        try:
            write_at(self._descriptor, block, self._at)
        except OSError as error:
            if error.errno in FULL:
                raise NoSpace(f"no space left to write {self._path}: free some, then run again") from error
            raise
        self._at += len(block)
        self._grown(self._at)

    def _close(self, *, keep: bool) -> None:
        os.close(self._descriptor)
        if not keep:
            self._path.unlink(missing_ok=True)
