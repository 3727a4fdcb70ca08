"""The derivative of a product of factors, as a linear map from changes of factors to changes of W.

``J`` maps a change of every factor to the change of W; its adjoint ``J^T`` maps a gradient at W
to gradients at the factors. Optimizer states and gradients travel along these two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.product import factor_product
from overparam.reparam.layout import Layout, MatrixLayout

# Steps and relative residual of the conjugate gradient method, in float64.
_CG_STEPS = 500
_CG_RESIDUAL = 1e-12
# Multiplicative steps to recover second moments, and random signs to estimate them.
_MULTIPLICATIVE_STEPS = 100
_SIGNS = 32


def gradient_to_factors(
    layout: Layout, factors: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """``J^T G``: the gradients at the factors of a gradient at the weight."""
    with torch.enable_grad():
        leaves = [factor.detach().requires_grad_() for factor in factors]
        return torch.autograd.grad(layout.product(leaves), leaves, gradient)


def gradient_from_factors(
    layout: Layout, factors: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """The gradient at the weight that gradients at the factors came from.

    ``min_G sum_j || (J^T G)_j - g_j ||^2`` by the conjugate gradient method on ``J J^T`` (which is
    the end-to-end rule's preconditioner), in float64. Exact for gradients that came from one G,
    where W has full rank; else the least-squares solution of least norm.
    """
    wide = [factor.detach().double() for factor in factors]
    target = _push(layout, wide, [gradient.double() for gradient in gradients])
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    energy = residual.square().sum()
    enough = _CG_RESIDUAL**2 * energy
    for _ in range(_CG_STEPS):
        if energy <= enough:
            break
        image = _push(layout, wide, gradient_to_factors(layout, wide, direction))
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        step = energy / curvature
        solution = solution + step * direction
        residual = residual - step * image
        previous, energy = energy, residual.square().sum()
        direction = residual + energy / previous * direction
    return solution.to(factors[0].dtype)


def variance_to_factors(
    layout: Layout, factors: Sequence[Tensor], variance: Tensor
) -> tuple[Tensor, ...]:
    """Mean squares of factor gradients from those of the weight's gradient, entries uncorrelated.

    ``E (J^T G)^2`` for independent entries of G with mean squares ``variance``: J^T with every
    coefficient squared. Exact for matrices, ``(L_j o L_j)^T v (R_j o R_j)^T``; for chains of
    kernels the mean over 32 fixed random signs.
    """
    wide = [factor.detach().double() for factor in factors]
    return tuple(
        part.to(factor.dtype)
        for part, factor in zip(_spread(layout, wide, variance.double()), factors, strict=True)
    )


def variance_from_factors(
    layout: Layout, factors: Sequence[Tensor], variances: Sequence[Tensor]
) -> Tensor:
    """Mean squares at the weight that would spread to those at the factors.

    Positive by construction: multiplicative steps (Richardson, Lucy) towards the given values for
    matrices; for chains of kernels one number for all entries.
    """
    wide = [factor.detach().double() for factor in factors]
    given = [variance.double() for variance in variances]
    ones = torch.ones(layout.shape, dtype=torch.float64, device=wide[0].device)
    spread = _spread(layout, wide, ones)
    total = sum(float(part.sum()) for part in spread)
    level = sum(float(part.sum()) for part in given) / total if total else 0.0
    estimate = level * ones
    if isinstance(layout, MatrixLayout):
        sides = [(a.square(), b.square()) for a, b in _sides(layout, wide)]
        weights = _gather(layout, sides, [torch.ones_like(part) for part in given])
        for _ in range(_MULTIPLICATIVE_STEPS):
            now = _spread_through(layout, sides, estimate)
            ratios = [torch.where(n > 0, g / n, 0.0) for g, n in zip(given, now, strict=True)]
            gathered = _gather(layout, sides, ratios)
            estimate = estimate * torch.where(weights > 0, gathered / weights, 1.0)
    return estimate.to(factors[0].dtype)


def _push(layout: Layout, factors: Sequence[Tensor], changes: Sequence[Tensor]) -> Tensor:
    """``J d``: the change of the weight from changes of the factors, to first order.

    The product is linear in each factor: the sum over factors with one of them exchanged.
    """
    parts = [
        layout.product([*factors[:j], change, *factors[j + 1 :]])
        for j, change in enumerate(changes)
    ]
    return torch.stack(parts).sum(dim=0)


def _spread(layout: Layout, factors: Sequence[Tensor], variance: Tensor) -> tuple[Tensor, ...]:
    if isinstance(layout, MatrixLayout):
        sides = [(a.square(), b.square()) for a, b in _sides(layout, factors)]
        return _spread_through(layout, sides, variance)
    generator = torch.Generator().manual_seed(0)
    root = variance.sqrt()
    total = [torch.zeros_like(factor) for factor in factors]
    for _ in range(_SIGNS):
        signs = torch.randint(0, 2, tuple(layout.shape), generator=generator).to(root) * 2 - 1
        pulled = gradient_to_factors(layout, factors, root * signs)
        total = [t + p.square() / _SIGNS for t, p in zip(total, pulled, strict=True)]
    return tuple(total)


def _sides(layout: MatrixLayout, factors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For each factor, the products ``L_j`` of those after it and ``R_j`` of those before it."""
    view = layout.view
    matrices = [factor.reshape(view.batch, *factor.shape[-2:]) for factor in factors]
    eye_out = torch.eye(view.rows, dtype=factors[0].dtype, device=factors[0].device)
    eye_in = torch.eye(view.columns, dtype=factors[0].dtype, device=factors[0].device)
    return [
        (
            factor_product(matrices[j + 1 :]) if j + 1 < len(matrices) else eye_out[None],
            factor_product(matrices[:j]) if j else eye_in[None],
        )
        for j in range(len(matrices))
    ]


def _spread_through(
    layout: MatrixLayout, sides: Sequence[tuple[Tensor, Tensor]], variance: Tensor
) -> tuple[Tensor, ...]:
    matrices = layout.view.split(variance)
    parts = [left.mT @ matrices @ right.mT for left, right in sides]
    return tuple(part.reshape(shape) for part, shape in zip(parts, layout.shapes, strict=True))


def _gather(
    layout: MatrixLayout, sides: Sequence[tuple[Tensor, Tensor]], parts: Sequence[Tensor]
) -> Tensor:
    """The adjoint of :func:`_spread_through`."""
    batch = layout.view.batch
    gathered = [
        left @ part.reshape(batch, *part.shape[-2:]) @ right
        for (left, right), part in zip(sides, parts, strict=True)
    ]
    return layout.view.join(torch.stack(gathered).sum(dim=0))
