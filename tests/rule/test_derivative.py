"""Derivatives of the rule: gradcheck, differences in 50 digits, and a product of powers."""

import math
from collections.abc import Callable

import pytest
import torch
from support.core_cases import DEPTHS, FULL_RANK, Case, normal
from support.oracles import exact_slope, relative_error

from overparam import end_to_end_update, single_output_update

REAL_DEPTHS = DEPTHS[1:]
SMALL = [c for c in FULL_RANK if c.m * c.n <= 30 and min(c.singular) >= 1e-3]


def slope_in_weight(weight, gradient, depth, upper):
    weight = weight.clone().requires_grad_()
    update = end_to_end_update(weight, gradient, depth)
    return torch.autograd.grad(update, weight, upper)[0]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradcheck(case: Case, depth: float) -> None:
    inputs = case.weight().requires_grad_(), case.gradient().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, g: end_to_end_update(w, g, depth), inputs, fast_mode=True
    )


@pytest.mark.parametrize("depth", REAL_DEPTHS)
@pytest.mark.parametrize(
    "case",
    [
        Case("wide", 3, 4, (2.0, 1.0, 0.5)),
        Case("square", 2, 2, (2.0, 1.0)),
        Case("repeated", 3, 4, (2.0, 2.0, 1.0)),
        Case("near", 2, 3, (2.0, 2.0 + 1e-9)),
        Case("gap-at-switch", 2, 3, (1.0, 1.0 + 5e-6)),
        Case("cond-1e4", 3, 4, (1.0, 1e-2, 1e-4)),
    ],
    ids=str,
)
def test_matches_a_difference_in_fifty_digits(case: Case, depth: float) -> None:
    weight, gradient = case.weight(), case.gradient()
    upper, along = normal(case.m, case.n, seed=5), normal(case.m, case.n, seed=6)
    slope = slope_in_weight(weight, gradient, depth, upper)
    expected = exact_slope(weight, gradient, depth, upper, along)
    size = float(slope.norm() * along.norm())
    assert abs(float((slope * along).sum()) - expected) <= 1e-9 * size
    tall = slope_in_weight(weight.mT, gradient.mT, depth, upper.mT)
    assert relative_error(tall.mT, slope) <= 1e-9


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_matches_autograd_through_matrix_powers(depth: int) -> None:
    """Theorem 1 term by term for a square weight with separated singular values."""
    case = Case("separated", 4, 4, (3.0, 2.0, 1.2, 0.6))
    weight, gradient, upper = case.weight(), case.gradient(), normal(4, 4, seed=5)

    def power(gram: torch.Tensor, exponent: float) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(gram)
        return vectors * values**exponent @ vectors.mT

    w, g = weight.clone().requires_grad_(), gradient.clone().requires_grad_()
    total = torch.zeros_like(weight)
    for j in range(1, depth + 1):
        total = total + power(w @ w.mT, (j - 1) / depth) @ g @ power(w.mT @ w, (depth - j) / depth)
    expected = torch.autograd.grad(total, (w, g), upper)
    actual = torch.autograd.grad(end_to_end_update(w, g, depth), (w, g), upper)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_get_the_float64_derivative_rounded(dtype: torch.dtype) -> None:
    weight, gradient, upper = (normal(3, 5, seed=s).to(dtype) for s in (1, 2, 3))
    for depth in REAL_DEPTHS:
        wide = slope_in_weight(weight.double(), gradient.double(), depth, upper.double())
        narrow = slope_in_weight(weight, gradient, depth, upper)
        assert narrow.dtype == dtype
        assert relative_error(narrow, wide) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scales(scale: float) -> None:
    weight, gradient, upper = (normal(3, 5, seed=s) for s in (1, 2, 3))
    for depth in REAL_DEPTHS:
        expected = slope_in_weight(weight, gradient, depth, upper) * scale ** (1 - 2 / depth)
        actual = slope_in_weight(weight * scale, gradient, depth, upper)
        assert relative_error(actual, expected) <= 1e-9, depth


def test_rank_deficient_is_nan_but_zero_at_depth_one_and_others_stay() -> None:
    weight, gradient = normal(3, 4, 5, seed=1), normal(3, 4, 5, seed=2)
    weight[1, 3] = weight[1, 2]
    slope = slope_in_weight(weight, gradient, 2.5, torch.ones_like(weight))
    assert slope[1].isnan().all()
    alone = slope_in_weight(weight[0], gradient[0], 2.5, torch.ones(4, 5).double())
    assert relative_error(slope[0], alone) <= 1e-13
    depth = torch.tensor([1.0, 1.0, 2.0])
    slope = slope_in_weight(weight, gradient, depth, torch.ones_like(weight))
    assert torch.equal(slope[:2], torch.zeros_like(slope[:2]))
    assert slope[2].norm() > 0


def test_non_finite_slot_does_not_stop_the_backward_pass() -> None:
    weight, gradient = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    expected = slope_in_weight(weight[1], gradient[1], 3, torch.ones(3, 4).double())
    for value in (math.nan, math.inf):
        broken = weight.clone()
        broken[0, 1, 1] = value
        slope = slope_in_weight(broken, gradient, 3, torch.ones_like(weight))
        assert slope[0].isnan().all()
        assert relative_error(slope[1], expected) <= 1e-13


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (1, 3)])
def test_backward_sums_over_broadcast_dimensions(shape: tuple[int, int]) -> None:
    weight = normal(3, 1, *shape, seed=1).requires_grad_()
    gradient = normal(2, *shape, seed=2).requires_grad_()
    depth = torch.tensor([2.0, 3.5]).view(2, 1, 1)
    upper = normal(2, 3, 2, *shape, seed=3)
    actual = torch.autograd.grad(
        end_to_end_update(weight, gradient, depth), (weight, gradient), upper
    )
    full_w = weight.detach().expand(2, 3, 2, *shape).clone().requires_grad_()
    full_g = gradient.detach().expand(2, 3, 2, *shape).clone().requires_grad_()
    full = torch.autograd.grad(end_to_end_update(full_w, full_g, depth), (full_w, full_g), upper)
    assert relative_error(actual[0], full[0].sum((0, 2))[:, None]) <= 1e-13
    assert relative_error(actual[1], full[1].sum((0, 1))) <= 1e-13


def test_small_blocks_give_the_same_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gradient, upper = (normal(2, 5, 6, seed=s) for s in (1, 2, 3))
    whole = slope_in_weight(weight, gradient, 2.5, upper)
    monkeypatch.setattr("overparam.rule.derivative._BLOCK_ENTRIES", 100)
    assert relative_error(slope_in_weight(weight, gradient, 2.5, upper), whole) <= 1e-14


def test_blocks_count_a_batch_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight with many gradients: a block holds an entry for each of them."""
    from overparam.rule import derivative as rule_gradient

    seen: list[int] = []
    quotient = rule_gradient._quotient

    def spy(change, row, other, slope):
        seen.append(change.shape[-1] if change.shape[-3] == 5 else change.shape[-3])
        return quotient(change, row, other, slope)

    monkeypatch.setattr(rule_gradient, "_quotient", spy)
    monkeypatch.setattr(rule_gradient, "_BLOCK_ENTRIES", 5 * 5 * 40)
    slope_in_weight(normal(5, 6, seed=1), normal(40, 5, 6, seed=2), 2, normal(40, 5, 6, seed=3))
    assert set(seen) == {1}


def test_functional_transforms_agree() -> None:
    weight, gradient = normal(3, 2, 4, seed=1), normal(3, 2, 4, seed=2)

    def loss(w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return (end_to_end_update(w, g, 2.5) ** 2).sum()

    grads = torch.func.grad(loss, argnums=(0, 1))
    mapped, batched = torch.vmap(grads)(weight, gradient), grads(weight, gradient)
    for a, b in zip(mapped, batched, strict=True):
        assert relative_error(a, b) <= 1e-13


def test_second_derivative_in_the_weight_is_refused_and_never_silently_zero() -> None:
    weight = normal(2, 3, seed=1).requires_grad_()
    update = end_to_end_update(weight, normal(2, 3, seed=2), 2)
    slope = torch.autograd.grad(update.sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="a second derivative is not implemented"):
        torch.autograd.grad(slope.sum() + weight.sum(), weight)


def test_derivative_in_the_gradient_can_be_differentiated_again() -> None:
    weight, gradient = normal(2, 3, seed=1).requires_grad_(), normal(2, 3, seed=2)
    upper = normal(2, 3, seed=3)
    gradient.requires_grad_()
    again = torch.ones_like(gradient)
    expected = slope_in_weight(weight.detach(), upper, 2.5, again)
    adjoint = torch.autograd.grad(
        end_to_end_update(weight, gradient, 2.5), gradient, upper, create_graph=True
    )[0]
    assert relative_error(torch.autograd.grad(adjoint, weight, again)[0], expected) <= 1e-14


# torch scripts its own decompositions when forward mode is first used.
torch_jit = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@torch_jit
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (3, 3), (1, 3)])
@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, math.inf])
def test_forward_mode_is_reverse_mode(shape: tuple[int, int], depth: float) -> None:
    weight, gradient = normal(*shape, seed=1), normal(*shape, seed=2)
    for argument in (0, 1):
        pushed, pulled = (
            transform(lambda w, g: end_to_end_update(w, g, depth), argnums=argument)(
                weight, gradient
            )
            for transform in (torch.func.jacfwd, torch.func.jacrev)
        )
        torch.testing.assert_close(pushed, pulled, rtol=1e-12, atol=1e-12)


@torch_jit
def test_hessian_works_in_the_gradient_and_says_why_not_in_the_weight() -> None:
    weight, gradient = normal(2, 3, seed=1), normal(2, 3, seed=2)

    def loss(w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return end_to_end_update(w, g, 2.5).square().sum()

    hessian = torch.func.hessian(loss, argnums=1)(weight, gradient).view(6, 6)
    columns = end_to_end_update(weight, torch.eye(6).double().view(6, 2, 3), 2.5).view(6, 6)
    torch.testing.assert_close(hessian, 2 * columns @ columns)
    with pytest.raises(RuntimeError, match="a second derivative is not implemented"):
        torch.func.hessian(loss)(weight, gradient)


@torch_jit
@pytest.mark.parametrize("update", [end_to_end_update, single_output_update])
def test_a_derivative_in_depth_says_why_not(update: Callable[..., torch.Tensor]) -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    depth = torch.tensor(2.0, dtype=torch.float64)
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(RuntimeError, match=r"not differentiated in depth: pass depth.detach"):
            transform(lambda d: update(weight, gradient, d).sum())(depth)
    depth.requires_grad_()
    with pytest.raises(RuntimeError, match="not differentiated in depth"):
        update(weight, gradient, depth)
    with torch.no_grad():
        update(weight, gradient, depth)
