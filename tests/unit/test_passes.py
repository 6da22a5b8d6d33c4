"""Rows of a pass: the bits of a row depend on that row only."""

from collections.abc import Iterator

import numpy.testing as npt
import pytest
import torch
from torch.nn import functional as F

from mlprojects.blocks.passes import ROWS, steady


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    """Three threads share the rows of a product unevenly."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [5, 13, 16, 61, 64, 255])
@pytest.mark.parametrize("steps", [1, 7, 14, 16])
def test_a_product_of_a_pass_is_the_same_bits_at_every_place(width: int, steps: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, steps, width, generator=draw)
    weight, bias = torch.randn(96, width, generator=draw), torch.randn(96, generator=draw)
    order = torch.randperm(ROWS, generator=draw)
    with steady():
        product = F.linear(x, weight, bias)
        moved = F.linear(x[order], weight, bias)
    npt.assert_array_equal(moved, product[order])


def test_a_pass_runs_on_one_thread_without_gradients_and_leaves_the_threads_as_they_were() -> None:
    @steady()
    def inside() -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert inside() == (1, True)
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="on the way"), steady():
        raise ValueError("on the way")
    assert torch.get_num_threads() == 3
