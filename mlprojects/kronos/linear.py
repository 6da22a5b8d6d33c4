"""Linear layers for inference: weights are packed once, products fused with the next operation."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Literal["none", "swish"]

# oneDNN is called through the operators that torch.compile emits (torch 2.13). F.linear calls MKL
# for fp32 and has neither packed weights nor fusion. One row is fastest with MKL, many rows with
# packed weights: up to a third faster on an Intel Xeon, more than twice on AMD. So the number of
# rows decides, not a race at load: the kernels differ in last bits, and a version that is loaded
# twice has to answer the same ones.
PACKS = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product for this precision on this processor."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Linear:
    """x W^T + b for rows x [R, in], computed in the precision of the weights.

    The result has the precision of x.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` [out, in] and `bias` [out] in float32, bfloat16 or float64."""
        self.weight, self.bias = weight.contiguous(), bias
        packs = PACKS and weight.device.type == "cpu" and _multiplies(weight.dtype)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight) if packs else None

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """[R, out]."""
        if x.dtype != self.weight.dtype:
            return self(x.to(self.weight.dtype), activation).to(x.dtype)
        if self._plain(x):
            out = F.linear(x, self.weight, self.bias)
            return F.silu(out, inplace=True) if activation == "swish" else out
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, activation, [], ""
        )
        return packed

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product [R, out] plus `other` [R, out]."""
        if self._plain(x) or self.weight.dtype != x.dtype:
            return self(x).add_(other)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self.packed, self.bias, "add"
        )
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product [R, out] times `other` [R, out], entry by entry."""
        if self._plain(x) or self.weight.dtype != x.dtype:
            return self(x).mul_(other)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self.packed, self.bias, "mul"
        )
        return out

    def _plain(self, x: Tensor) -> bool:
        """Whether to use F.linear: nothing is packed, or MKL is fastest (one row in float32)."""
        return self.packed is None or (len(x) == 1 and self.weight.dtype == torch.float32)
