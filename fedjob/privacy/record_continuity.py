"""The check that a proposed record of releases forgets nothing that the record so far knows."""

from __future__ import annotations

from pathlib import Path

from fedjob.common.errors import DecodeError

_ROW_IDS = "ids"


def check_continued(before: Path, after: Path) -> None:
    """Check a proposed record against the one that it is to replace; one that is not there knows nothing.

    Every row that was known is known by the same place, and rows that were told apart in a column still are.

    Raises:
        DecodeError: the proposal forgets a row or a release, or is no record.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not before.exists():
        return
    try:
        old, new = load_file(before), load_file(after)
        ids = old.pop(_ROW_IDS)
        count = len(ids)
        continued = np.array_equal(new[_ROW_IDS][:count], ids)
        for name, labels in old.items():
            proposed = new[name][:count]
            continued = bool(continued and len(proposed) == count)
            if not continued:
                break
            # A new label stands for rows of one old label only, and no row's releases are forgotten.
            _, first, place = np.unique(proposed, return_index=True, return_inverse=True)
            continued = bool((labels[first][place] == labels).all() and (proposed[labels != 0] != 0).all())
    except (SafetensorError, KeyError, OSError, ValueError, TypeError) as error:
        raise DecodeError(f"the proposed record of releases can't be read: {type(error).__name__}") from error
    if not continued:
        raise DecodeError("the proposed record of releases forgets what was released before")
