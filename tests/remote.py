"""Remote functions that tests share, as a user would write them in a file."""

from __future__ import annotations

import datetime

import numpy as np

import fedjob

ROUNDING = 3


def _rounded(number):  # type: ignore[no-untyped-def]
    return round(float(number), ROUNDING)


@fedjob.function
def column_mean(dataset, column="A"):  # type: ignore[no-untyped-def]
    """Return the mean of a column."""
    return _rounded(dataset.frame()[column].mean())


@fedjob.function
def sums(dataset):  # type: ignore[no-untyped-def]
    """Return the sum of every column."""
    frame = dataset.frame()
    return {str(name): int(frame[name].sum()) for name in frame}


@fedjob.function
def visits_of_adults(dataset):  # type: ignore[no-untyped-def]
    """Return what two tables of one dataset say together."""
    patients, visits = dataset.assets["patients"].frame(), dataset.assets["visits"].frame()
    adults = patients[patients.age >= 18].id
    return {"own": list(dataset.frame().columns), "visits": int(visits.patient.isin(adults).sum())}


@fedjob.function
def everything(dataset):  # type: ignore[no-untyped-def]
    """Return one of each type that may travel, nested."""
    import pandas
    import torch

    frame = pandas.DataFrame(
        {
            "whole": np.array([1, 2], dtype="int16"),
            "when": pandas.to_datetime(["2024-01-01", "2024-06-01"]),
            "kind": pandas.Categorical(["a", "b"]),
            "text": ["x", None],
        },
        index=["first", "second"],
    )
    return {
        "plain": [None, True, 3, 2.5, "text", b"bytes", float("nan")],
        "large": 1 << 90,
        "pair": (1, "two"),
        "by_number": {1: "one", (2, 3): "two and three"},
        "set": {1, 2},
        "date": datetime.date(2024, 2, 29),
        "array": np.arange(6, dtype="float32").reshape(2, 3),
        "scalar": np.float64(0.5),
        "tensor": torch.arange(4, dtype=torch.int32),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "frame": frame,
        "series": frame["whole"],
        "deep": [{"array": np.array([True, False])}],
    }


@fedjob.function
def large_table(dataset, num_rows):  # type: ignore[no-untyped-def]
    """Return a table of some size."""
    import pandas

    return pandas.DataFrame({"number": np.arange(num_rows), "half": np.arange(num_rows) / 2})


@fedjob.function
def tensors(dataset, value):  # type: ignore[no-untyped-def]
    """Return named tensors."""
    import torch

    return {"weight": torch.full((2, 2), float(value)), "rows": torch.tensor(dataset.num_rows)}


@fedjob.function
def speaks(dataset, ctx):  # type: ignore[no-untyped-def]
    """Say things on the way; wait, so that they are heard before the end."""
    import time

    ctx.emit("found", site=3, names=["x", "y"], nested={"deep": [1, 2.5, None]})
    ctx.emit("result", so_far=dataset.num_rows)
    ctx.progress(1, 4)
    time.sleep(ctx.round and 0.6)
    ctx.progress(2, 4)
    return ctx.node


@fedjob.function
def travelled(dataset):  # type: ignore[no-untyped-def]
    """Return the names and hashes of the files that came along."""
    import hashlib
    import pathlib

    path = pathlib.Path(dataset.path)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {
        "top": path.name,
        "writable": [p.name for p in files if p.stat().st_mode & 0o222],
        "files": {
            p.relative_to(path.parent).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
        },
        "place": str(path),
    }


def _pause(seconds):  # type: ignore[no-untyped-def]
    import time

    time.sleep(seconds)  # there is no file in a sandbox by which a test could end it


@fedjob.function
def waits(dataset, seconds):  # type: ignore[no-untyped-def]
    """Take a while."""
    _pause(seconds)
    return dataset.num_rows


@fedjob.function
def fails(dataset):  # type: ignore[no-untyped-def]
    """Stumble over a typo."""
    return dataset.mysum()


@fedjob.function
def fails_later(dataset, seconds):  # type: ignore[no-untyped-def]
    """Take a while, and stumble."""
    _pause(seconds)
    raise ValueError("no luck")


@fedjob.function
def nothing_needed(dataset, word):  # type: ignore[no-untyped-def]
    """Work without data."""
    return [dataset is None, word]
