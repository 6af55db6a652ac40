"""Medical folders: subjects that are complete, their images and demographics, under the names of a loading plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.common.errors import SpecError
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers import guess_reader
from tests.unit.data.readers.test_readers import make_medical_folder


def opened(path: Path, loading: Any = None, **options: str) -> Any:
    return open_dataset({"path": path, "reader": "medical-folder", "options": options, "loading": loading})


def test_images_and_demographics_come_subject_by_subject(tmp_path: Path) -> None:
    path, _ = make_medical_folder(tmp_path)
    dataset = opened(path, target="ill")
    assert [subject.name for subject in dataset.items] == ["subject-0", "subject-1", "subject-2"]
    assert dataset.items[1].demographics == {"age": 60, "ill": 1}
    assert dataset.frame()["age"].tolist() == [50, 60, 70]
    assert dataset.image(1, "T2").shape == (2, 3, 4)
    assert dataset.image(1).dtype == np.float32
    inputs, targets = dataset.arrays()
    assert inputs.shape == (3, 2, 2, 3, 4)
    assert inputs[:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21]]
    assert targets.tolist() == [0, 1, 1]
    assert describe(path)["columns"] == [
        {"name": "T1", "type": "nifti[2, 3, 4]"},
        {"name": "T2", "type": "nifti[2, 3, 4]"},
        {"name": "age", "type": "int"},
        {"name": "ill", "type": "int"},
    ]
    one, other = opened(path, modalities="T2,T1", target="T1").arrays()
    assert one[:, 0, 0, 0, 0].tolist() == [1, 11, 21]
    assert other[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert [item.name for item in dataset.take([2]).items] == ["subject-2"]


def test_subjects_without_a_row_or_an_image_do_not_count(tmp_path: Path) -> None:
    path, _ = make_medical_folder(tmp_path)
    (path / "subject-0" / "T2" / "scan.nii").unlink()
    table = pd.read_csv(path / "demographics.csv")
    table[table.id != "subject-2"].to_csv(path / "demographics.csv", index=False)
    assert [subject.name for subject in opened(path).items] == ["subject-1"]
    assert opened(path, modalities="T1").num_rows == 2
    (path / "demographics.csv").unlink()
    assert opened(path).num_rows == 2
    assert opened(path).frame().columns.tolist() == ["subject"]


def test_a_loading_plan_names_modalities_and_columns_as_plans_do(tmp_path: Path) -> None:
    path, _ = make_medical_folder(tmp_path)
    (path / "subject-1" / "T1").rename(path / "subject-1" / "T1_mprage")
    loading = {
        "modalities": {"t1": ["T1", "T1_mprage"], "t2": "T2"},
        "columns": {"AGE": "age", "sick": "ill"},
    }
    dataset = opened(path, loading, target="sick")
    assert dataset.num_rows == 3
    assert [column["name"] for column in dataset.columns] == ["t1", "t2", "AGE", "sick"]
    assert dataset.items[1].images["t1"].parent.name == "T1_mprage"
    assert dataset.arrays()[1].tolist() == [0, 1, 1]
    with pytest.raises(SpecError, match="names 'T1'; the loading plan has t1, t2"):
        opened(path, loading, modalities="T1").num_rows  # noqa: B018


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (
            lambda path: (path / "subject-0/T1/scan.nii").write_bytes(b"none"),
            {},
            "can't be read as NIfTI: ImageFileError",
        ),
        (lambda path: (path / "subject-0/T1/b.nii.gz").touch(), {}, "subject-0/T1 has 2 NIfTI files"),
        (lambda path: (path / "more.csv").touch(), {}, "has 2 tables: choose one"),
        (lambda path: None, {"subject": "name"}, "no column 'name'; it has id, age, ill"),
        (lambda path: None, {"subject": "ill"}, "names 1 subjects twice"),
        (lambda path: None, {"demographics": "../other.csv"}, "in the dataset's folder itself"),
        (lambda path: None, {"modalities": "T3"}, "no subject with a row of demographics and all of T3"),
        (lambda path: None, {"target": "T9"}, "register --option target"),
    ],
    ids=["no-nifti", "two-images", "two-tables", "no-column", "twice", "outside", "no-modality", "no-target"],
)
def test_what_is_wrong_with_a_folder_is_said(damage: Any, options: Any, words: str, tmp_path: Path) -> None:
    path, _ = make_medical_folder(tmp_path)
    damage(path)
    with pytest.raises(SpecError, match=words):
        opened(path, None, **options).arrays() if "target" in options else opened(
            path, None, **options
        ).columns


def test_a_folder_of_classes_is_still_one_of_images(tmp_path: Path) -> None:
    (tmp_path / "benign" / "deep").mkdir(parents=True)
    (tmp_path / "benign" / "deep" / "1.png").touch()
    assert guess_reader(tmp_path) == "images"
