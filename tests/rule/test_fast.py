"""The fast rule and its bases against the float64 oracle, closed forms and the paper's claims."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracles import sum_over_factors
from torch import Tensor

from overparam import end_to_end_update, preconditioner_spectrum, single_output_update
from overparam.rule.basis import (
    basis_error,
    exact_left_basis,
    jacobi_sweep,
    rotated_gram,
)
from overparam.rule.fast import _kernel, update_in_basis, update_of_rows
from overparam.rule.kernel import power_kernel

check = settings(deadline=None, max_examples=25, derandomize=True)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthonormal(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(draw(seed, size, size)).Q


def fast(weight: Tensor, gradient: Tensor, depth: float, **options) -> Tensor:
    left = exact_left_basis(weight)
    return update_in_basis(left, weight, gradient, depth, **options)


def relative(value: Tensor, truth: Tensor) -> float:
    return ((value.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("depth", [1.5, 2, 3, 5, math.inf])
@pytest.mark.parametrize(("m", "n"), [(6, 6), (5, 9), (1, 4)])
def test_float64_is_the_reference_to_round_off(m: int, n: int, depth: float) -> None:
    weight, gradient = draw(0, 2, m, n), draw(1, 2, m, n)
    expected = end_to_end_update(weight, gradient, depth)
    assert relative(fast(weight, gradient, depth), expected) < 2e-14


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_any_rank_is_the_sum_over_factors(rank: int, depth: int) -> None:
    left, right = orthonormal(0, 5), orthonormal(1, 8)[:5]
    sizes = torch.tensor([3.0, 2.0, 1.0, 1e-2, 1e-4], dtype=torch.float64)
    sizes[rank:] = 0
    weight, gradient = (left * sizes) @ right, draw(2, 5, 8)
    truth = sum_over_factors(weight, gradient, depth, rank)
    assert (fast(weight, gradient, depth) - truth).norm() <= 1e-12 * (1 + truth.norm())


# Relative error of float32 against the float64 reference. Condition numbers: that of a random
# matrix, then ten thousand. The larger error at small depth is s^(2/N) of the smallest ones.
@pytest.mark.parametrize(
    ("m", "n", "spread", "bound"),
    [(64, 64, None, 5e-6), (96, 384, None, 5e-6), (64, 96, 1e4, 5e-6)],
)
@pytest.mark.parametrize("depth", [1.5, 2, 3, 4])
def test_float32_accuracy(m: int, n: int, spread: float | None, bound: float, depth: float) -> None:
    weight, gradient = draw(0, m, n) / n**0.5, draw(1, m, n).float()
    if spread is not None:
        sizes = torch.logspace(0, -math.log10(spread), m, dtype=torch.float64)
        weight = (orthonormal(2, m) * sizes) @ orthonormal(3, n)[:m]
    weight = weight.float()
    truth = end_to_end_update(weight.double(), gradient.double(), depth)
    assert relative(fast(weight, gradient, depth), truth) < bound


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_float32_at_any_scale(scale: float) -> None:
    weight, gradient = draw(0, 6, 9), draw(1, 6, 9).float()
    expected = fast(weight.float(), gradient, 2, normalize=True)
    scaled = (weight * scale).float()
    torch.testing.assert_close(fast(scaled, gradient, 2, normalize=True), expected)
    truth = end_to_end_update(scaled, gradient, 2).double()
    assert relative(fast(scaled, gradient, 2), truth) < 2e-6
    rows = update_of_rows(scaled, gradient, 2)
    assert relative(rows, single_output_update(scaled, gradient, 2).double()) < 2e-6


@pytest.mark.parametrize("depth", range(2, 10))
def test_the_kernel_as_a_sum_is_the_kernel_by_logarithms(depth: int) -> None:
    sizes = torch.tensor([1.0, 1.0, 0.999999, 0.3, 1e-5, 1e-200, 0.0]).double()[:, None]
    inverse = torch.tensor(1 / depth, dtype=torch.float64)
    expected = power_kernel(sizes, sizes.mT, inverse)
    torch.testing.assert_close(_kernel(sizes, sizes.mT, depth), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e37])
@pytest.mark.parametrize("floor", [0.0, 1e-3, 1e20])
def test_no_scale_leaves_the_range_of_float32(scale: float, floor: float) -> None:
    """Normalized, the update is no longer than the gradient, whatever the weight."""
    weight, gradient = (draw(0, 6, 9) * scale).float(), draw(1, 6, 9).float()
    options = {"floor": floor, "normalize": True}
    for update in (
        fast(weight, gradient, 2, **options),
        update_of_rows(weight, gradient, 2, **options),
    ):
        assert 0 < update.norm() <= gradient.norm() * (1 + 1e-6)
        assert (update * gradient).sum() > 0


@check
@given(st.integers(1, 6), st.integers(0, 4), st.floats(1, 8), st.integers(0, 99))
def test_descent_for_any_orthonormal_basis(m: int, more: int, depth: float, seed: int) -> None:
    weight, gradient = draw(seed, m, m + more), draw(seed + 1, m, m + more)
    update = update_in_basis(orthonormal(seed + 2, m), weight, gradient, depth)
    assert (gradient * update).sum() > 0
    rows = update_of_rows(weight, gradient, depth)
    assert (gradient * rows).sum() > 0


@check
@given(st.integers(1, 5), st.integers(0, 4), st.floats(1.1, 8), st.integers(0, 99))
def test_equivariance_and_homogeneity(m: int, more: int, depth: float, seed: int) -> None:
    n = m + more
    weight, gradient = draw(seed, m, n), draw(seed + 1, m, n)
    q, r = orthonormal(seed + 2, m), orthonormal(seed + 3, n)
    update = fast(weight, gradient, depth)
    turned = fast(q @ weight @ r, q @ gradient @ r, depth)
    torch.testing.assert_close(turned, q @ update @ r, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        fast(3 * weight, 2 * gradient, depth), 3 ** (2 - 2 / depth) * 2 * update
    )


@check
@given(st.integers(1, 5), st.floats(1.1, 8), st.integers(0, 99))
def test_transpose_symmetry(m: int, depth: float, seed: int) -> None:
    weight, gradient = draw(seed, m, m), draw(seed + 1, m, m)
    expected = fast(weight.mT, gradient.mT, depth).mT
    torch.testing.assert_close(fast(weight, gradient, depth), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("depth", [1.5, 2, 4, math.inf])
def test_normalized_preconditioner_has_largest_eigenvalue_one(depth: float) -> None:
    weight = draw(0, 4, 6)
    spectrum = preconditioner_spectrum(weight, depth)
    top = spectrum.left[:, :1] @ spectrum.right[:, :1].mT
    torch.testing.assert_close(fast(weight, top, depth, normalize=True), top)
    bottom = spectrum.left[:, -1:] @ spectrum.right[:, -1:].mT
    expected = bottom * spectrum.eigenvalues[-1, -1] / spectrum.eigenvalues[0, 0]
    torch.testing.assert_close(fast(weight, bottom, depth, normalize=True), expected)


@pytest.mark.parametrize("depth", [1.5, 2, 4, math.inf])
def test_a_floor_acts_as_larger_singular_values(depth: float) -> None:
    """The preconditioner of W with its singular values, padding included, raised to the floor."""
    left, right = orthonormal(0, 3), orthonormal(1, 5)
    sizes = torch.tensor([2.0, 0.1, 0.0], dtype=torch.float64)
    weight, gradient = (left * sizes) @ right[:3], draw(2, 3, 5)
    rows = torch.tensor([2.0, 0.5, 0.5])[:, None].double()
    columns = torch.tensor([2.0, 0.5, 0.5, 0.5, 0.5])[None, :].double()
    if depth == math.inf:
        ratio = torch.log(rows**2 / columns**2)
        kernel = torch.where(ratio == 0, rows**2, (rows**2 - columns**2) / ratio)
    else:
        powers = rows ** (2 / depth) - columns ** (2 / depth)
        equal = depth * rows ** (2 - 2 / depth)
        kernel = torch.where(powers == 0, equal, (rows**2 - columns**2) / powers)
    expected = left @ (kernel * (left.mT @ gradient @ right.mT)) @ right
    torch.testing.assert_close(fast(weight, gradient, depth, floor=0.5), expected)


def test_a_floor_lets_a_zero_weight_move() -> None:
    zero, gradient = torch.zeros(3, 4, dtype=torch.float64), draw(0, 3, 4)
    assert not fast(zero, gradient, 3, normalize=True).any()
    torch.testing.assert_close(fast(zero, gradient, 3, floor=0.1, normalize=True), gradient)
    rows = update_of_rows(zero, gradient, 3, floor=0.1, normalize=True)
    torch.testing.assert_close(rows, gradient)


@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, math.inf])
def test_rows_are_the_single_output_rule(depth: float) -> None:
    weight, gradient = draw(0, 2, 4, 6), draw(1, 2, 4, 6)
    weight[0, 1] = 0
    expected = single_output_update(weight, gradient, depth)
    update = update_of_rows(weight, gradient, depth)
    if depth == 1:
        assert torch.equal(update[1], gradient[1])
        expected, update = expected[1], update[1]
    torch.testing.assert_close(update, expected)


def test_rows_share_one_normalization_per_matrix() -> None:
    weight = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 3.0]]])
    update = update_of_rows(weight, weight / weight.norm(dim=-1, keepdim=True), 2, normalize=True)
    torch.testing.assert_close(update.norm(dim=-1), torch.tensor([[1.0, 0.5], [1.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_basis_diagonalizes(dtype: torch.dtype) -> None:
    weight = draw(0, 3, 8, 20, dtype=dtype)
    left = exact_left_basis(weight)
    eps = torch.finfo(dtype).eps
    assert torch.linalg.matrix_norm(left.mT @ left - torch.eye(8, dtype=dtype)).max() < 20 * eps
    assert basis_error(rotated_gram(left, weight)).max() < 20 * eps
    sizes = torch.linalg.vector_norm(left.mT @ weight, dim=-1)
    torch.testing.assert_close(sizes, torch.linalg.svdvals(weight), rtol=100 * eps, atol=0)


def test_exact_basis_of_a_bad_slot_leaves_the_others() -> None:
    weight = draw(0, 2, 3, 4)
    weight[0, 1, 1] = math.inf
    left = exact_left_basis(weight)
    assert left[0].isnan().all()
    assert torch.equal(left[1], exact_left_basis(weight[1]))


def test_sweeps_converge_quadratically() -> None:
    sizes = torch.arange(12, 0, -1).double()
    weight = (orthonormal(0, 12) * sizes) @ orthonormal(1, 20)[:12]
    left = torch.linalg.qr(exact_left_basis(weight) + 0.02 * draw(2, 12, 12)).Q
    errors = []
    for _ in range(4):
        gram = rotated_gram(left, weight)
        errors.append(basis_error(gram).item())
        left = jacobi_sweep(left, gram)
    assert errors[0] > 0.01
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 3 * errors[1] ** 2 + 1e-12
    assert errors[3] < 1e-6


@pytest.mark.parametrize("sizes", [[1.0] * 6, [1.0, 1.0, 1.0, 0.5, 0.5, 0.0]])
def test_repeated_singular_values_are_no_trouble(sizes: list[float]) -> None:
    weight = (orthonormal(0, 6) * torch.tensor(sizes).double()) @ orthonormal(1, 9)[:6]
    gradient, left = draw(2, 6, 9), exact_left_basis(weight)
    for seed in range(5):
        weight = weight + 1e-3 * draw(seed, 6, 9)
        left = jacobi_sweep(left, rotated_gram(left, weight))
    update = update_in_basis(left, weight, gradient, 2)
    error = basis_error(rotated_gram(left, weight)).item()
    assert error < 1e-2
    assert relative(update, end_to_end_update(weight, gradient, 2)) < 2 * error
    torch.testing.assert_close(left.mT @ left, torch.eye(6).double(), atol=1e-5, rtol=0)


def test_round_off_of_orthonormality_is_repaired() -> None:
    weight = draw(0, 16, 16)
    left = exact_left_basis(weight) * (1 + 0.02 * draw(1, 16, 16))
    turned = jacobi_sweep(left, rotated_gram(left, weight))
    before = torch.linalg.matrix_norm(left.mT @ left - torch.eye(16).double(), ord=2)
    after = torch.linalg.matrix_norm(turned.mT @ turned - torch.eye(16).double(), ord=2)
    assert before > 0.02
    assert after < before**2


def test_sweeps_from_a_basis_far_away_stay_orthonormal() -> None:
    """Turns beyond the reach of the series are shortened."""
    weight, left = draw(0, 128, 128), orthonormal(1, 128)
    errors = []
    for _ in range(30):
        gram = rotated_gram(left, weight)
        errors.append(basis_error(gram).item())
        left = jacobi_sweep(left, gram)
        gap = torch.linalg.matrix_norm(left.mT @ left - torch.eye(128).double(), ord=2)
        assert gap < 1e-5
    assert errors[0] > 0.5
    assert errors[-1] < 1e-3


@pytest.mark.parametrize(
    "offsets", [(0.0, 0.7), (0.7, 0.0), (1.0, 0.0, 1e-3), (0.0, 0.0, 3.0, 1.0)]
)
@pytest.mark.parametrize(("m", "n"), [(6, 6), (5, 9), (1, 4)])
def test_unbalanced_is_the_reference_to_round_off(
    m: int, n: int, offsets: tuple[float, ...]
) -> None:
    weight, gradient, depth = draw(0, 2, m, n), draw(1, 2, m, n), len(offsets)
    expected = end_to_end_update(weight, gradient, depth, imbalance=offsets)
    assert relative(fast(weight, gradient, depth, offsets=offsets), expected) < 3e-14
    narrow = fast(weight.float(), gradient.float(), depth, offsets=offsets)
    assert relative(narrow, expected) < 3e-6
    top = preconditioner_spectrum(weight, depth, imbalance=offsets).eigenvalues.amax((-2, -1))
    normalized = fast(weight, gradient, depth, offsets=offsets, normalize=True)
    torch.testing.assert_close(normalized, expected / top[:, None, None])
    rows = torch.stack(
        [
            end_to_end_update(
                weight[:, k : k + 1], gradient[:, k : k + 1], depth, imbalance=offsets
            )
            for k in range(m)
        ],
        -2,
    )[..., 0, :, :]
    update = update_of_rows(weight, gradient, depth, offsets=offsets)
    torch.testing.assert_close(update, rows)
    largest = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).amax(-2, keepdim=True)
    unit = end_to_end_update(largest, torch.ones_like(largest), depth, imbalance=offsets)
    update = update_of_rows(weight, gradient, depth, offsets=offsets, normalize=True)
    torch.testing.assert_close(update, rows / unit)


@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-20, 1e20])
def test_unbalanced_at_any_scale_of_float32(scale: float) -> None:
    weight, gradient = (draw(0, 4, 6) * scale).float(), draw(1, 4, 6).float()
    for lam in (1e-15, 1.0, 1e15):
        for kind in (fast, lambda _, *rest, **options: update_of_rows(weight, *rest, **options)):
            update = kind(weight, gradient, 2, offsets=(0.0, lam), normalize=True)
            assert 0 < update.norm() <= gradient.norm() * (1 + 1e-5)
            if scale <= 1e-10 * lam:
                torch.testing.assert_close(update, gradient)


@check
@given(st.integers(1, 6), st.integers(0, 4), st.floats(0.01, 10), st.integers(0, 99))
def test_unbalanced_descends_for_any_orthonormal_basis(
    m: int, more: int, lam: float, seed: int
) -> None:
    weight, gradient = draw(seed, m, m + more), draw(seed + 1, m, m + more)
    for offsets in ((0.0, lam), (lam, 0.0, 2 * lam)):
        left = orthonormal(seed + 2, m)
        update = update_in_basis(left, weight, gradient, len(offsets), offsets=offsets)
        assert (gradient * update).sum() > 0


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("depth", "offsets"), [(2, ()), (1.5, ()), (3, (0.4, 0.0, 1.3))])
def test_the_root_taken_twice_is_the_rule(depth: float, offsets, normalize: bool) -> None:
    weight, gradient = draw(0, 2, 4, 6), draw(1, 2, 4, 6)
    options = {"offsets": offsets, "normalize": normalize}
    rule = fast(weight, gradient, depth, **options)
    half = fast(weight, gradient, depth, root=True, **options)
    torch.testing.assert_close(fast(weight, half, depth, root=True, **options), rule)
    torch.testing.assert_close((half * half).sum(), (gradient * rule).sum())
    rows = update_of_rows(weight, gradient, depth, **options)
    half = update_of_rows(weight, gradient, depth, root=True, **options)
    torch.testing.assert_close(update_of_rows(weight, half, depth, root=True, **options), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_the_same_bit_for_bit_whether_their_sizes_are_looked_at_or_not(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(5, 4, 6, generator=generator).to(dtype) for _ in range(2))
    weight *= torch.tensor([1.0, 1e-8, 1e20, 1e-3, 0.0], dtype=dtype)[:, None, None]
    together = update_of_rows(weight, gradient, 2, normalize=True)
    assert torch.equal(together, update_of_rows(weight, gradient, 2, normalize=True, look=False))
    for i in range(5):
        alone = update_of_rows(weight[i : i + 1], gradient[i : i + 1], 2, normalize=True)
        assert torch.equal(together[i], alone[0])
