"""NVFlare's quantisation filters for a machine without a GPU.

Its filters for 8 and 4 bits send every tensor to a GPU, quantise it there by bitsandbytes and fetch it back. bitsandbytes computes
the same on a processor, so here a tensor stays where it is; nothing else of the filters changes.
"""

from __future__ import annotations

from typing import Any

import torch
from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer
from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer


class QuantizerWithoutGpu(ModelQuantizer):
    """NVFlare's `ModelQuantizer`, on a processor."""

    def quantization(self, *args: Any, **kwargs: Any) -> Any:
        stay_where_you_are()
        return super().quantization(*args, **kwargs)


class DequantizerWithoutGpu(ModelDequantizer):
    """NVFlare's `ModelDequantizer`, on a processor."""

    def dequantization(self, *args: Any, **kwargs: Any) -> Any:
        stay_where_you_are()
        return super().dequantization(*args, **kwargs)


def stay_where_you_are() -> None:
    """Let `tensor.cuda()` be the tensor, in a process that sees no GPU."""
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
