"""The decomposition by eigenproblems against LAPACK and fifty digits, for hard spectra."""

import math

import mpmath
import pytest
import torch
from support.core_cases import log_spaced, orthogonal
from support.oracles import DIGITS, exact_rule, relative_error

from overparam import end_to_end_update
from overparam.rule.decomposition import singular_rows, thin_decomposition

SPECTRA = {
    "one-decade": log_spaced(1e-1, 8),
    "near-the-cut": (1.0, 0.5, 1.02e-3, 1.01e-3, 1e-3, 0.99e-3, 0.98e-3, 1e-4),
    "clusters": (1.0, 1.0, 1e-3, 1e-3 + 1e-12, 1e-6, 1e-6 + 1e-14, 1e-9, 1e-9 + 1e-15),
    "cond-1e8": log_spaced(1e-8, 8),
    "cond-1e13": log_spaced(1e-13, 8),
    "all-equal": (1.0,) * 8,
    "steep": (1.0, 1e-2, 1e-4, 1e-5, 1e-7, 1e-9, 1e-11, 1e-12),
}


def weight_of(singular: tuple[float, ...], n: int = 11) -> torch.Tensor:
    values = torch.tensor(singular, dtype=torch.float64)
    m = len(singular)
    return orthogonal(m, seed=1) * values @ orthogonal(n, seed=2)[:, :m].mT


@pytest.mark.parametrize("resolution", [1e-4, 1e-3, 0.05])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_it_is_a_decomposition_with_orthogonal_rows(spectrum: str, resolution: float) -> None:
    weight = weight_of(SPECTRA[spectrum])
    left, singular, rows = singular_rows(weight, 1e-15, resolution)
    eye, eps = torch.eye(8).double(), 2.3e-16
    assert torch.linalg.matrix_norm(left.mT @ left - eye) <= 40 * eps
    assert torch.linalg.matrix_norm(left @ rows - weight) <= 40 * eps
    assert (singular - torch.linalg.svdvals(weight)).abs().max() <= 20 * eps
    right = rows / singular[:, None]
    # What a change of the weight by round-off does to a row of V^T, and what the Gram matrix does.
    bound = eps / singular + eps / resolution**2
    assert ((right @ right.mT - eye).abs() <= 20 * (bound[:, None] + bound)).all()


@pytest.mark.parametrize("depth", [1.1, 1.5, 2, 3, 8, math.inf])
@pytest.mark.parametrize("spectrum", ["near-the-cut", "clusters", "cond-1e8", "steep"])
def test_the_rule_of_hard_spectra_is_that_of_fifty_digits(spectrum: str, depth: float) -> None:
    singular = SPECTRA[spectrum]
    weight, gradient = weight_of(singular), torch.ones(8, 11, dtype=torch.float64)
    gradient[::2, ::3] = -2
    with mpmath.workdps(DIGITS):
        exact = exact_rule(mpmath.matrix(weight.tolist()), mpmath.matrix(gradient.tolist()), depth)
        expected = torch.tensor([float(x) for x in exact], dtype=torch.float64).view(8, 11)
    # Rounding the weight alone does as much to the update at depths far from 2.
    promised = max(1e-12, 2.2e-16 * (singular[0] / singular[-1]) ** abs(1 - 2 / depth))
    assert relative_error(end_to_end_update(weight, gradient, depth), expected) <= promised
    tall = end_to_end_update(weight.mT, gradient.mT, depth).mT
    assert relative_error(tall, expected) <= promised
    # float32 has singular values below 1.2e-7 s_max cleared: compare with those that it holds.
    narrow, slope = weight.float(), gradient.float()
    if singular[-1] > 1e-6:
        with mpmath.workdps(DIGITS):
            exact = exact_rule(mpmath.matrix(narrow.tolist()), mpmath.matrix(slope.tolist()), depth)
        expected = torch.tensor([float(x) for x in exact], dtype=torch.float64).view(8, 11)
        assert relative_error(end_to_end_update(narrow, slope, depth), expected) <= 1e-5


@pytest.mark.parametrize(("m", "n"), [(6, 9), (9, 6), (500, 520)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_thin_decomposition_of_any_shape_and_rank(m: int, n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(2, m, 3, generator=generator).double()
    weight = (high @ torch.randn(2, 3, n, generator=generator).double()).to(dtype).double()
    left, singular, right = thin_decomposition(weight, dtype, 0.5)
    k = min(m, n)
    assert (left.shape, singular.shape, right.shape) == ((2, m, k), (2, k), (2, k, n))
    assert (singular[:, 3:] <= 5e-7 * singular[:, :1]).all()
    if dtype == torch.float64:
        assert (singular[:, 3:] == 0).all()
    eps = torch.finfo(dtype).eps
    assert relative_error((left * singular[:, None]) @ right, weight) <= 10 * eps
    eye = torch.eye(3).double().expand(2, 3, 3)
    assert relative_error(left[..., :3].mT @ left[..., :3], eye) <= 1e-12
    assert relative_error(right[:, :3] @ right[:, :3].mT, eye) <= 1e-12


def test_a_level_cut_for_one_slot_leaves_the_others_right() -> None:
    spectra = [SPECTRA[name] for name in ("all-equal", "steep", "one-decade")]
    weight = torch.stack([weight_of(singular) for singular in spectra])
    _, singular, _ = singular_rows(weight, 1e-15, 1e-3)
    expected = torch.tensor(spectra, dtype=torch.float64)
    assert (singular - expected).abs().max() <= 5e-15


@pytest.mark.parametrize("shape", [(7, 5000), (5000, 7), (2, 3, 2049), (400, 2100)])
def test_a_long_narrow_matrix_is_decomposed_as_if_it_were_float64(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    left, singular, right = thin_decomposition(weight, torch.float32, 0.5)
    assert {left.dtype, singular.dtype, right.dtype} == {torch.float64}
    assert relative_error((left * singular[..., None, :]) @ right, weight.double()) <= 1e-13
    torch.testing.assert_close(singular, torch.linalg.svdvals(weight.double()))
    eye = torch.eye(singular.shape[-1]).double().expand(*singular.shape, -1)
    assert relative_error(left.mT @ left, eye) <= 1e-12
    assert relative_error(right @ right.mT, eye) <= 1e-12
