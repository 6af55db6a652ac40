"""The dossier of a job, made from its folder and written as one signed file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fedjob.common.errors import ConfigError
from fedjob.common.files import by_users_umask, write_atomic
from fedjob.identity.keys import Identity, SealKey
from fedjob.researcher.dossier.content import dossier_content
from fedjob.researcher.dossier.signed_file import signed_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record
from fedjob.researcher.storage.spec import JobSpec, load_spec


class _Signer(Protocol):
    public_key_hex: str

    def sign(self, data: bytes) -> bytes: ...


def write_dossier(folder: JobFolder, path: Path | None = None) -> Path:
    """Write the dossier of a job; return where.

    Every aggregation is computed again for it. It is signed with the key that the federation knows the researcher by;
    for a job outside of a federation with the home's own.

    Args:
        path: of the file; None for `dossier_<job id>.html` in the working folder.

    Raises:
        ConfigError: there is such a file already.
    """
    target = Path.cwd() / f"dossier_{folder.path.name}.html" if path is None else path
    if target.exists():
        raise ConfigError(f"{target} exists already: choose another name")
    spec = load_spec(folder.spec)
    signer = _signer(folder.path.parents[1], spec)
    data = signed_file(
        dossier_content(folder, spec, load_record(folder.record)), signer.public_key_hex, signer.sign
    )
    with by_users_umask():
        write_atomic(target, data, mode=0o666)
    return target


def _signer(home: Path, spec: JobSpec) -> _Signer:
    keys = home / "keys"
    if (keys / "ed25519").exists():
        identity = Identity.load_or_create(keys)
        if identity.public_key_hex == spec.owner_key:
            return identity
    return SealKey(home)
