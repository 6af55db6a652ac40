"""The contract tests of dataset readers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedjob.common.codec import pack
from fedjob.common.errors import SpecError
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers import find_reader, guess_reader
from fedjob.data.readers.base import files_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderCase:
    """Data for one reader.

    Args:
        reader: name of the reader.
        path: of data that only this test uses.
        options: of the reader, as an owner would give them.
        num_rows: number of examples, 2 or more.
        guessed: whether the reader is found from the path alone.
    """

    reader: str
    path: Path
    options: Mapping[str, str] = field(default_factory=dict)
    num_rows: int
    guessed: bool = True


class ReaderContract:
    """The tests that every dataset reader passes."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> ReaderCase:
        """Return data for the reader."""
        raise NotImplementedError

    def test_it_is_found_by_its_name_and_from_a_path_where_it_can_be(self, case: ReaderCase) -> None:
        reader = find_reader(case.reader)
        assert reader.name == case.reader
        assert all(isinstance(what, str) and what for what in reader.options.values())
        if case.guessed:
            assert guess_reader(case.path) == case.reader

    def test_it_describes_what_an_owner_registers(self, case: ReaderCase) -> None:
        found = describe(case.path, case.reader, case.options)
        assert found["num_rows"] == case.num_rows
        assert found["size_bytes"] == sum(file.stat().st_size for file in files_of(case.path))
        for column in found["columns"]:
            assert set(column) == {"name", "type"}
            assert all(isinstance(text, str) and text for text in column.values())
        pack(found)

    def test_it_opens_what_a_plan_gets(self, case: ReaderCase) -> None:
        info = {"path": str(case.path), "reader": case.reader, "options": case.options}
        dataset = open_dataset({**info, "name": "d", "tags": ["t"], "more": 1})
        assert (dataset.name, dataset.tags, dataset.path) == ("d", ("t",), case.path)
        assert len(dataset) == dataset.num_rows == case.num_rows
        assert f"'d', {case.num_rows} rows" in repr(dataset)

    def test_some_of_its_items_are_a_dataset_too(self, case: ReaderCase) -> None:
        dataset = find_reader(case.reader).open(case.path, case.options)
        known = dataset.identities()
        assert len({identity.id for identity in known}) == len(known) == len(dataset.items)
        taken = dataset.take([1, 0])
        assert len(taken.items) == 2
        assert [identity.id for identity in taken.identities()] == [known[1].id, known[0].id]
        assert len(dataset.items) == len(known)

    def test_the_version_changes_with_the_data_and_only_then(self, case: ReaderCase, tmp_path: Path) -> None:
        before = describe(case.path, case.reader, case.options)["version"]
        for file in files_of(case.path):
            os.utime(file, (1, 1))
        moved = case.path.rename(tmp_path / f"moved{case.path.suffix}")
        assert describe(moved, case.reader, case.options)["version"] == before
        from fedjob.data.readers.base import version_of

        file = next(files_of(moved))
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert version_of(moved) != before

    def test_data_that_can_not_be_read_are_an_error(self, case: ReaderCase, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="can't be read: No such file"):
            describe(tmp_path / "nowhere", case.reader, case.options)

    def test_an_option_that_it_does_not_have_is_named(self, case: ReaderCase) -> None:
        with pytest.raises(SpecError, match=f"reader {case.reader} has no option 'nonsense'"):
            describe(case.path, case.reader, {**case.options, "nonsense": "1"})
