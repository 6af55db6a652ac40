from __future__ import annotations

import datetime
import gzip
import sqlite3
import struct
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedjob.common.errors import SpecError
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers import READERS, find_reader, fitting_reader, guess_reader
from fedjob.data.readers.table import type_name
from fedjob.testing.readers import ReaderCase, ReaderContract
from tests.parts import shared_data

HEART = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"


def make_csv(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "people.csv"
    path.write_text("age,weight,name,ill\n61,80.5,ann,1\n47,,bob,0\n33,70.0,eve,1\n")
    return path, {}


def make_parquet(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "people.parquet"
    pd.DataFrame({"age": [61, 47, 33], "weight": [80.5, None, 70.0], "ill": [True, False, True]}).to_parquet(
        path
    )
    return path, {}


def make_npy(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "mapped"
    path.mkdir()
    np.save(path / "inputs.npy", np.arange(6.0).reshape(3, 2))
    np.save(path / "targets.npy", np.array([0, 1, 0]))
    return path, {}


def make_npz(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "arrays.npz"
    np.savez(path, y=np.array([0, 1, 0]), x=np.arange(6.0).reshape(3, 2))
    return path, {}


def idx(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


DIGITS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def make_mnist(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "digits"
    path.mkdir()
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(DIGITS)))
    (path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([7, 0, 9], dtype=np.uint8)))
    return path, {}


def make_images(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "scans"
    for name, values in {"benign": (10, 20), "malignant": (30,)}.items():
        (path / name).mkdir(parents=True)
        for value in values:
            Image.new("RGB", (4, 3), (value, 0, 0)).save(path / name / f"{value}.png")
    return path, {}


def make_files(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "files"
    path.mkdir()
    for name in "abc":
        (path / f"{name}.bin").write_bytes(name.encode())
    return path, {}


def make_torch(folder: Path) -> tuple[Path, dict[str, str]]:
    return make_files(folder)[0], {"rows": "3"}


def make_sql(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "people.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE people (age INTEGER, weight REAL, name TEXT, ill INTEGER)")
        rows = [(61, 80.5, "ann", 1), (47, None, "bob", 0), (33, 70.0, "eve", 1)]
        database.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", rows)
        database.commit()
    return path, {"query": "SELECT age, weight, ill FROM people ORDER BY age DESC"}


def make_medical_folder(folder: Path) -> tuple[Path, dict[str, str]]:
    path = folder / "study"
    for number in range(3):
        for modality in ("T1", "T2"):
            image = np.full((2, 3, 4), 10 * number + (modality == "T2"), dtype=np.float32)
            place = path / f"subject-{number}" / modality
            place.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), place / "scan.nii")
    pd.DataFrame({"id": [f"subject-{n}" for n in range(3)], "age": [50, 60, 70], "ill": [0, 1, 1]}).to_csv(
        path / "demographics.csv", index=False
    )
    return path, {}


MAKERS = {
    "csv": make_csv,
    "files": make_files,
    "images": make_images,
    "medical-folder": make_medical_folder,
    "mnist": make_mnist,
    "npy": make_npy,
    "npz": make_npz,
    "parquet": make_parquet,
    "sql": make_sql,
    "torch": make_torch,
}
NEVER_GUESSED = ("files", "npy", "sql", "torch")


class TestReaders(ReaderContract):
    @pytest.fixture(params=list(MAKERS))
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> ReaderCase:
        reader = str(request.param)
        path, options = MAKERS[reader](tmp_path)
        return ReaderCase(
            reader=reader, path=path, options=options, num_rows=3, guessed=reader not in NEVER_GUESSED
        )


def test_every_reader_has_its_part_in_the_suite() -> None:
    assert MAKERS.keys() == READERS.keys()


def test_files_as_they_are_are_read_where_nothing_else_fits(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a")
    (folder / "deep" / "b.bin").write_bytes(b"b")
    assert fitting_reader(folder) == "files"
    assert fitting_reader(folder / "a.bin") == "files"
    assert fitting_reader(make_csv(tmp_path)[0]) == "csv"
    assert describe(folder, "files")["num_rows"] == 2
    assert [p.name for p in open_dataset({"path": folder, "reader": "files"}).items] == ["a.bin", "b.bin"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_of_one_form_in_a_folder_are_one_table(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "years"
    folder.mkdir()

    def write(name: str, **columns: list[int]) -> None:
        frame = pd.DataFrame(columns)
        if suffix == "csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{name}.parquet")

    write("2024", age=[1, 2], ill=[0, 1])
    write("2023", age=[3], ill=[1])
    assert guess_reader(folder) == suffix
    found = describe(folder)
    assert found["num_rows"] == 3
    assert list(open_dataset({"path": folder}).frame().age) == [3, 1, 2]
    write("2025", age=[3], sick=[1])
    with pytest.raises(SpecError, match="2025"):
        describe(folder)


@pytest.mark.parametrize("reader", ["csv", "parquet", "npz", "mnist"])
@pytest.mark.parametrize("data", [b"", b"\x00\x01\x02" * 50, b"PAR1" + b"x" * 40, b"PK\x03\x04" + b"x" * 40])
def test_a_file_of_another_kind_is_refused(reader: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(data)
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(data)
    if reader == "csv" and data:
        data = b"a,b\n1,2\n1,2,3,4\n"
        path.write_bytes(data)
    with pytest.raises(SpecError, match="x-images-idx3-ubyte"):
        describe(path, reader)


@pytest.mark.parametrize("reader", ["csv", "parquet", "npz"])
def test_a_folder_where_a_file_is_read_is_refused(reader: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with pytest.raises(SpecError, match="reads a file"):
        describe(tmp_path, reader)


def test_unknown_readers_and_options_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'parquet'"):
        find_reader("parqet")
    path, _ = make_csv(tmp_path)
    with pytest.raises(SpecError, match="nearest is 'separator'"):
        describe(path, "csv", {"seperator": ";"})
    with pytest.raises(SpecError, match="needs a path"):
        open_dataset({"name": "x"})
    with pytest.raises(SpecError, match="no reader fits"):
        guess_reader(path.rename(tmp_path / "people.bin"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="no reader fits the folder"):
        guess_reader(tmp_path / "empty")
    with pytest.raises(SpecError, match="No such file"):
        guess_reader(tmp_path / "nowhere")


def test_csv_columns_types_and_arrays(tmp_path: Path) -> None:
    path, _ = make_csv(tmp_path)
    assert describe(path)["columns"] == [
        {"name": "age", "type": "int"},
        {"name": "weight", "type": "float"},
        {"name": "name", "type": "string"},
        {"name": "ill", "type": "int"},
    ]
    dataset = open_dataset({"path": path})
    assert dataset.frame()["name"].tolist() == ["ann", "bob", "eve"]
    assert dataset.items[0] == {"age": 61, "weight": 80.5, "name": "ann", "ill": 1}
    with pytest.raises(
        SpecError, match=r"'name' does not hold numbers; use .frame\(\) and encode it, or .*Select"
    ):
        dataset.arrays()
    mine = dataset.frame()
    mine["age"] = 0
    assert dataset.frame()["age"].tolist() == [61, 47, 33]


def test_csv_without_header_with_names_and_question_marks(tmp_path: Path) -> None:
    path = tmp_path / "heart.data"
    path.write_text("63.0;1;?;2\n67.0;0;286;0\n")
    options = {"header": "no", "names": "age,sex,chol,num", "na": "?", "separator": ";"}
    dataset = open_dataset({"path": path, "options": options})
    inputs, targets = dataset.arrays()
    np.testing.assert_array_equal(inputs, np.array([[63, 1, np.nan], [67, 0, 286]], dtype=np.float32))
    assert targets.tolist() == [2, 0]
    assert describe(path, None, options)["columns"][2] == {"name": "chol", "type": "int"}
    assert open_dataset({"path": path, "options": {**options, "target": "sex"}}).arrays()[1].tolist() == [
        1,
        0,
    ]
    for wrong, words in (
        ({"names": "a,b"}, "gives 2 names, but heart.data has 4 columns"),
        ({"target": "nothing"}, "no column 'nothing'"),
        ({"header": "maybe"}, "yes or no"),
    ):
        with pytest.raises(SpecError, match=words):
            open_dataset({"path": path, "options": {**options, **wrong}}).arrays()
    plain = open_dataset({"path": path, "options": {"header": "no", "separator": ";"}})
    assert list(plain.frame()) == ["0", "1", "2", "3"]


def test_csv_compressed_and_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    assert guess_reader(path) == "csv"
    assert describe(path, "csv", {"separator": "tab"})["num_rows"] == 1


def test_parquet_columns_come_from_the_footer(tmp_path: Path) -> None:
    path, _ = make_parquet(tmp_path)
    assert [column["type"] for column in describe(path)["columns"]] == ["int", "float", "bool"]
    inputs, targets = open_dataset({"path": path}).arrays()
    assert inputs.dtype == np.float32
    assert targets.tolist() == [True, False, True]


def test_what_a_parquet_file_lists_is_what_is_read_with_gaps_and_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "kinds.parquet"
    day = datetime.date(2024, 1, 31)
    columns = {
        "whole": pa.array([2**53 + 1, None], pa.int64()),
        "small": pa.array([1, None], pa.uint8()),
        "truth": pa.array([True, None]),
        "number": pa.array([1.5, None]),
        "money": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
        "count": pa.array([Decimal(7), None], pa.decimal128(10, 0)),
        "case": pa.array([Decimal(10**20 + 1), None], pa.decimal128(38, 0)),
        "day": pa.array([day, None]),
        "group": pa.array(["a", None]).dictionary_encode(),
        "nothing": pa.array([None, None], pa.null()),
        "text": pa.array(["007", None]),
    }
    pq.write_table(pa.table(columns), path)
    dataset = open_dataset({"path": path})
    frame = dataset.frame()
    assert dataset.columns == [{"name": name, "type": type_name(frame[name].dtype)} for name in frame]
    assert [column["type"] for column in dataset.columns] == (
        ["int", "int", "bool", "float", "float", "int", "string", "datetime", "category", "float", "string"]
    )
    assert frame.isna().all(axis=1).tolist() == [False, True]
    first = frame.iloc[0]
    assert (first["whole"], first["truth"], first["money"], first["count"]) == (2**53 + 1, True, 1.25, 7)
    assert (first["case"], first["day"], first["text"]) == (str(10**20 + 1), pd.Timestamp(day), "007")


def test_a_named_index_of_a_parquet_file_is_a_column_and_one_without_a_name_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"a": [1, 2], "y": [0, 1]}, index=pd.Index(["p1", "p2"], name="pid"))
    frame.to_parquet(path)
    dataset = open_dataset({"path": path})
    assert [column["name"] for column in dataset.columns] == list(dataset.frame()) == ["pid", "a", "y"]
    assert dataset.frame()["pid"].tolist() == ["p1", "p2"]
    frame.rename_axis(None).to_parquet(path)
    dataset = open_dataset({"path": path})
    assert [column["name"] for column in dataset.columns] == list(dataset.frame()) == ["a", "y"]


def test_parts_of_a_table_with_different_types_have_their_common_type(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "c": [1, 2]}).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame({"a": [0.5], "c": ["x"]}).to_parquet(tmp_path / "2.parquet")
    dataset = open_dataset({"path": tmp_path})
    assert [column["type"] for column in dataset.columns] == ["float", "string"]
    assert dataset.frame().to_dict("list") == {"a": [1.0, 2.0, 0.5], "c": ["1", "2", "x"]}


def test_npz_arrays_by_name_order_or_option(tmp_path: Path) -> None:
    path, _ = make_npz(tmp_path)
    inputs, targets = open_dataset({"path": path}).arrays()
    assert inputs.shape == (3, 2)
    assert targets.tolist() == [0, 1, 0]
    assert describe(path)["columns"] == [
        {"name": "y", "type": "int64[3]"},
        {"name": "x", "type": "float64[3, 2]"},
    ]
    swapped = open_dataset({"path": path, "options": {"inputs": "y", "targets": "x"}})
    assert swapped.arrays()[0].tolist() == [0, 1, 0]
    with pytest.raises(SpecError, match="option inputs"):
        describe(path, "npz", {"inputs": "z"})
    with pytest.raises(SpecError, match="is not a table"):
        swapped.frame()


def test_npz_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    with pytest.raises(SpecError, match="array 'x' can't be read"):
        open_dataset({"path": path}).arrays()


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_reads_idx_packed_or_not(packed: bool, tmp_path: Path) -> None:
    for name, array in (("images-idx3", DIGITS), ("labels-idx1", np.array([7, 0, 9], dtype=np.uint8))):
        data = idx(array)
        (tmp_path / f"t10k-{name}-ubyte{'.gz' if packed else ''}").write_bytes(
            gzip.compress(data) if packed else data
        )
    dataset = open_dataset({"path": tmp_path})
    images, labels = dataset.arrays()
    np.testing.assert_array_equal(images, DIGITS)
    assert labels.tolist() == [7, 0, 9]
    assert labels.dtype == np.int64
    assert describe(tmp_path)["columns"][0] == {"name": "image", "type": "uint8[4, 5]"}
    with pytest.raises(SpecError, match="no split 'train'; it has t10k"):
        open_dataset({"path": tmp_path, "options": {"split": "train"}}).arrays()
    one_file = next(tmp_path.glob("*images*"))
    assert open_dataset({"path": one_file, "reader": "mnist"}).num_rows == 3


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda images, labels: labels.unlink(), "labels .* are missing"),
        (lambda images, labels: images.write_bytes(images.read_bytes()[:-1]), "damaged"),
        (lambda images, labels: images.write_bytes(images.read_bytes() + b"x"), "damaged"),
        (lambda images, labels: images.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12), "at most"),
        (
            lambda images, labels: images.write_bytes(b"\0\0\x08\x01" + b"\0" * 12),
            "not an IDX file of 3 axes",
        ),
        (
            lambda images, labels: labels.write_bytes(idx(np.zeros(2, dtype=np.uint8))),
            "3 images and 2 labels",
        ),
        (lambda images, labels: images.unlink(), "no IDX images here"),
    ],
)
def test_damaged_idx_files_are_named(damage: Any, words: str, tmp_path: Path) -> None:
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    images.write_bytes(idx(DIGITS))
    labels.write_bytes(idx(np.array([7, 0, 9], dtype=np.uint8)))
    damage(images, labels)
    with pytest.raises(SpecError, match=words):
        open_dataset({"path": tmp_path, "reader": "mnist"}).arrays()


def test_a_packed_file_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    images = tmp_path / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx(DIGITS) + bytes(50_000_000)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([7, 0, 9], dtype=np.uint8)))
    with pytest.raises(SpecError, match="60 bytes announced, found 61 or more"):
        open_dataset({"path": tmp_path}).arrays()


def test_images_have_the_classes_of_their_folders(tmp_path: Path) -> None:
    path, _ = make_images(tmp_path)
    dataset = open_dataset({"path": path})
    images, labels = dataset.arrays()
    assert images.shape == (3, 3, 4, 3)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert labels.tolist() == [0, 0, 1]
    assert dataset.frame()["class"].tolist() == ["benign", "benign", "malignant"]
    assert dataset.items[2].path.name == "30.png"
    small = open_dataset({"path": path, "options": {"size": "2x1", "mode": "grey"}})
    assert small.arrays()[0].shape == (3, 1, 2)
    assert describe(path)["columns"] == [
        {"name": "image", "type": "uint8[3, 4, 3]"},
        {"name": "label", "type": "class of benign, malignant"},
    ]


def test_a_node_that_misses_a_class_of_images_numbers_the_others_alike(tmp_path: Path) -> None:
    path, _ = make_images(tmp_path)
    dataset = open_dataset({"path": path, "options": {"classes": "absent,benign,malignant"}})
    assert dataset.arrays()[1].tolist() == [1, 1, 2]
    with pytest.raises(SpecError, match="folder 'malignant'"):
        describe(path, "images", {"classes": "benign"})


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (lambda path: (path / "benign" / "10.png").write_bytes(b"no image"), {}, "10.png can't be read"),
        (lambda path: Image.new("L", (9, 9)).save(path / "benign" / "x.png"), {}, "register .* size"),
        (lambda path: None, {"size": "big"}, "WIDTHxHEIGHT"),
        (lambda path: None, {"mode": "cmyk"}, "rgb or grey"),
    ],
)
def test_wrong_images_and_options_are_named(damage: Any, options: Any, words: str, tmp_path: Path) -> None:
    path, _ = make_images(tmp_path)
    damage(path)
    with pytest.raises(SpecError, match=words):
        open_dataset({"path": path, "options": options}).arrays()


def test_folders_without_images_are_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no folders"):
        describe(tmp_path, "images")
    (tmp_path / "benign").mkdir()
    with pytest.raises(SpecError, match="has no images"):
        describe(tmp_path, "images")


@pytest.mark.parametrize(
    ("centre", "num_rows", "complete"),
    [("cleveland", 303, 303), ("hungarian", 294, 261), ("switzerland", 123, 46), ("va", 200, 130)],
)
def test_the_heart_files_register_as_they_are(centre: str, num_rows: int, complete: int) -> None:
    path = shared_data("heart") / f"processed.{centre}.data"
    options = {"header": "no", "names": HEART, "na": "?"}
    assert describe(path, None, options)["num_rows"] == num_rows
    frame = open_dataset({"path": path, "options": options}).frame()
    assert len(frame.drop(columns=["slope", "ca", "thal"]).dropna()) == complete


def test_the_mnist_files_open_as_they_are() -> None:
    images, labels = open_dataset({"path": shared_data("mnist10k")}).arrays()
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
