"""Linear layers for inference: weights packed once, products fused with what follows them."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Literal["none", "swish"]

# oneDNN through the operators that torch.compile emits (torch 2.13): F.linear takes fp32 to MKL, which on processors
# other than Intel's runs at less than half of oneDNN's speed, and knows neither packed weights nor fusion.
PACKS = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product for this precision on this processor."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Linear:
    """x W^T + b for rows [R, in] in the weights' precision; takes and gives the precision of `x`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` [out, in] and `bias` [out] in float32, bfloat16 or float64."""
        self.weight, self.bias = weight.contiguous(), bias
        packs = PACKS and weight.device.type == "cpu" and _multiplies(weight.dtype)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight) if packs else None

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """[R, out]."""
        rows = x.to(self.weight.dtype)
        if self._plain(x):
            out = F.linear(rows, self.weight, self.bias)
            return (F.silu(out) if activation == "swish" else out).to(x.dtype)
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.packed, self.bias, activation, [], ""
        )
        return packed.to(x.dtype)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product [R, out] plus `other` [R, out]."""
        if self._plain(x) or self.weight.dtype != x.dtype:
            return self(x).add_(other)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self.packed, self.bias, "add"
        )
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product [R, out] times `other` [R, out], each entry with its own."""
        if self._plain(x) or self.weight.dtype != x.dtype:
            return self(x).mul_(other)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self.packed, self.bias, "mul"
        )
        return out

    def _plain(self, x: Tensor) -> bool:
        """Nothing is packed, or a single row in float32: MKL's product with one vector is the fastest there is."""
        return self.packed is None or (len(x) == 1 and self.weight.dtype == torch.float32)
