"""The loading plan of a dataset: the owner's table of names, so that one training plan fits several nodes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError

_PARTS = ("columns", "modalities")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingPlan:
    """The names that researchers use in plans, with the names in the data of this node.

    Args:
        columns: name in plans -> name of the column in the data; other columns keep their names.
        modalities: name in plans -> names of folders, of which the first that a subject has is read.
    """

    columns: dict[str, str] = field(default_factory=dict)
    modalities: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.columns.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(f"a loading plan gives one name to each column; {twice[0]!r} has several")
        for modality, folders in self.modalities.items():
            if not folders:
                raise SpecError(
                    f"a loading plan names a folder or more for each modality; {modality!r} has none"
                )

    def new_names(self, there: list[str]) -> dict[str, str]:
        """Return name in the data -> name in plans, for all columns.

        Args:
            there: the names of all columns in the data.

        Raises:
            SpecError: a column is missing, or two columns would get one name.
        """
        named = {own: given for given, own in self.columns.items()}
        missing = [own for own in named if own not in there]
        if missing:
            raise SpecError(
                f"the loading plan names the column {missing[0]!r}, which is not there; there are "
                f"{', '.join(there)[:300]}"
            )
        names = {own: named.get(own, own) for own in there}
        given = list(names.values())
        if twice := [name for name in given if given.count(name) > 1]:
            raise SpecError(f"with the loading plan, two columns are called {twice[0]!r}")
        return names

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data; an empty dict for an empty loading plan."""
        return {name: value for name, value in to_plain(self).items() if value}


def loading_plan(plain: Mapping[str, Any]) -> LoadingPlan:
    """Return the loading plan that plain data describes.

    Raises:
        SpecError: the data describe no loading plan; the message shows the expected form.
    """
    try:
        unknown = sorted(set(plain) - set(_PARTS))
        if unknown:
            raise DecodeError(f"there is no part {unknown[0]!r}")
        modalities = {
            name: [folders] if isinstance(folders, str) else folders
            for name, folders in dict(plain.get("modalities") or {}).items()
        }
        return from_plain(LoadingPlan, {"columns": plain.get("columns") or {}, "modalities": modalities})
    except (DecodeError, TypeError, ValueError) as error:
        raise SpecError(
            'a loading plan is {"columns": {"name for plans": "name here"}, "modalities": {"name for plans": '
            f'["folder", ...]}}}}; {error}'
        ) from error


def read_loading_plan(path: Path) -> LoadingPlan:
    """Read a loading plan that an owner wrote, as JSON or TOML.

    Raises:
        SpecError: the file can't be read, or holds no loading plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
        plain = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} can't be read as a loading plan, JSON or TOML: {error}") from error
    if not isinstance(plain, Mapping):
        raise SpecError(f"{path} is no loading plan: it holds a {type(plain).__name__}, not a table of names")
    return loading_plan(plain)
