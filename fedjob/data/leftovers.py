"""Files and folders that operating systems and programs leave among data: one rule for every reader.

A hidden file or folder, a cache of thumbnails, a recycle bin or an editor's backup is not data. Counted as such,
`.ipynb_checkpoints` becomes a class that shifts the numbers of all others, at one node and not at the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fedjob.common.errors import SpecError, UnreadableData

_SYSTEM_NAMES = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "lost+found",
        "__pycache__",
    }
)
"""Of Windows, macOS, Synology, QNAP, ext4 and Python; compared without case."""

_PATTERNS = re.compile(
    r"\..+"  # hidden: .DS_Store, ._scan.png, .ipynb_checkpoints, .git, .nfs0001, .~lock.table.csv#
    r"|~\$.+"  # a document that is open in Office
    r"|.+~|#.+#"  # an editor's backup, and what it saved by itself
    r"|found\.[0-9]{3}"  # what Windows found on a damaged disk
    r"|.+@syno(eastream|resource)"
    r"|.+\.(crdownload|filepart|partial)",  # a download that has not ended
    re.IGNORECASE | re.DOTALL,
)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder of this name is left there by a system or a program."""
    return name.lower() in _SYSTEM_NAMES or _PATTERNS.fullmatch(name) is not None


def listed(folder: Path) -> list[Path]:
    """Return the files and folders in a folder that are data, sorted by name.

    Raises:
        SpecError: the folder can't be read.
        UnreadableData: a name in it is not text.
    """
    try:
        return sorted(
            child
            for child in folder.iterdir()
            if not is_leftover(child.name) and _is_text(folder, child.name)
        )
    except OSError as error:
        raise _unreadable(error) from error


def walked(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are data, in the order of their paths; links to folders are not followed.

    Raises:
        SpecError: a folder can't be read, so that some would be missing without a word.
        UnreadableData: a name is not text.
    """
    found: list[Path] = []
    for path, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_leftover(name) and _is_text(path, name)]
        found += [Path(path, name) for name in files if not is_leftover(name) and _is_text(path, name)]
    yield from sorted(found)


def is_file_with_content(path: Path) -> bool:
    """Return whether a path is a file, or a link to one, and not a folder, a pipe or the like.

    Raises:
        UnreadableData: it is a link to nothing, so that an item would be missing without a word.
    """
    if path.is_symlink() and not path.exists():
        raise UnreadableData(
            f"{path} is a link to a file that is not there: fetch its content, or take the link away"
        )
    return path.is_file()


def leftovers_of(folder: Path, most: int = 5) -> list[str]:
    """Return the first leftovers below a folder by their paths in it, for a note to the owner."""
    found: list[str] = []
    for path, folders, files in os.walk(folder):
        left = [name for name in (*folders, *files) if is_leftover(name)]
        found += [Path(path, name).relative_to(folder).as_posix() for name in left]
        folders[:] = sorted(name for name in folders if name not in left)
        if len(found) >= most:
            break
    return sorted(found)[:most]


def _is_text(folder: str | Path, name: str) -> bool:
    """Return True for a name that is text: it stands in tables and lists of items.

    Raises:
        UnreadableData: it is not.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnreadableData(
            f"{folder} has a file or folder whose name is not text in UTF-8, {name!a}: give it another name"
        ) from error
    return True


def _raise(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> SpecError:
    return SpecError(f"{error.filename} can't be read: {error.strerror}")
