"""The count of a dataset: what was taken and what was skipped, for each kind of folder and table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fedjob.data.inventory import counted
from fedjob.data.loader import describe, open_dataset
from tests.parts import package


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(path)


def test_images_are_counted_by_class_and_other_files_and_empty_classes_are_named(tmp_path: Path) -> None:
    for place in range(3):
        picture(tmp_path / "cat" / f"{place}.png")
    picture(tmp_path / "dog" / "1.png")
    (tmp_path / "bird").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "list.csv").write_text("x")
    assert counted(open_dataset({"path": tmp_path, "reader": "images"})) == [
        "counted: 0 bird, 3 cat, 1 dog",
        "skipped: 1 class (bird) without an image",
        "skipped: 2 files (1 .csv, 1 .txt) that are no images in the folder of a class",
    ]


def test_subjects_without_an_image_or_a_row_are_named(tmp_path: Path) -> None:
    nibabel = package("nibabel")
    for name, modalities in {"s1": "TF", "s2": "T", "s3": "TF"}.items():
        for modality in modalities:
            file = tmp_path / name / {"T": "T1", "F": "FLAIR"}[modality] / "scan.nii"
            file.parent.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), "float32"), np.eye(4)), file)
    (tmp_path / "people.csv").write_text("subject,age\ns1,50\ns2,60\ns9,70\n")
    assert counted(open_dataset({"path": tmp_path, "reader": "medical-folder"})) == [
        "counted: 1 subjects of 3 folders, each with FLAIR, T1",
        "skipped: 1 subject (s2) without all of FLAIR, T1",
        "skipped: 1 folder (s3) without a row in the demographics",
        "skipped: 1 row (s9) of the demographics without a folder",
    ]


def test_files_are_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm", "c.DCM", "README"):
        (tmp_path / name).write_text("x")
    assert counted(open_dataset({"path": tmp_path, "reader": "files"})) == [
        "counted: 4 files (3 .dcm, 1 without an ending)"
    ]


def test_rows_with_gaps_are_counted_by_column_where_the_table_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,ca,sex\n1,,m\n2,,\n3,4,f\n")
    dataset = open_dataset({"path": tmp_path / "t.csv"})
    dataset.frame()
    assert counted(dataset) == [
        "counted: 2 of 3 rows lack a value (ca 2, sex 1); an analysis of such columns leaves these rows out"
    ]
    (tmp_path / "whole.csv").write_text("age,sex\n1,2\n")
    assert describe(tmp_path / "whole.csv")["counted"] == []


def test_long_lists_are_cut(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    for place in range(9):
        (tmp_path / f"empty{place}").mkdir()
    (_, skipped) = counted(open_dataset({"path": tmp_path, "reader": "images"}))
    assert skipped == (
        "skipped: 9 classes (empty0, empty1, empty2, empty3, empty4 and 4 more) without an image"
    )
