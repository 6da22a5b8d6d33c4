"""Forward passes in which the bits of a row depend on that row alone.

A matrix product works on tiles of rows. Leftover rows, at the end of the matrix or of a thread's
share, take another path through the library and may differ in their last bits. So every pass has
ROWS rows, which fill the tiles of SSE, AVX2 and AVX-512, and runs on one thread. Several passes
are one batched product: MKL computes each matrix of a batch as if it were alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from registry.forecast.arrays import Floats

ROWS = 48  # a multiple of 4, 6, 8, 12, 16 and 24, the tile heights of MKL's and oneDNN's kernels


@contextmanager
def steady() -> Iterator[None]:
    """Inference on one thread, as a context or a decorator.

    torch keeps one thread count per calling thread, so no other thread slows down.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


def passes(rows: Floats) -> Tensor:
    """Rows [n, L] as passes [P, ROWS, L] in float32; zeros fill up the last pass."""
    n, length = rows.shape
    count = -(-n // ROWS)
    filled = np.zeros((count * ROWS, length), dtype=np.float32)
    filled[:n] = rows
    return torch.from_numpy(filled).view(count, ROWS, length)


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [P, R, in] times weight [in, out] plus bias [out], or plus another [P, R, out]."""
    if weight.shape[1] == 1:  # MKL multiplies one pass with a vector in another way
        return (x * weight[:, 0]).sum(dim=2, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight.expand(len(x), -1, -1))
