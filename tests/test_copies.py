"""Copies of many tensors, and putting them back by flags."""

import pytest
import torch

from overparam._copies import Copies, undo_unless


def test_copies_are_exact_and_their_memory_is_used_again() -> None:
    copies = Copies()
    tensors = [torch.randn(3, 2), torch.randn(4).double(), torch.randn(2, 3).mT]
    first = copies.of(tensors)
    for copy, tensor in zip(first, tensors, strict=True):
        assert torch.equal(copy, tensor)
        assert copy.stride() == tensor.stride()
    second = copies.of([tensor + 1 for tensor in tensors[:2]])
    assert [copy.data_ptr() for copy in second] == [copy.data_ptr() for copy in first[:2]]
    assert torch.equal(second[0], tensors[0] + 1)
    assert copies.of([torch.zeros(5), *tensors[1:2]])[0].shape == (5,)


def test_a_sparse_tensor_is_copied() -> None:
    sparse = torch.eye(3).to_sparse()
    (copy,) = Copies().of([sparse])
    assert copy is not sparse
    assert torch.equal(copy.to_dense(), torch.eye(3))


@pytest.mark.parametrize("size", [3, 300])  # small tensors go together, large ones by themselves
def test_what_has_no_flag_is_put_back_bit_for_bit(size: int) -> None:
    values = [torch.full((size, size), value) for value in (torch.nan, -0.0, torch.inf, 2.0)]
    olds = [torch.full((size, size), value) for value in (1.0, 3.0, -0.0, torch.nan)]
    flags = [torch.tensor(flag) for flag in (False, True, False, True)]
    wanted = [olds[0].clone(), values[1].clone(), olds[2].clone(), values[3].clone()]
    undo_unless(zip(flags, values, olds, strict=True))
    for found, expected in zip(values, wanted, strict=True):
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
