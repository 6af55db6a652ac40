"""Medical folders: subjects that are complete, their images and demographics, under the names of a loading plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
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


def study(folder: Path, names: list[str]) -> Path:
    """Make a folder of subjects with one small image each."""
    for name in names:
        place = folder / "study" / name / "T1"
        place.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), dtype=np.float32), np.eye(4)), place / "t1.nii")
    return folder / "study"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["001", "002", "010"], "subject,age\n001,30\n002,40\n010,50\n"),
        (["1", "2"], "subject,age\n1,30\n2,40\n,\n"),
        (["1", "2"], "subject,age\n1.0,30\n2.0,40\n,50\n"),
        (["9007199254740993"], "subject,age\n9007199254740993,30\n9007199254740992,1\n,2\n"),
        (["1e5", "True"], "subject,age\n1e5,30\nTrue,40\n"),
    ],
)
def test_subjects_are_found_by_their_names_as_text(names: list[str], text: str, tmp_path: Path) -> None:
    path = study(tmp_path, names)
    (path / "d.csv").write_text(text)
    dataset = opened(path)
    assert [item.name for item in dataset.items] == names
    assert dataset.frame()["subject"].tolist() == names
    assert dataset.frame()["age"].tolist() == [30, 40, 50][: len(names)]
    assert dataset.texts("subject").tolist() == names


def test_demographics_are_read_like_any_other_table(tmp_path: Path) -> None:
    path = study(tmp_path, ["sub-01", "sub-02"])
    (path / "participants.tsv").write_text("participant_id\tage\tnote\nsub-01\t30\tx\nsub-02\tn/a\ty\n")
    (path / "sessions.tsv").write_text("a\tb\n")
    dataset = opened(path, target="age")
    assert [(c["name"], c["type"]) for c in dataset.columns][1:] == [("age", "int"), ("note", "string")]
    assert dataset.frame()["age"].dropna().tolist() == [30]
    np.testing.assert_array_equal(dataset.arrays()[1], np.array([30, np.nan]))
    assert np.isnan(dataset.items[1].demographics["age"])
    (path / "participants.tsv").write_bytes("Größe;wer\n1,75;sub-01\n1,80;sub-02\n".encode("cp1252"))
    dataset = opened(path, subject="wer")
    assert dataset.frame()["Größe"].tolist() == [1.75, 1.8]
    assert (
        "encoding=cp1252 separator=semicolon decimal=comma"
        in describe(path, None, {"subject": "wer"})["notes"][0]
    )
    assert opened(path, subject="wer", encoding="latin-1", decimal="point").frame()["Größe"].tolist() == [
        "1,75",
        "1,80",
    ]


def test_names_that_are_no_folders_are_shown_beside_one(tmp_path: Path) -> None:
    path = study(tmp_path, ["001"])
    (path / "d.csv").write_text("subject,age\n1,30\n")
    with pytest.raises(SpecError, match=r"it names '1', a folder is '001'.*subject=NAME"):
        opened(path).num_rows  # noqa: B018
    (path / "d.csv").write_text("subject,who\n5,001\n")
    with pytest.raises(SpecError, match="a column 'subject' beside 'who'"):
        opened(path, subject="who").num_rows  # noqa: B018


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
            "can't be read as NIfTI: it does not begin",
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
