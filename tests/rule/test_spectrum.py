"""Claim 1: the spectrum of the preconditioner, against the explicit Kronecker matrix."""

import math

import pytest
import torch
from support.core_cases import CASES, DEPTHS, Case, normal
from support.oracles import relative_error

from overparam import end_to_end_update, preconditioner_spectrum


def symmetric_power(matrix_root: torch.Tensor, exponent: float) -> torch.Tensor:
    """``[A A^T]^exponent`` from the left singular bases of A: no Gram matrix, ``0^0 = 1``."""
    left, singular, _ = torch.linalg.svd(matrix_root, full_matrices=True)
    singular = torch.where(singular > 1e-13 * singular.max(), singular, 0.0)
    padded = torch.nn.functional.pad(singular, (0, matrix_root.shape[0] - len(singular)))
    return left * padded ** (2 * exponent) @ left.mT


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("case", [c for c in CASES if c.m * c.n <= 40], ids=str)
def test_is_the_spectrum_of_the_kronecker_matrix(case: Case, depth: int) -> None:
    weight = case.weight()
    # Rows of vec(.) in torch are contiguous: vec(A G B) = kron(A, B^T) vec(G).
    explicit = sum(
        torch.kron(
            symmetric_power(weight, (j - 1) / depth),
            symmetric_power(weight.mT.contiguous(), (depth - j) / depth),
        )
        for j in range(1, depth + 1)
    )
    assert isinstance(explicit, torch.Tensor)
    spectrum = preconditioner_spectrum(weight, depth)
    vectors = torch.kron(spectrum.left.contiguous(), spectrum.right.contiguous())
    rebuilt = vectors * spectrum.eigenvalues.flatten() @ vectors.mT
    bound = case.tolerance(depth, torch.float64)
    assert (rebuilt - explicit).norm() <= bound * explicit.norm()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_applied_in_its_bases_it_is_the_rule(case: Case) -> None:
    weight, gradient = case.weight(), case.gradient()
    for depth in DEPTHS:
        eigenvalues, left, right = preconditioner_spectrum(weight, depth)
        assert (eigenvalues >= 0).all()
        applied = left @ (eigenvalues * (left.mT @ gradient @ right)) @ right.mT
        update = end_to_end_update(weight, gradient, depth)
        assert relative_error(update, applied) <= case.tolerance(depth, torch.float64), depth


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (1, 1), (0, 3), (3, 0)])
def test_bases_are_orthogonal(shape: tuple[int, int]) -> None:
    _, left, right = preconditioner_spectrum(normal(*shape, seed=1), 2)
    for basis, size in ((left, shape[0]), (right, shape[1])):
        assert torch.allclose(basis.mT @ basis, torch.eye(size).double(), atol=1e-14)


def test_batches_depths_and_dtypes() -> None:
    weight = normal(3, 4, 6, seed=1).float()
    depth = torch.tensor([[1.5], [math.inf]])
    eigenvalues, left, right = preconditioner_spectrum(weight, depth)
    assert eigenvalues.shape == (2, 3, 4, 6)
    assert (left.shape, right.shape) == ((3, 4, 4), (3, 6, 6))
    assert {t.dtype for t in (eigenvalues, left, right)} == {torch.float32}
    alone = preconditioner_spectrum(weight[2], 1.5).eigenvalues
    assert relative_error(eigenvalues[0, 2], alone) <= 1e-6
