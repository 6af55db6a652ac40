"""The picture and the page of the architecture agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import architecture

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"

CONTRACT = """
[importlinter:contract:floors]
name = every import runs down
type = layers
containers = fedjob
layers =
    cli
    {floors}
    common
    _version
"""


def test_the_picture_of_the_architecture_is_what_the_code_says() -> None:
    assert PICTURE.read_text(encoding="utf-8") == architecture.draw(ROOT), "make map draws it again"


def test_every_import_in_the_picture_runs_down() -> None:
    assert architecture.read_house(ROOT).upwards == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the root of a package of four rooms."""
    files = {
        "__init__.py": "",
        "_version.py": "",
        "cli.py": "import fedjob.data.reader",
        "data/__init__.py": "",
        "data/reader.py": "from fedjob._version import v\n\ndef read():\n    from fedjob.common import files",
        "metrics/__init__.py": '"""Numbers that add."""',
        "metrics/states.py": "from fedjob.metrics import event\nfrom ..common.files import lock",
        "metrics/event.py": "if TYPE_CHECKING:\n    from fedjob.common import errors",
        "common/__init__.py": "",
        "common/files.py": "",
        "common/errors.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "fedjob" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / ".importlinter").write_text(CONTRACT.format(floors="data | metrics"), encoding="utf-8")
    return tmp_path


def test_imports_inside_functions_and_for_type_checking_count(tree: Path) -> None:
    house = architecture.read_house(tree)
    assert house.imports == {("cli", "data"): 1, ("data", "common"): 1, ("metrics", "common"): 2}
    assert house.upwards == []
    assert house.rooms["metrics"].num_files == 2


def test_an_import_beside_or_up_is_named(tree: Path) -> None:
    (tree / "fedjob/common/files.py").write_text("import fedjob.data.reader", encoding="utf-8")
    (tree / "fedjob/metrics/event.py").write_text("from fedjob.data import reader", encoding="utf-8")
    assert architecture.read_house(tree).upwards == [
        "common imports data 1 time",
        "metrics imports data 1 time",
    ]


def test_a_room_on_no_floor_is_named(tree: Path) -> None:
    (tree / ".importlinter").write_text(CONTRACT.format(floors="data"), encoding="utf-8")
    with pytest.raises(SystemExit, match="metrics"):
        architecture.read_house(tree)


def test_text_that_is_too_long_for_a_room_ends_in_an_ellipsis() -> None:
    lines = architecture.wrap("one word after the other until the room is full", 90, 13, limit=2)
    assert len(lines) == 2
    assert lines[1].endswith(" …")
    assert all(architecture.text_width(line, 13) <= 90 for line in lines)


def test_every_file_that_the_page_names_is_there() -> None:
    """Files and folders in backticks, from the root or from the package on."""
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md))?)`", text))
    assert len(named) >= 40
    assert [
        name for name in sorted(named) if not ((ROOT / name).exists() or (ROOT / "fedjob" / name).exists())
    ] == []
