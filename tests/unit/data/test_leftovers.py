from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from fedjob.cli import cli
from fedjob.common.errors import SpecError
from fedjob.data.archive import pack_data
from fedjob.data.leftovers import is_leftover, leftovers_of, listed, walked
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers import guess_reader
from fedjob.node.config.home import NodeHome
from fedjob.node.data.versions import Versions

LEFT = [
    ".DS_Store",
    "._scan.png",
    ".ipynb_checkpoints",
    ".git",
    ".nfs0000000001",
    ".Trash-1000",
    ".~lock.table.csv#",
    "~$table.csv",
    "table.csv~",
    "#table.csv#",
    "Thumbs.db",
    "THUMBS.DB",
    "desktop.ini",
    "Desktop.ini",
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Icon\r",
    "found.000",
    "scan.png@SynoEAStream",
    "scan.nii.gz.crdownload",
    "__pycache__",
]
DATA = ["x", "scan.png", "a~b.csv", "found.csv", "Macosx", "benign tumour", "~", "#1", "lost", "_", "0", "T1"]


@pytest.mark.parametrize("name", LEFT)
def test_what_systems_and_programs_leave_is_known(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize("name", DATA)
def test_data_are_not_taken_for_leftovers(name: str) -> None:
    assert not is_leftover(name)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")


def images(root: Path) -> None:
    for name in ("benign", "malignant"):
        image(root / name / "a.png")


def scans(root: Path) -> None:
    import nibabel

    for subject in ("s1", "s2"):
        (root / subject / "T1").mkdir(parents=True)
        nibabel.save(
            nibabel.Nifti1Image(np.zeros((2, 2, 2), "float32"), np.eye(4)), root / subject / "T1" / "a.nii"
        )
    pd.DataFrame({"subject": ["s1", "s2"], "age": [40, 50]}).to_csv(root / "people.csv", index=False)


def tables(root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("a", "b"):
        pd.DataFrame({"x": [1, 2], "y": [0, 1]}).to_csv(root / f"{name}.csv", index=False)


def parquets(root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("a", "b"):
        pd.DataFrame({"x": [1, 2], "y": [0, 1]}).to_parquet(root / f"{name}.parquet")


def digits(root: Path) -> None:
    root.mkdir(parents=True)
    head = bytes([0, 0, 8])
    (root / "train-images-idx3-ubyte").write_bytes(head + b"\3" + b"\0\0\0\1" * 3 + b"\7")
    (root / "train-labels-idx1-ubyte").write_bytes(head + b"\1" + b"\0\0\0\1" + b"\5")


def plain(root: Path) -> None:
    (root / "inner").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "inner" / "b.txt").write_text("b")


READERS: dict[str, Callable[[Path], None]] = {
    "images": images,
    "medical-folder": scans,
    "csv": tables,
    "parquet": parquets,
    "mnist": digits,
    "files": plain,
}


def litter(root: Path) -> None:
    """Leave in a folder, and in each folder of it, what a notebook, a Mac, Windows and a NAS leave."""
    for folder in [root, *(child for child in root.rglob("*") if child.is_dir())]:
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"):
            image(folder / name / "a.png")
            image(folder / name / "T1" / "._a.nii")
            (folder / name / "t-checkpoint.csv").write_text("other,columns,here\n")
        for name in (".DS_Store", "Thumbs.db", "~$a.csv", "._a.csv", "._a.nii", "._a.png", "a.csv~"):
            (folder / name).write_bytes(b"\0\5\x16\7")
        (folder / "._train-images-idx3-ubyte").write_bytes(b"\0\5\x16\7")


@pytest.mark.parametrize("reader", READERS)
def test_a_dataset_is_the_same_with_leftovers_and_without(tmp_path: Path, reader: str) -> None:
    clean, littered = tmp_path / "clean", tmp_path / "littered"
    for root in (clean, littered):
        READERS[reader](root)
    litter(littered)
    assert describe(littered, reader) == describe(clean, reader)
    one, two = (open_dataset({"path": str(root), "reader": reader}) for root in (clean, littered))
    assert [item.id for item in two.identities()] == [item.id for item in one.identities()]
    if reader != "files":
        assert guess_reader(littered) == reader
    versions = Versions()
    known = versions.of(str(littered))
    (littered / ".DS_Store").write_bytes(b"another")
    assert Versions().of(str(littered)) == known
    pack_data(littered, tmp_path / "brought.zip")
    with zipfile.ZipFile(tmp_path / "brought.zip") as archive:
        assert not [name for name in archive.namelist() if any(map(is_leftover, name.split("/")))]


def test_a_folder_of_images_has_the_classes_of_its_data_alone(tmp_path: Path) -> None:
    images(tmp_path)
    litter(tmp_path)
    dataset = open_dataset({"path": str(tmp_path), "reader": "images"})
    assert dataset.classes == ["benign", "malignant"]  # type: ignore[attr-defined]
    assert [item.label for item in dataset.items] == [0, 1]
    named = open_dataset(
        {"path": str(tmp_path), "reader": "images", "options": {"classes": "malignant,benign"}}
    )
    assert [item.label for item in named.items] == [0, 1]


def test_data_below_a_hidden_folder_are_read(tmp_path: Path) -> None:
    images(tmp_path / ".data" / "scans")
    assert open_dataset({"path": str(tmp_path / ".data" / "scans")}).num_rows == 2


def test_an_archive_of_arrays_that_a_mac_packed_anew_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("__MACOSX/._x.npy", b"\0\5\x16\7")
    assert open_dataset({"path": str(tmp_path / "a.npz")}).num_rows == 3


def test_a_folder_that_can_not_be_read_is_an_error_and_not_missing(tmp_path: Path) -> None:
    for look in (listed, lambda folder: list(walked(folder))):
        with pytest.raises(SpecError, match="nothing can't be read"):
            look(tmp_path / "nothing")


def test_the_first_leftovers_are_named(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "benign" / "Thumbs.db").touch()
    assert leftovers_of(tmp_path) == [".DS_Store", "benign/Thumbs.db"]


def test_data_add_names_what_it_does_not_read(tmp_path: Path) -> None:
    images(tmp_path / "scans")
    (tmp_path / "scans" / ".DS_Store").touch()
    home = NodeHome(tmp_path / "home")
    home.create()
    home.keys.mkdir()
    (home.keys / "party").write_text("a")
    added = CliRunner().invoke(
        cli, ["node", "data", "add", "d", str(tmp_path / "scans"), "--home", str(home.root)]
    )
    assert "dataset d: 2 rows" in added.output
    assert "hidden and system files are not read: .DS_Store" in added.output
