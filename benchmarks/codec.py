"""Encode and decode 400 MB of parameters, against copying the file.

Encoding ends with the file durable, so the copy is fsynced too; decoding reads
every tensor once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from _federation import spread

from fedjob.parameters.files import FileParams, save_params

REPEATS = 9


def main() -> None:
    """Print medians, spread and ratios."""
    params = {f"layer{i}.weight": torch.randn(1000, 1000) for i in range(100)}
    encode, decode, copy = [], [], []
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        file, twin = Path(folder) / "params", Path(folder) / "copy"
        for _ in range(REPEATS):
            os.sync()
            file.unlink(missing_ok=True)
            started = time.perf_counter()
            save_params(params, file)
            encode.append(time.perf_counter() - started)
            started = time.perf_counter()
            found = FileParams(file)
            total = sum(float(found[name].sum()) for name in found)
            decode.append(time.perf_counter() - started)
            assert abs(total) < 1e6
            os.sync()
            twin.unlink(missing_ok=True)
            started = time.perf_counter()
            shutil.copyfile(file, twin)
            descriptor = os.open(twin, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            copy.append(time.perf_counter() - started)
    ratios = sorted((e + d) / c for e, d, c in zip(encode, decode, copy, strict=True))
    print(f"encode {spread(encode)}; decode {spread(decode)}; copy {spread(copy)}")
    print(
        f"encode + decode of 400 MB / copying the file: median {ratios[REPEATS // 2]:.2f} "
        f"(min {ratios[0]:.2f}, max {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
