"""The wheel and the source archive of fedjob, the same bytes wherever and whenever they are built of the same sources.

    python envs/build.py [FOLDER] [--sign KEY]               or:  make wheel
    python envs/build.py [FOLDER] --verify PUBLIC_KEY

The sources are copied into a folder of their own and built there with setuptools as it is installed here (`make venv`
installs the version of `envs/locks/build.txt`), so that neither the user's umask, nor the owner and the dates of the
files, nor what else lies in the checkout can be seen in the result. The date in the archives is `SOURCE_DATE_EPOCH`,
and without that variable the date of the last commit.

Beside them stands `SHA256SUMS`, and with a key, which `FEDJOB_SIGNING_KEY` names as well, `SHA256SUMS.sig`: its Ed25519
signature (RFC 8032), 64 bytes. `openssl` verifies it without anything of fedjob; docs/operations.md has the commands.
"""

from __future__ import annotations

import argparse
import getpass
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md")
PACKAGE = "fedjob"
BUILD_WITHIN_S = 300.0
EARLIEST = 315532800
"""1980-01-01, the first day that a zip archive can name."""
BILL = "fedjob-*.cdx.json"
"""The bill of materials, where `make sbom` wrote one into the folder before."""

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
SIGNING_KEY = "FEDJOB_SIGNING_KEY"
"""The environment variable that names the file of the private key."""

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


class NotReleased(Exception):
    """What lies in a folder is not what somebody signed, or can't be signed; the message says why."""


def write_sums(folder: Path, files: Sequence[Path]) -> None:
    """Write the hashes of files of a folder, as `sha256sum` does; a signature of earlier ones goes."""
    (folder / SIGNATURE).unlink(missing_ok=True)
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(files)]
    (folder / SUMS).write_text("".join(lines), encoding="ascii")


def sign(folder: Path, key_path: Path) -> None:
    """Sign the hashes in a folder.

    Args:
        key_path: an Ed25519 key in PEM, PKCS #8, that its owner alone can read; its passphrase is asked for.

    Raises:
        NotReleased: there is no such key.
    """
    key = _private_key(key_path)
    (folder / SIGNATURE).write_bytes(key.sign((folder / SUMS).read_bytes()))


def verify(folder: Path, key_path: Path) -> list[str]:
    """Return the names of the files in a folder that are what the owner of a key signed.

    Args:
        key_path: the public key, in PEM.

    Raises:
        NotReleased: one of them is not, is missing, or is not among those that were signed.
    """
    try:
        key = load_pem_public_key(key_path.read_bytes())
        sums, signature = (folder / SUMS).read_bytes(), (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise NotReleased(f"{error.filename} can't be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotReleased(f"expected a public key in {key_path}, in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise NotReleased(f"expected an Ed25519 key in {key_path}, found {type(key).__name__}")
    try:
        key.verify(signature, sums)
    except InvalidSignature as error:
        raise NotReleased(
            f"{folder / SUMS} was not signed with the key of {key_path}: don't install what lies there"
        ) from error
    signed = dict(reversed(line.split("  ", 1)) for line in sums.decode("ascii").splitlines())
    for name, digest in signed.items():
        path = folder / name
        if name != Path(name).name or not path.is_file():
            raise NotReleased(f"{path} was signed and is missing")
        if _sha256(path) != digest:
            raise NotReleased(f"{path} has another hash than was signed: don't install it")
    strange = sorted(path.name for path in folder.iterdir() if path.name not in (*signed, SUMS, SIGNATURE))
    if strange:
        raise NotReleased(f"nobody signed {', '.join(strange)} in {folder}: move it away")
    return sorted(signed)


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        if path.stat().st_mode & 0o077:
            raise NotReleased(f"others may read {path}: run `chmod 600 {path}`")
        pem = path.read_bytes()
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:  # it has one
            key = load_pem_private_key(pem, getpass.getpass(f"passphrase of {path}: ").encode())
    except OSError as error:
        raise NotReleased(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotReleased(
            f"expected a private key in {path}, as `openssl genpkey -algorithm ed25519` makes it: {error}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise NotReleased(f"expected an Ed25519 key in {path}, found {type(key).__name__}")
    return key


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Build, or verify what was built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help=f"a private key; else {SIGNING_KEY} names it"
    )
    parser.add_argument("--verify", type=Path, metavar="PUBLIC_KEY", help="look at what lies in the folder")
    given = parser.parse_args()
    folder: Path = given.folder
    try:
        if given.verify is not None:
            for name in verify(folder, given.verify):
                print(f"{name}: signed")
            return
        made = build(ROOT, folder, date_of(ROOT))
        write_sums(folder, [*made, *folder.glob(BILL)])
        for path in made:
            print(f"{_sha256(path)}  {path}")
        named = os.environ.get(SIGNING_KEY, "")
        if key := given.sign or (Path(named) if named else None):
            sign(folder, key)
            print(f"{folder / SIGNATURE}: signed with {key}")
        else:
            print(f"not signed: name a key by --sign KEY or {SIGNING_KEY}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"envs/build.py: {error}\n{error.stderr}")
    except NotReleased as error:
        sys.exit(f"envs/build.py: {error}")


if __name__ == "__main__":
    main()
