import pytest
import torch

from overparam import (
    balanced_factors,
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)
from overparam.theory.preconditioner import preconditioner_matrix, single_output_parts


def _power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.mT


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_matrix_is_the_textbook_sum_at_full_rank(depth: int) -> None:
    # Square and well conditioned: here the Gram matrices do no harm.
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    weight = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q @ weight
    expected = sum(
        torch.kron(
            _power(weight.mT @ weight, (depth - j) / depth),
            _power(weight @ weight.mT, (j - 1) / depth),
        )
        for j in range(1, depth + 1)
    )
    torch.testing.assert_close(preconditioner_matrix(weight, depth), expected)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3), (1, 3)])
def test_matrix_is_the_jacobian_of_the_product_times_its_transpose(
    shape: tuple[int, int], depth: int
) -> None:
    """What a step on balanced factors does to the product, to first order: ``J J^T vec(G)``."""
    weight = torch.randn(shape, dtype=torch.float64)
    factors = balanced_factors(weight, depth)

    def product(*parts: torch.Tensor) -> torch.Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = part @ total
        return total.mT.flatten()  # vec stacks columns

    parts = torch.autograd.functional.jacobian(product, factors)
    expected = sum(part.flatten(1) @ part.flatten(1).mT for part in parts)
    torch.testing.assert_close(preconditioner_matrix(weight, depth), expected)


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3)])
def test_matrix_spectrum_and_rule_agree(shape: tuple[int, int]) -> None:
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64)
    matrix = preconditioner_matrix(weight, 3)
    spectrum = preconditioner_spectrum(weight, 3)
    values = spectrum.eigenvalues.flatten().sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix), values)
    update = (matrix @ gradient.mT.flatten()).reshape(shape[1], shape[0]).mT
    torch.testing.assert_close(end_to_end_update(weight, gradient, 3), update)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5])
def test_parts_of_a_single_output(depth: float) -> None:
    weight, gradient = torch.randn(2, 5, dtype=torch.float64)
    size, stretch, along, across = single_output_parts(weight, gradient, depth)
    assert abs((across @ weight).item()) < 1e-12
    torch.testing.assert_close(along + across, gradient)
    update = single_output_update(weight, gradient, depth)
    torch.testing.assert_close(size * (stretch * along + across), update)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one matrix"):
        preconditioner_matrix(torch.ones(3), 2)
    with pytest.raises(ValueError, match="integer"):
        preconditioner_matrix(torch.eye(2), 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="zero"):
        single_output_parts(torch.zeros(2), torch.ones(2), 2.0)
