"""Balanced factorizations, the imbalance and the initializations."""

import itertools
import math
from typing import Any

import pytest
import torch
from support.core_cases import CASES, Case, normal
from support.oracles import relative_error

from overparam import (
    balanced_factors,
    balanced_initialization,
    factor_product,
    identity_initialization,
    imbalance,
    near_zero_initialization,
)
from overparam.factors.balance import thin_svd

PRODUCT_TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}
INITIALIZATIONS = (near_zero_initialization, balanced_initialization, identity_initialization)


@pytest.mark.parametrize("dtype", PRODUCT_TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_product_is_preserved_and_balanced(case: Case, dtype: torch.dtype) -> None:
    weight = case.weight(dtype)
    least = min(case.m, case.n)
    for depth in range(1, 9):
        widths = [least + (3 * j) % 4 for j in range(depth - 1)]
        for width in (None, least + 2, widths):
            factors = balanced_factors(weight, depth, width)
            assert relative_error(factor_product(factors), weight) <= PRODUCT_TOLERANCE[dtype]
            assert len(factors) == depth
            assert {f.dtype for f in factors} == {dtype}
            if depth > 1:
                size = max(float(f.norm()) for f in factors) ** 2
                assert float(imbalance(factors).max()) <= 10 * torch.finfo(dtype).eps * size
        assert [f.shape[0] for f in factors] == [*widths, case.m]
        assert [f.shape[1] for f in factors] == [case.n, *widths]


def test_depth_one_is_a_copy() -> None:
    weight = normal(2, 3, seed=1)
    (factor,) = balanced_factors(weight, 1)
    assert torch.equal(factor, weight)
    assert factor.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scales(scale: float) -> None:
    weight = normal(3, 5, seed=1).float() * scale
    for depth in (2, 3, 8):
        assert relative_error(factor_product(balanced_factors(weight, depth)), weight) <= 1e-6


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 3), (2, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    factors = balanced_factors(torch.empty(shape), 3, width=4)
    assert factor_product(factors).shape == shape


def test_batch_equals_loop() -> None:
    weight = normal(2, 3, 4, 6, seed=1)
    batched = factor_product(balanced_factors(weight, 3, width=[5, 4]))
    assert relative_error(batched, weight) <= 1e-13
    factors = balanced_factors(weight, 3)
    for i, j in itertools.product(range(2), range(3)):
        for factor, alone in zip(factors, balanced_factors(weight[i, j], 3), strict=True):
            assert relative_error(factor[i, j], alone) <= 1e-13


def test_null_directions_get_zero_factors() -> None:
    # A round-off singular value of 1e-17 would become 1e-2 in each of eight factors.
    weight = Case("rank-1", 4, 6, (1.0,)).weight()
    for factor in balanced_factors(weight, 8)[1:-1]:
        assert int((factor != 0).sum()) == 1


def test_imbalance_is_its_definition() -> None:
    factors = [normal(2, *s, seed=k) for k, s in enumerate([(4, 3), (5, 4), (2, 5)])]
    gaps = imbalance(factors)
    assert gaps.shape == (2, 2)
    for b in range(2):
        for j in range(2):
            low, high = factors[j][b], factors[j + 1][b]
            expected = (high.mT @ high - low @ low.mT).square().sum().sqrt()
            assert math.isclose(float(gaps[b, j]), float(expected), rel_tol=1e-14)
    assert imbalance(factors[:1]).shape == (2, 0)
    shared = imbalance((factors[0], factors[1][:1]))
    assert shared.shape == (2, 1)


@pytest.mark.parametrize("initialize", INITIALIZATIONS)
@pytest.mark.parametrize("width", [None, 4, [3, 5]])
def test_initializations_shapes_and_determinism(initialize, width) -> None:
    def draw(seed: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return initialize(
            3, 6, 3, width=width, std=0.5, batch=(2,), generator=generator, dtype=torch.float64
        )

    first, again, other = draw(1), draw(1), draw(2)
    hidden = {None: [3, 3], 4: [4, 4]}.get(width) if not isinstance(width, list) else width
    sizes = [6, *(hidden or []), 3]
    assert [tuple(f.shape) for f in first] == [
        (2, rows, columns) for columns, rows in itertools.pairwise(sizes)
    ]
    assert {f.dtype for f in first} == {torch.float64}
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def check_moments(sample: torch.Tensor, std: float) -> None:
    """Mean, variance, fourth moment and covariance of independent ``N(0, std^2)`` entries.

    Within five standard errors, which is one percent of the standard deviation here.
    """
    z, count = sample.flatten() / std, sample.numel()
    assert abs(float(z.mean())) <= 5 / math.sqrt(count)
    assert abs(float((z**2).mean()) - 1) <= 5 * math.sqrt(2 / count)
    assert abs(float((z**4).mean()) - 3) <= 5 * math.sqrt(96 / count)
    matrices = sample.flatten(1) / std
    covariance = matrices.mT @ matrices / len(matrices)
    between = covariance - torch.diag(covariance.diag())
    assert float(between.abs().max()) <= 5 / math.sqrt(len(matrices))


def _options() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"std": 0.02, "batch": (25_000,), "generator": generator, "dtype": torch.float64}


def test_near_zero_moments() -> None:
    for factor in near_zero_initialization(3, 4, 3, **_options()):
        check_moments(factor, 0.02)


def test_balanced_moments() -> None:
    balanced = balanced_initialization(3, 4, 3, **_options())
    check_moments(factor_product(balanced), 0.02)
    assert float(imbalance(balanced).max()) <= 1e-15


def test_identity_moments() -> None:
    for factor in identity_initialization(3, 4, 2, **_options()):
        check_moments(factor - torch.eye(*factor.shape[-2:]), 0.02)


def test_identity_is_exact_without_noise() -> None:
    factors = identity_initialization(2, 5, 4, width=3, batch=(2,))
    assert torch.equal(factor_product(factors), torch.eye(2, 5).expand(2, 2, 5))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (7, 7), (3, 5, 9), (2, 9, 5)])
def test_thin_svd_is_that_of_lapack(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator)
    u, s, vt = thin_svd(matrix)
    torch.testing.assert_close(s, torch.linalg.svdvals(matrix))
    torch.testing.assert_close(u * s[..., None, :] @ vt, matrix, rtol=0, atol=1e-14)
    one = torch.eye(s.shape[-1], dtype=torch.float64).expand(*s.shape, -1)
    torch.testing.assert_close(u.mT @ u, one, rtol=0, atol=1e-12)
    torch.testing.assert_close(vt @ vt.mT, one, rtol=0, atol=1e-12)


def test_zeros_of_a_matrix_of_low_rank_stay_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 2, generator=generator) @ torch.randn(2, 20, generator=generator)
    first, second = balanced_factors(weight, 2)
    torch.testing.assert_close(second @ first, weight)
    assert int((first.abs().amax(-1) > 0).sum()) == int((second.abs().amax(0) > 0).sum()) == 2
    assert not balanced_factors(torch.zeros(3, 5), 2)[0].any()


@pytest.mark.parametrize("dtype", PRODUCT_TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "offsets", [(0.0, 2.0), (0.3, 0.0), (0.0, 1.0, 1e-3), (1.0, 0.0, 2.0), (2.0, 1.0, 0.0, 0.0)]
)
@pytest.mark.parametrize(
    "case",
    [
        Case("wide", 3, 5, (2.0, 1.0, 1e-3)),
        Case("tall", 5, 3, (2.0, 2.0, 0.5)),
        Case("square", 4, 4, (1.0, 1e-6, 1e-7)),
        Case("zero", 2, 3, ()),
        Case("row", 1, 4, (2.0,)),
    ],
    ids=str,
)
def test_factors_have_exactly_the_imbalance_asked_for(
    case: Case, offsets: tuple[float, ...], dtype: torch.dtype
) -> None:
    weight = case.weight(dtype)
    factors = balanced_factors(weight, len(offsets), imbalance=offsets)
    size = max(float(f.norm()) for f in factors) ** 2
    assert {f.dtype for f in factors} == {dtype}
    assert (factor_product(factors) - weight).norm() <= 10 * torch.finfo(dtype).eps * size ** (
        len(offsets) / 2
    )
    pairs = itertools.pairwise(zip(factors, offsets, strict=True))
    for (low, before), (high, behind) in pairs:
        gap = high.mT @ high - low @ low.mT
        expected = (behind - before) * torch.eye(len(gap), dtype=dtype)
        assert (gap - expected).norm() <= 20 * torch.finfo(dtype).eps * size


def test_a_number_is_the_imbalance_of_two_factors_whose_width_it_fixes() -> None:
    weight = normal(2, 3, 5, seed=1)
    for lam, width in ((0.5, 3), (-0.5, 5)):
        low, high = balanced_factors(weight, 2, imbalance=lam)
        assert low.shape[-2] == width
        gap = high.mT @ high - low @ low.mT
        assert relative_error(gap, lam * torch.eye(width).double().expand(2, -1, -1)) <= 1e-14
        named = balanced_factors(weight, 2, width, imbalance=lam)
        assert torch.equal(named[0], low)
        with pytest.raises(ValueError, match=rf"hidden widths of a 3 x 5 weight are \[{width}\]"):
            balanced_factors(weight, 2, 4, imbalance=lam)
    with pytest.raises(ValueError, match="imbalance of depth 2"):
        balanced_factors(weight, 3, imbalance=1.0)
    plain = balanced_factors(weight, 2, imbalance=0.0)
    assert all(map(torch.equal, plain, balanced_factors(weight, 2)))


def test_a_large_weight_with_an_imbalance_stays_in_range() -> None:
    weight = normal(3, 4, seed=1) * 1e200
    low, high = balanced_factors(weight, 2, imbalance=1e200)
    assert relative_error((high / 1e100) @ (low / 1e100), weight / 1e200) <= 1e-14
