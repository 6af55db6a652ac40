"""A look over a home with the eyes of another user of the machine."""

from __future__ import annotations

import stat
from pathlib import Path


def open_to_others(home: Path) -> list[str]:
    """Return what others could use in a folder, itself included, as `name mode`."""
    found = [home, *home.rglob("*")]
    return [
        f"{path.relative_to(home)} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]
