"""Forward passes in which a row's bits depend on that row alone.

A matrix product works on tiles of rows. Rows left over at the end, or at the end of a thread's
share, take another path through the library and may differ in their last bits. So every pass has
ROWS rows, which fills the tiles of SSE, AVX2 and AVX-512, and runs on one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ROWS = 48  # a multiple of 4, 6, 8, 12, 16 and 24, the tile heights of MKL's and oneDNN's kernels


@contextmanager
def steady() -> Iterator[None]:
    """Inference on one thread, as a context or a decorator.

    torch keeps the number of threads for each calling thread, so nobody else's work slows down.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
