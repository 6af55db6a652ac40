"""What a node can do to a researcher who downloads its mock: write nowhere but into the mock's folder, and open nothing."""

from __future__ import annotations

import io
import sqlite3
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import to_plain
from fedjob.common.errors import FedjobError
from fedjob.messaging.messages import Search
from tests.integration.scripted import Field

CSV = b"a,b\n1,2\n3,4\n"


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with these names and contents, whatever they are."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return made.getvalue()


def link(target: str) -> zipfile.ZipInfo:
    """Return an entry that is a link."""
    entry = zipfile.ZipInfo("mock/link.csv")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    entry.comment = target.encode()
    return entry


def renamed(name: str, to: bytes) -> bytes:
    """Return an archive whose only entry has other bytes as its name than Python's module would write."""
    return zipped((name, CSV)).replace(name.encode(), to)


def endless_list() -> bytes:
    """Return an archive that says to have a list of files of two gigabytes."""
    data = bytearray(zipped(("mock.csv", CSV)))
    struct.pack_into("<I", data, len(data) - 22 + 12, 2 << 30)
    return bytes(data)


ARCHIVES: dict[str, bytes | Callable[[], bytes]] = {
    "a path that leads out": zipped(("../../../out.csv", CSV)),
    "a path that leads out from inside": zipped(("mock/../../out.csv", CSV)),
    "an absolute path": zipped(("/tmp/out.csv", CSV)),
    "a path of Windows": zipped(("mock\\..\\..\\out.csv", CSV)),
    "a drive": zipped(("C:out.csv", CSV)),
    "an empty part": zipped(("mock//out.csv", CSV)),
    "a name with NUL": renamed("mock.csvXout", b"mock.csv\0out"),
    "a name with an escape": zipped(("mock\x1b[2J.csv", CSV)),
    "a name of 600 bytes": zipped(("m" * 600, CSV)),
    "a part of 300 bytes": zipped((f"mock/{'m' * 300}", CSV)),
    "a link": zipped((link("/etc/passwd"), b"/etc/passwd")),
    "a folder of one name and a file of it": zipped(("mock/a", CSV), ("mock/a/b", CSV)),
    "a file and a folder of its name": zipped(("mock/a/b", CSV), ("mock/A", CSV)),
    "two names that differ in case": zipped(("mock/a.csv", CSV), ("mock/A.CSV", CSV)),
    "two names that differ in how accents are written": zipped(
        ("mock/é.csv", CSV), (unicodedata.normalize("NFD", "mock/é.csv"), CSV)
    ),
    "two names that differ in case, among others": zipped(
        ("mock/a.csv", CSV), ("mock/b.csv", CSV), ("mock/A.csv", CSV)
    ),
    "two things at its top": zipped(("mock.csv", CSV), ("other.csv", CSV)),
    "nothing": zipped(),
    "a folder": zipped(("mock/", b"")),
    "a compression that needs gigabytes": zipped(("mock.csv", CSV), method=zipfile.ZIP_LZMA),
    "a list of files of two gigabytes": endless_list,
    "no archive": b"x" * 1000,
    "no bytes": b"",
}

NAMES = [
    "../../../out",
    "/tmp/out",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "x" * 300,
    "C:out",
    "-rf",
    "\x1b[2J",
    "ü" * 40,
]


def database() -> bytes:
    """Return the bytes of a SQLite file, and none of a mock."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE t (a)")
    return made.serialize()


SETTINGS = b'url = "sqlite:///x.db"\nquery = "SELECT 1"\npassword_file = "/etc/hostname"\n'

OPENED: dict[str, dict[str, Any]] = {
    "a database's address": {"reader": "sql", "archive": zipped(("mock.toml", SETTINGS))},
    "a local database": {"reader": "sql", "archive": zipped(("mock.db", database()))},
    "a reader that is none": {"reader": "os.system", "archive": zipped(("mock.csv", CSV))},
    "a reader that is a list": {"reader": ["csv"], "archive": zipped(("mock.csv", CSV))},
    "an asset that is a database": {
        "archive": zipped(("assets/t/mock.toml", SETTINGS)),
        "assets": [{"name": "t", "reader": "sql", "options": {}}],
    },
    "a second asset that is a database": {
        "archive": zipped(("assets/s/mock.csv", CSV), ("assets/t/mock.toml", SETTINGS)),
        "assets": [{"name": "s", "reader": "csv"}, {"name": "t", "reader": "sql"}],
    },
    "an asset that leads out": {
        "archive": zipped(("assets/t/mock.csv", CSV)),
        "assets": [{"name": "../../..", "reader": "csv"}],
    },
    "assets that are texts": {"archive": zipped(("assets/t/mock.csv", CSV)), "assets": ["t"]},
    "demographics elsewhere": {
        "reader": "medical-folder",
        "options": {"demographics": "/etc/passwd"},
        "archive": zipped(("mock/s1/t1.nii", b""), ("mock/people.csv", CSV)),
    },
    "an option that is none": {
        "reader": "csv",
        "options": {"storage_options": "x"},
        "archive": zipped(("mock.csv", CSV)),
    },
}


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


@pytest.fixture
def offered(field: Field) -> dict[str, Any]:
    """What the node says of its dataset; tests change it."""
    said: dict[str, Any] = {"name": "toy", "reader": "csv", "has_mock": True}

    def finds(search: Search) -> list[dict[str, Any]]:
        answer = dict(said)
        archive = answer.pop("archive", b"")
        ref = field.repository.put(archive() if callable(archive) else archive, job="mock.toy")
        return [{**answer, "mock": answer.get("mock", to_plain(ref))}]

    field.node("bad", finds=finds)
    return said


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def outside(tmp_path: Path) -> set[Path]:
    """Return the files that are not in a folder of mocks; those of the session itself left out."""
    return {
        p for p in files_of(tmp_path) if "mocks" not in p.parts and p.name.startswith(("out", "link", "mock"))
    }


def test_no_archive_of_a_mock_writes_anything_but_into_its_folder(
    field: Field, offered: dict[str, Any], tmp_path: Path
) -> None:
    session = field.session(tmp_path / "lab")
    for what, archive in ARCHIVES.items():
        offered["archive"] = archive
        handle = session.datasets()[0]
        with pytest.raises(FedjobError):
            pytest.fail(f"{what} was opened: {handle.mock().path}")
        assert files_of(tmp_path / "lab" / "mocks") == set(), what
    assert outside(tmp_path) == set()
    assert not Path("/tmp/out.csv").exists()


def test_no_name_of_a_dataset_leads_out_of_the_folder_of_mocks(
    field: Field, offered: dict[str, Any], tmp_path: Path
) -> None:
    session = field.session(tmp_path / "lab")
    offered["archive"] = zipped(("mock.csv", CSV))
    for name in NAMES:
        offered["name"] = name
        handle = session.datasets()[0]
        with pytest.raises(FedjobError, match=r"nothing is fetched|no mock"):
            handle.mock()
    assert files_of(tmp_path / "lab" / "mocks") == set()
    assert outside(tmp_path) == set()


def test_a_mock_is_opened_by_readers_of_its_own_files_only(
    field: Field, offered: dict[str, Any], tmp_path: Path
) -> None:
    session = field.session(tmp_path / "lab")
    for what, said in OPENED.items():
        for key in ("reader", "options", "assets", "archive"):
            offered.pop(key, None)
        offered.update(said)
        with pytest.raises(FedjobError):
            pytest.fail(f"{what}: {session.datasets()[0].mock().frame()}")


def test_a_mock_of_too_many_bytes_is_not_fetched(
    field: Field, offered: dict[str, Any], tmp_path: Path
) -> None:
    session = field.session(tmp_path / "lab")
    offered["mock"] = {"sha256": "0" * 64, "size_bytes": 1 << 50, "parts": True}
    with pytest.raises(FedjobError, match="at most"):
        session.datasets()[0].mock()


def test_an_honest_mock_is_opened(field: Field, offered: dict[str, Any], tmp_path: Path) -> None:
    session = field.session(tmp_path / "lab")
    offered["archive"] = zipped(("mock.csv", CSV))
    assert session.datasets()[0].mock().frame()["b"].tolist() == [2, 4]
