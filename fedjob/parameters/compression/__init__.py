"""The registry of compressors, by name."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.parameters.compression.base import Compressor

COMPRESSORS: Registry[Compressor] = Registry(
    "compressor",
    {
        "bf16": "fedjob.parameters.compression.half:BFloat16",
        "fp16": "fedjob.parameters.compression.half:Float16",
        "int8": "fedjob.parameters.compression.int8:Int8",
        "top_k": "fedjob.parameters.compression.top_k:TopK",
    },
)
