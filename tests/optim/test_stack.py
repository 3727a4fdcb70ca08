"""Tensors stacked, changed and written back."""

import math

import pytest
import torch
from torch import Tensor

from overparam.optim.stack import Stack


def drawn(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_written_is_what_the_tensors_hold(count: int, shape, masked: bool) -> None:
    tensors = drawn(count, *shape)
    expected = [2 * tensor + 1 for tensor in tensors]
    stack = Stack(tensors, keep=torch.ones(count, dtype=torch.bool) if masked else None)
    assert stack.value.shape == (count, *shape)
    stack.write(stack.scratch().mul_(2).add_(1))
    for tensor, value in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor, value)


def test_one_tensor_is_not_copied_where_nothing_is_held_back() -> None:
    [tensor] = drawn(1, 3, 4)
    strided = torch.randn(4, 3).mT
    for each in (tensor, strided):
        stack = Stack([each])
        assert stack.scratch().data_ptr() == each.data_ptr()
        stack.write(stack.scratch().zero_())
        assert not each.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_held_back_stay_bit_for_bit(dtype: torch.dtype) -> None:
    tensors = drawn(3, 4, dtype=dtype)
    tensors[1][0] = -0.0
    before = [tensor.clone() for tensor in tensors]
    stack = Stack(tensors, torch.float32, torch.tensor([True, False, True]))
    changed = stack.scratch().add_(1)
    changed[1] = math.nan
    stack.write(changed)
    assert torch.equal(tensors[1].view(torch.uint8), before[1].view(torch.uint8))
    for index in (0, 2):
        assert torch.equal(tensors[index], (before[index].float() + 1).to(dtype))
