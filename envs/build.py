"""The wheel and the source archive of fedjob, the same bytes wherever and whenever they are built of the same sources.

    python envs/build.py [FOLDER]        or:  make wheel

The sources are copied into a folder of their own and built there with setuptools as it is installed here (`make venv`
installs the version of `envs/locks/build.txt`), so that neither the user's umask, nor the owner and the dates of the
files, nor what else lies in the checkout can be seen in the result. The date in the archives is `SOURCE_DATE_EPOCH`,
and without that variable the date of the last commit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md")
PACKAGE = "fedjob"
BUILD_WITHIN_S = 300.0
EARLIEST = 315532800
"""1980-01-01, the first day that a zip archive can name."""
_BUILD = "import sys; from setuptools import build_meta as made; getattr(made, sys.argv[1])(sys.argv[2])"


def sources(root: Path) -> list[Path]:
    """Return the files that a release is built of, below `root`."""
    package = [
        path.relative_to(root)
        for path in sorted((root / PACKAGE).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]
    return [Path(name) for name in SOURCES if (root / name).exists()] + package


def build(root: Path, folder: Path, epoch: int) -> list[Path]:
    """Build a wheel and a source archive into a folder; return their paths.

    Args:
        epoch: seconds since 1970 that every file in them bears as its date.

    Raises:
        subprocess.CalledProcessError: they can't be built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy, built = Path(scratch, "sources"), Path(scratch, "built")
        built.mkdir()
        for path in sources(root):
            target = copy / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, target)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (epoch, epoch))
        for made in ("build_sdist", "build_wheel"):
            subprocess.run(
                [sys.executable, "-c", _BUILD, made, str(built)],
                cwd=copy,
                env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"},
                umask=0o022,
                capture_output=True,
                text=True,
                check=True,
                timeout=BUILD_WITHIN_S,
            )
        (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
        archive.write_bytes(without_traces(archive.read_bytes(), epoch))
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(path, folder / path.name)) for path in (wheel, archive)]


def without_traces(archive: bytes, epoch: int) -> bytes:
    """Return a .tar.gz with its members in order, of nobody, with one date."""
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as given,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for member in sorted(given.getmembers(), key=lambda each: each.name):
            content = given.extractfile(member)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime, member.pax_headers = epoch, {}
            member.mode = 0o755 if member.isdir() else 0o644
            made.addfile(member, content)
    return gzip.compress(plain.getvalue(), mtime=epoch)


def date_of(root: Path) -> int:
    """Return the date for what is built of a checkout: `SOURCE_DATE_EPOCH`, else that of its last commit."""
    if text := os.environ.get("SOURCE_DATE_EPOCH", ""):
        return max(EARLIEST, int(text))
    words = ["git", "log", "-1", "--format=%ct"]
    try:
        found = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True, timeout=30).stdout
        return max(EARLIEST, int(found))
    except (OSError, subprocess.SubprocessError, ValueError):
        return EARLIEST


if __name__ == "__main__":
    try:
        made = build(ROOT, Path(sys.argv[1] if sys.argv[1:] else ROOT / "dist"), date_of(ROOT))
    except subprocess.CalledProcessError as error:
        sys.exit(f"envs/build.py: {error}\n{error.stderr}")
    for path in made:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
