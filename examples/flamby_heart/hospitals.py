"""The four hospitals' files: where they are, or where to get them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import requests

from fedjob.common.files import write_atomic

SOURCE = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
MD5 = {
    "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "hungarian": "22e96bee155b5973568101c93b3705f6",
    "switzerland": "9a87f7577310b3917730d06ba9349e20",
    "va": "4249d03ca7711e84f4444768c9426170",
}
"""Hospital -> md5 of its file, in the order of the paper's hospitals 0 to 3."""

TIMEOUT_S = 60.0


def hospital_files(folder: Path, source: str = SOURCE) -> dict[str, Path]:
    """Return hospital -> its file in `folder`; a file that is not there is downloaded.

    Raises:
        ValueError: a file is not the one that the paper used.
        requests.RequestException: it could not be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {hospital: _file(folder, hospital, source) for hospital in MD5}


def pool(files: dict[str, Path], path: Path, names: tuple[str, ...]) -> Path:
    """Write one table of all hospitals' rows, with the hospital's number as a column; return its path."""
    frames = [pd.read_csv(file, names=list(names), na_values="?") for file in files.values()]
    pd.concat(frames, keys=range(len(frames)), names=["hospital"]).reset_index("hospital").to_csv(
        path, index=False
    )
    return path


def _file(folder: Path, hospital: str, source: str) -> Path:
    path = folder / f"processed.{hospital}.data"
    url = f"{source}/{path.name}"
    if not path.exists():
        answer = requests.get(url, timeout=TIMEOUT_S)
        answer.raise_for_status()
        _check(answer.content, hospital, url)
        write_atomic(path, answer.content)
    _check(path.read_bytes(), hospital, str(path))
    return path


def _check(content: bytes, hospital: str, where: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5[hospital]:
        raise ValueError(f"{where} is not the file of the paper: expected md5 {MD5[hospital]}, found {found}")
