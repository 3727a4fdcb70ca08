"""Muon's step in the metric of depth: against the explicit matrix, its bound and its limits."""

import numpy as np
import pytest
import torch
from support.core_cases import normal

from overparam import end_to_end_update
from overparam.rule.sign import preconditioned_sign


def matrix_root(weight: torch.Tensor, depth: float, imbalance) -> torch.Tensor:
    """The square root of the map ``G -> D``, column by column, as an mn x mn matrix."""
    m, n = weight.shape
    units = torch.eye(m * n, dtype=torch.float64).reshape(-1, m, n)
    columns = end_to_end_update(weight, units, depth, imbalance=imbalance).reshape(m * n, -1)
    values, vectors = np.linalg.eigh(columns.numpy())
    return torch.from_numpy(vectors * np.sqrt(values.clip(0)) @ vectors.T)


@pytest.mark.parametrize(("depth", "imbalance"), [(2, 0.5), (3, (0.4, 0.0, 1.3)), (2.5, 0.0)])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_is_the_sign_between_the_roots_of_the_explicit_matrix(
    shape: tuple[int, int], depth: float, imbalance
) -> None:
    weight, momentum = normal(*shape, seed=1), normal(*shape, seed=2)
    root = matrix_root(weight, depth, imbalance)
    inside = (root @ momentum.flatten()).view(shape)
    # The polar factor, by Newton's iteration in place of a decomposition.
    wide = inside if shape[0] <= shape[1] else inside.mT
    sign = wide / torch.linalg.matrix_norm(wide)
    for _ in range(60):
        sign = 1.5 * sign - 0.5 * sign @ sign.mT @ sign
    sign = sign if shape[0] <= shape[1] else sign.mT
    expected = (root @ sign.flatten()).view(shape)
    step = preconditioned_sign(weight, momentum, depth, imbalance=imbalance)
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-7)


def test_descends_steepest_among_steps_of_its_length() -> None:
    weight, momentum = normal(3, 5, seed=1), normal(3, 5, seed=2)
    root = matrix_root(weight, 2, 0.5)
    best = (momentum * preconditioned_sign(weight, momentum, 2, imbalance=0.5)).sum()
    inside = (root @ momentum.flatten()).view(3, 5)
    torch.testing.assert_close(best, torch.linalg.svdvals(inside).sum())
    for seed in range(20):
        other = normal(3, 5, seed=seed)
        other = other / torch.linalg.matrix_norm(other, ord=2)
        assert (momentum * (root @ other.flatten()).view(3, 5)).sum() <= best


def test_large_imbalance_and_one_factor_are_muon() -> None:
    weight, momentum = normal(2, 4, 6, seed=1), normal(2, 4, 6, seed=2)
    u, _, v = torch.linalg.svd(momentum, full_matrices=False)
    torch.testing.assert_close(preconditioned_sign(weight, momentum, 1), u @ v)
    step = preconditioned_sign(weight, momentum, 2, imbalance=1e8)
    torch.testing.assert_close(step / 1e4, u @ v, rtol=1e-6, atol=1e-6)


def test_null_directions_and_bad_input() -> None:
    weight = torch.zeros(3, 4).double()
    momentum = normal(3, 4, seed=2)
    assert not preconditioned_sign(weight, momentum, 2).any()
    u, _, v = torch.linalg.svd(momentum, full_matrices=False)
    step = preconditioned_sign(weight, momentum, 2, imbalance=0.25)
    torch.testing.assert_close(step, 0.5 * u @ v)
    assert not preconditioned_sign(weight, momentum * 0, 2, imbalance=0.5).any()
    with pytest.raises(ValueError, match="must be equal"):
        preconditioned_sign(weight, momentum[:2], 2)
    with pytest.raises(ValueError, match="momentum has non-finite entries"):
        preconditioned_sign(weight, momentum / 0, 2)
    with pytest.raises(ValueError, match="a single number"):
        preconditioned_sign(weight, momentum, 3, imbalance=0.5)
