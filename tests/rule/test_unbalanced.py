"""The rule of unbalanced factors against explicit factors in fifty digits, and its properties."""

import math
from functools import partial
from typing import Any

import mpmath
import pytest
import torch
from support.core_cases import Case, log_spaced, normal, orthogonal
from support.oracles import relative_error
from support.unbalanced_oracle import DIGITS, exact_unbalanced_factors, exact_velocity
from torch import Tensor

from overparam import end_to_end_update, preconditioner_spectrum
from overparam.rule.unbalanced import check_imbalance, excess_squares, unbalanced_kernel

IMBALANCES = (
    1.0,
    -0.3,
    1e-6,
    -1e4,
    (0.0, 1.0, 2.0),
    (0.5, 0.0, 1e-3),
    (3.0, 3.0, 0.0),
    (0.0, 1.0, 0.0, 1e-2),
    (-1.0, 2.0, 1.0, 0.0, 5.0),
)
SHAPES = (
    Case("wide", 3, 5, (2.0, 1.0, 1e-3)),
    Case("tall", 5, 3, (2.0, 2.0, 0.5)),
    Case("square", 4, 4, log_spaced(1e-6, 4)),
    Case("rank-1", 3, 4, (1.0,)),
    Case("rank-2-tall", 4, 3, (1.0, 1e-2)),
    Case("row", 1, 3, (0.7,)),
    Case("column", 3, 1, (0.7,)),
)


def offsets_of(imbalance: float | tuple[float, ...]) -> tuple[float, ...]:
    return imbalance if isinstance(imbalance, tuple) else (0.0, imbalance)


def depth_of(imbalance: float | tuple[float, ...]) -> int:
    return len(offsets_of(imbalance))


def exact_update(weight: Tensor, gradient: Tensor, imbalance: float | tuple[float, ...]) -> Tensor:
    with mpmath.workdps(DIGITS):
        w, g = (mpmath.matrix(t.double().tolist()) for t in (weight, gradient))
        factors = exact_unbalanced_factors(w, offsets_of(imbalance))
        exact = [float(x) for x in exact_velocity(factors, g)]
    return torch.tensor(exact, dtype=torch.float64).view(weight.shape)


@pytest.mark.parametrize("imbalance", IMBALANCES, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_is_how_explicit_factors_move_their_product(
    case: Case, imbalance: float | tuple[float, ...]
) -> None:
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        weight, gradient = case.weight(dtype), case.gradient(dtype)
        expected = exact_update(weight, gradient, imbalance)
        update = end_to_end_update(weight, gradient, depth_of(imbalance), imbalance=imbalance)
        assert update.dtype == dtype
        assert relative_error(update, expected) <= bound
        eigenvalues, left, right = preconditioner_spectrum(
            weight.double(), depth_of(imbalance), imbalance=imbalance
        )
        applied = left @ (eigenvalues * (left.mT @ gradient.double() @ right)) @ right.mT
        assert relative_error(applied, expected) <= bound


def test_the_oracle_has_the_imbalance_that_it_says() -> None:
    with mpmath.workdps(DIGITS):
        weight = mpmath.matrix(Case("", 3, 5, (2.0, 1.0, 0.5)).weight().tolist())
        for offsets in ((0.0, 1.0), (2.0, 0.0, 1.0), (0.0, 3.0, 0.0, 1.0)):
            factors = exact_unbalanced_factors(weight, offsets)
            product = factors[0]
            for factor in factors[1:]:
                product = factor * product
            assert mpmath.norm(product - weight) < 1e-40
            for j in range(len(offsets) - 1):
                gap = factors[j + 1].T * factors[j + 1] - factors[j] * factors[j].T
                expected = mpmath.mpf(offsets[j + 1] - offsets[j]) * mpmath.eye(gap.rows)
                assert mpmath.norm(gap - expected) < 1e-40


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4)])
@pytest.mark.parametrize("depth", [2, 3])
def test_without_imbalance_it_is_the_rule_bit_for_bit(shape: tuple[int, int], depth: int) -> None:
    weight, gradient = normal(*shape, seed=1), normal(*shape, seed=2)
    expected = end_to_end_update(weight, gradient, depth)
    for none in (0, 0.0, (2.0,) * depth):
        assert torch.equal(end_to_end_update(weight, gradient, depth, imbalance=none), expected)
    for little in ((0.0, 1e-13), (0.0, 1e-13, 1e-13)):
        if len(little) == depth:
            near = end_to_end_update(weight, gradient, depth, imbalance=little)
            assert relative_error(near, expected) <= 1e-12


def test_zero_weights_move_and_a_large_imbalance_is_gradient_descent() -> None:
    gradient = normal(3, 5, seed=1)
    zero = torch.zeros_like(gradient)
    for lam in (2.0, -2.0):
        assert torch.equal(end_to_end_update(zero, gradient, 2, imbalance=lam), 2 * gradient)
        weight = normal(3, 5, seed=2)
        for size in (1e3, 1e6, 1e9):
            update = end_to_end_update(weight, gradient, 2, imbalance=lam * size) / (2 * size)
            assert relative_error(update, gradient) <= 10 / size


def test_two_factors_are_two_square_roots() -> None:
    weight, gradient = normal(2, 3, 5, seed=1)[0], normal(3, 5, seed=2)

    def root(gram: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram + torch.eye(len(gram)).double() * 0.7**2 / 4)
        return vectors * values.sqrt() @ vectors.mT

    expected = root(weight @ weight.mT) @ gradient + gradient @ root(weight.mT @ weight)
    for lam in (0.7, -0.7):
        update = end_to_end_update(weight, gradient, 2, imbalance=lam)
        assert relative_error(update, expected) <= 1e-13


@pytest.mark.parametrize("depth", range(2, 9))
def test_excess_squares_solve_their_equation_at_every_scale(depth: int) -> None:
    generator = torch.Generator().manual_seed(depth)
    singular = 10.0 ** torch.linspace(-16, 3, 60, dtype=torch.float64)[:, None]
    for _ in range(20):
        offsets = 10.0 ** (10 * torch.rand(depth, generator=generator).double() - 8)
        offsets[torch.randint(depth, (), generator=generator)] = 0
        x = excess_squares(singular, offsets.tolist())
        product = (x + offsets).log().sum(-1) - 2 * singular[:, 0].log()
        assert product.abs().max() <= 4e-14
    assert not excess_squares(singular * 0, offsets.tolist()).any()


@pytest.mark.parametrize("scale", [1e-60, 1e-20, 1e20, 1e60])
def test_scales(scale: float) -> None:
    weight, gradient = normal(3, 5, seed=1), normal(3, 5, seed=2)
    for offsets in ((0.0, 2.0), (1.0, 0.0, 3.0)):
        power = 2 / len(offsets)
        expected = end_to_end_update(weight, gradient, len(offsets), imbalance=offsets)
        scaled = [value * scale**power for value in offsets]
        update = end_to_end_update(weight * scale, gradient, len(offsets), imbalance=scaled)
        assert relative_error(update, expected * scale ** (2 - power)) <= 1e-12


def test_batches_vmap_and_broken_slots() -> None:
    weight, gradient = normal(4, 3, 5, seed=1), normal(4, 3, 5, seed=2)

    def rule(w: Tensor, g: Tensor) -> Tensor:
        return end_to_end_update(w, g, 3, imbalance=(0.0, 1.0, 2.0))

    update = rule(weight, gradient)
    for alone, w, g in zip(update, weight, gradient, strict=True):
        assert relative_error(alone, rule(w, g)) <= 1e-14
    assert relative_error(torch.vmap(rule)(weight, gradient), update) <= 1e-14
    weight[1, 0, 0] = math.nan
    broken = rule(weight, gradient)
    assert broken[1].isnan().all()
    assert relative_error(broken[2:], update[2:]) <= 1e-14


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (3, 3), (1, 3)])
@pytest.mark.parametrize("offsets", [(0.0, 0.5), (0.5, 0.0), (0.2, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_gradcheck(shape: tuple[int, int], offsets: tuple[float, ...]) -> None:
    inputs = normal(*shape, seed=1).requires_grad_(), normal(*shape, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, g: end_to_end_update(w, g, len(offsets), imbalance=offsets),
        inputs,
        fast_mode=True,
    )


def test_derivative_at_repeated_and_zero_singular_values() -> None:
    """The rule is smooth there, which that of balanced factors is not."""
    for singular in ((2.0, 2.0, 1.0), (2.0, 1.0), (1.0, 1e-9), ()):
        case = Case("", 3, 4, singular)
        weight, gradient = case.weight().requires_grad_(), case.gradient()
        for offsets in ((0.0, 0.5), (1.0, 0.0, 0.5)):
            options: dict[str, Any] = {"depth": len(offsets), "imbalance": offsets}
            assert torch.autograd.gradcheck(partial(_rule, gradient, options), weight)


def _rule(gradient: Tensor, options: dict[str, Any], weight: Tensor) -> Tensor:
    return end_to_end_update(weight, gradient, **options)


def test_kink_where_two_offsets_are_the_smallest() -> None:
    weight = Case("", 3, 4, (2.0, 1.0)).weight().requires_grad_()
    update = end_to_end_update(weight, normal(3, 4, seed=1), 3, imbalance=(0.0, 0.0, 1.0))
    assert torch.autograd.grad(update.sum(), weight)[0].isnan().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_mode_is_reverse_mode() -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    pushed, pulled = (
        transform(lambda w: end_to_end_update(w, gradient, 2, imbalance=0.5))(weight)
        for transform in (torch.func.jacfwd, torch.func.jacrev)
    )
    torch.testing.assert_close(pushed, pulled, rtol=1e-12, atol=1e-12)


def test_equivariant_self_adjoint_and_a_descent_direction() -> None:
    for m, n in ((3, 5), (5, 3)):
        weight, gradient, other = (normal(m, n, seed=k) for k in (1, 2, 3))
        q, r = orthogonal(m, seed=4), orthogonal(n, seed=5)
        options: dict[str, Any] = {"depth": 3, "imbalance": (1.0, 0.0, 2.0)}
        update = end_to_end_update(weight, gradient, **options)
        turned = end_to_end_update(q @ weight @ r, q @ gradient @ r, **options)
        assert relative_error(turned, q @ update @ r) <= 1e-12
        swapped = (gradient * end_to_end_update(weight, other, **options)).sum()
        assert abs(float(swapped - (other * update).sum())) <= 1e-12 * float(update.norm())
        assert (gradient * update).sum() > 0
        mirrored = end_to_end_update(weight.mT, gradient.mT, 3, imbalance=(2.0, 0.0, 1.0))
        assert relative_error(mirrored.mT, update) <= 1e-13


@pytest.mark.parametrize(
    ("imbalance", "depth", "error", "words"),
    [
        (1.0, 3, ValueError, "imbalance of depth 2.*N offsets"),
        (1.0, 2.5, ValueError, "imbalance of depth 2"),
        (1.0, math.inf, ValueError, "imbalance of depth 2"),
        (1.0, torch.tensor(2.0), ValueError, "imbalance of depth 2"),
        ((0.0, 1.0), 3, ValueError, r"lists 2 offset\(s\) and depth is 3"),
        ((), 2, ValueError, "lists 0 offset"),
        ((0.0, math.nan), 2, ValueError, "finite numbers"),
        (math.inf, 2, ValueError, "finite numbers"),
        ((-1e308, 1e308), 2, ValueError, "too far apart"),
        ("1", 2, TypeError, "a str"),
        (True, 2, TypeError, "a bool"),
        ((0.0, "x"), 2, TypeError, "holds 'x'"),
    ],
)
def test_bad_imbalance_is_refused(imbalance, depth, error, words) -> None:
    weight = torch.ones(2, 2)
    for call in (
        lambda: end_to_end_update(weight, weight, depth, imbalance=imbalance),
        lambda: preconditioner_spectrum(weight, depth, imbalance=imbalance),
    ):
        with pytest.raises(error, match=words):
            call()


def test_kernel_of_two_is_symmetric_in_the_sign() -> None:
    s = torch.tensor([3.0, 0.5, 0.0], dtype=torch.float64)[:, None]
    expected = torch.hypot(s, torch.tensor(0.35).double())
    for lam in (0.7, -0.7):
        offsets = check_imbalance(lam, 2)
        x = excess_squares(s, offsets)
        torch.testing.assert_close(unbalanced_kernel(x, x.mT, offsets), expected + expected.mT)
