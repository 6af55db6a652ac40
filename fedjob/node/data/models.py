"""The models that a node's owner has as files, which jobs may use by name so that they need not travel.

They are listed in `models.json` in the node's home. A file's hash is computed when it is added; as long as its size
and its time of change are those of that moment it is taken for the same file, since hashing one of many GB takes long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import write_atomic
from fedjob.parameters.model_files import ModelFile, check_model_file, check_model_name
from fedjob.repository.parts import ref_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """A model that the owner has added.

    Args:
        path: of its safetensors file.
        sha256: of the file's bytes when it was added.
        changed_ns: the file's time of change then.
    """

    name: str
    path: str
    sha256: str
    size_bytes: int
    changed_ns: int

    @property
    def problem(self) -> str:
        """Say what is wrong with its file by now; empty for nothing."""
        try:
            found = Path(self.path).stat()
        except OSError as error:
            return f"its file can't be read ({error.strerror})"
        is_same = (found.st_size, found.st_mtime_ns) == (self.size_bytes, self.changed_ns)
        return "" if is_same else "its file has changed since its owner added it"


class OwnModels:
    """A node's models.

    Args:
        path: of the file that lists them; there need be none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, OwnModel]:
        """Return name -> model.

        Raises:
            ConfigError: the list is not as it was written.
        """
        try:
            plain = json.loads(self._path.read_bytes())
            return {str(name): OwnModel(**{**entry, "name": str(name)}) for name, entry in plain.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{self._path} can't be read ({error}): remove it and add the models again"
            ) from error

    def add(self, name: str, path: Path) -> OwnModel:
        """Add a file under a name, in the place of one that had it; return the model.

        Raises:
            SpecError: the name is none, or the file is no safetensors file.
        """
        check_model_name(name)
        path = path.expanduser().resolve()
        check_model_file(path)
        before = path.stat()
        model = OwnModel(
            name=name,
            path=str(path),
            sha256=ref_of(path).sha256,
            size_bytes=before.st_size,
            changed_ns=before.st_mtime_ns,
        )
        if model.problem:
            raise SpecError(f"{path} was written to while it was read: add it again")
        self._save({**self.all(), name: model})
        return model

    def remove(self, name: str) -> None:
        """Forget a model; its file stays.

        Raises:
            SpecError: there is none of that name.
        """
        kept = self.all()
        if kept.pop(name, None) is None:
            raise SpecError(f"this node has no model {name!r}: `fedjob node model list` shows which it has")
        self._save(kept)

    def lacking(self, wanted: Mapping[str, str]) -> str:
        """Say which of some models this node does not have; empty for none.

        Args:
            wanted: name -> sha256.
        """
        own = self.all() if wanted else {}
        for name, sha256 in sorted(wanted.items()):
            model = own.get(name)
            if model is None:
                return f"this node has no model {name[:64]!r}"
            if model.sha256 != sha256:
                return (
                    f"the model {name[:64]!r} here is another one: its sha256 is {model.sha256[:16]}..., and the job "
                    f"asks for {sha256[:16]}..."
                )
            if model.problem:
                return f"the model {name[:64]!r} can't be used: {model.problem}"
        return ""

    def files(self, wanted: Mapping[str, str]) -> dict[str, ModelFile]:
        """Return the files of some models, name -> file.

        Raises:
            SpecError: this node lacks one; see `lacking`.
        """
        if lacking := self.lacking(wanted):
            raise SpecError(lacking)
        own = self.all() if wanted else {}
        return {name: ModelFile(own[name].path, own[name].sha256) for name in wanted}

    def _save(self, kept: Mapping[str, OwnModel]) -> None:
        plain = {name: asdict(model) for name, model in sorted(kept.items())}
        write_atomic(self._path, json.dumps(plain, indent=2).encode())
