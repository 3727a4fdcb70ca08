"""The derivative of a product of factors, as a linear map from changes of factors to changes of W.

``J`` maps a change of every factor to the change of W; its adjoint ``J^T`` maps a gradient at W
to gradients at the factors. Optimizer states and gradients travel along these two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from overparam.factors.balance import thin_svd
from overparam.factors.layout import ChainLayout, Layout, MatrixLayout
from overparam.factors.product import factor_product

# Steps of the conjugate gradient method in float64, and the relative residual for factors of
# float64 and for others, whose own rounding is larger.
_CG_STEPS = 500
_CG_RESIDUALS = (1e-12, 1e-7)
# Random signs to estimate second moments of chains of kernels.
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
    where W has full rank; for balanced factors of a W of low rank the solution of least norm. The
    nearer the factors are to balance, the fewer steps it takes: one where they are balanced.
    """
    wide = [factor.detach().double() for factor in factors]
    target = _push(layout, wide, [gradient.double() for gradient in gradients])
    if not bool(target.isfinite().all()):
        return torch.full_like(target, torch.nan).to(factors[0].dtype)
    inverse = _inverse_at_balance(layout, wide)
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), inverse(target)
    energy = (residual * direction).sum()
    relative = _CG_RESIDUALS[factors[0].dtype != torch.float64]
    enough = relative**2 * residual.square().sum()
    for _ in range(_CG_STEPS):
        if residual.square().sum() <= enough:
            break
        image = _push(layout, wide, gradient_to_factors(layout, wide, direction))
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        step = energy / curvature
        solution = solution + step * direction
        residual = residual - step * image
        corrected = inverse(residual)
        previous, energy = energy, (residual * corrected).sum()
        direction = corrected + energy / previous * direction
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
    """Mean squares at the weight, estimated from those at the factors.

    For matrices ``v_ik = r_i c_k / t``: sums over hidden units give ``r = v rho`` (from the last
    factor) and ``c = lambda^T v`` (from the first), where lambda and rho are the row sums of
    ``L_1 o L_1`` and the column sums of ``R_N o R_N``, and ``t = lambda^T v rho``. Exact where v
    has rank one, as in Adafactor (Shazeer, Stern 2018, section 3). Undoing the spread entry by
    entry would give some entries far too small mean squares, and Adam far too large steps. For
    chains of kernels the same over channels, all taps alike, from the spread of ones.
    """
    wide = [factor.detach().double() for factor in factors]
    given = [variance.double() for variance in variances]
    if layout.depth == 1:
        return variances[0]
    if isinstance(layout, MatrixLayout):
        estimate = _of_rank_one(layout, wide, given)
    else:
        estimate = _of_rank_one_over_channels(layout, wide, given)
    return estimate.to(factors[0].dtype)


def _of_rank_one(
    layout: MatrixLayout, factors: Sequence[Tensor], variances: Sequence[Tensor]
) -> Tensor:
    """See :func:`variance_from_factors`."""
    view, sides = layout.view, _squared_sides(layout, factors)
    after_first, before_last = sides[0][0], sides[-1][1]
    assert after_first is not None
    assert before_last is not None
    row_sums, column_sums = after_first.sum(-1), before_last.sum(-2)
    rows = variances[-1].reshape(view.batch, view.rows, -1).sum(-1)
    columns = variances[0].reshape(view.batch, -1, view.columns).sum(-2)
    total = ((row_sums * rows).sum(-1) + (column_sums * columns).sum(-1)) / 2
    return view.join(_outer(rows, columns, total))


def _of_rank_one_over_channels(
    layout: ChainLayout, factors: Sequence[Tensor], variances: Sequence[Tensor]
) -> Tensor:
    """See :func:`variance_from_factors`; means over channels, weighted by the spread of ones."""
    ones = torch.ones(layout.shape, dtype=torch.float64, device=factors[0].device)
    spread = _spread(layout, factors, ones)

    def sums(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        first, last = (p.unflatten(0, (layout.groups, -1)) for p in (parts[0], parts[-1]))
        return last.flatten(2).sum(-1), first.transpose(1, 2).flatten(2).sum(-1)

    (rows, columns), (row_weights, column_weights) = sums(variances), sums(spread)
    total = (rows.sum(-1) / row_weights.sum(-1) + columns.sum(-1) / column_weights.sum(-1)) / 2
    channels = _outer(rows / row_weights, columns / column_weights, total)
    taps = (1,) * (len(layout.shape) - 2)
    return channels.reshape(layout.shape[:2] + taps).expand(layout.shape)


def _outer(rows: Tensor, columns: Tensor, total: Tensor) -> Tensor:
    """``rows columns^T / total``; zero where the total is."""
    total = torch.where(total > 0, total, 1.0)
    return rows[..., :, None] * columns[..., None, :] / total[..., None, None]


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
        return _spread_through(layout, _squared_sides(layout, factors), variance)
    generator = torch.Generator().manual_seed(0)
    root = variance.sqrt()
    total = [torch.zeros_like(factor) for factor in factors]
    for _ in range(_SIGNS):
        signs = torch.randint(0, 2, tuple(layout.shape), generator=generator).to(root) * 2 - 1
        pulled = gradient_to_factors(layout, factors, root * signs)
        total = [t + p.square() / _SIGNS for t, p in zip(total, pulled, strict=True)]
    return tuple(total)


def _inverse_at_balance(layout: Layout, factors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The inverse of ``J J^T`` for balanced factors, and near it for others.

    ``J J^T G = sum_j L_j L_j^T G R_j^T R_j``. In the singular bases ``W = U diag(s) V^T`` its
    diagonal is ``K_ik = sum_j |L_j^T u_i|^2 |R_j v_k|^2``, and balanced factors leave nothing
    beside it. Directions where K is zero are left out. Bases are not completed on the longer side
    of W: outside of them only the term without a factor on that side is left. For chains of
    kernels the identity.
    """
    if not isinstance(layout, MatrixLayout):
        return lambda gradient: gradient
    view, sides = layout.view, _sides(layout, factors)
    u, s, vt = thin_svd(view.split(layout.product(factors)))
    ones = torch.ones_like(s)
    left = [ones if a is None else (u.mT @ a).square().sum(-1) for a, _ in sides]
    right = [ones if b is None else (b @ vt.mT).square().sum(-2) for _, b in sides]
    inside = torch.stack(
        [a[..., :, None] * b[..., None, :] for a, b in zip(left, right, strict=True)]
    ).sum(dim=0)
    round_off = torch.finfo(s.dtype).eps * max(view.rows, view.columns)
    floor = round_off * inside.amax((-2, -1), keepdim=True)

    def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
        # What the product cannot move has no gradient in the factors, but round-off.
        return torch.where(denominator > floor, numerator / denominator, 0.0)

    def inverse(gradient: Tensor) -> Tensor:
        matrices = view.split(gradient)
        core = u.mT @ matrices @ vt.mT
        result = u @ divide(core, inside) @ vt
        if view.rows > view.columns:  # the last factor has none after it
            beside = divide(matrices @ vt.mT - u @ core, right[-1][..., None, :])
            result = result + beside @ vt
        elif view.rows < view.columns:  # the first has none before it
            beside = divide(u.mT @ matrices - core @ vt, left[0][..., :, None])
            result = result + u @ beside
        return view.join(result)

    return inverse


_Sides = list[tuple[Tensor | None, Tensor | None]]


def _sides(layout: MatrixLayout, factors: Sequence[Tensor]) -> _Sides:
    """For each factor, the products ``L_j`` of those after it and ``R_j`` of those before it.

    None stands for the identity, which would be as large as an embedding's vocabulary squared.
    """
    batch = layout.view.batch
    matrices = [factor.reshape(batch, *factor.shape[-2:]) for factor in factors]
    last = len(matrices) - 1
    return [
        (
            factor_product(matrices[j + 1 :]) if j < last else None,
            factor_product(matrices[:j]) if j else None,
        )
        for j in range(len(matrices))
    ]


def _squared_sides(layout: MatrixLayout, factors: Sequence[Tensor]) -> _Sides:
    return [
        (None if a is None else a.square(), None if b is None else b.square())
        for a, b in _sides(layout, factors)
    ]


def _spread_through(layout: MatrixLayout, sides: _Sides, variance: Tensor) -> tuple[Tensor, ...]:
    matrices = layout.view.split(variance)
    parts = [
        _times(None if a is None else a.mT, matrices, None if b is None else b.mT) for a, b in sides
    ]
    return tuple(part.reshape(shape) for part, shape in zip(parts, layout.shapes, strict=True))


def _times(left: Tensor | None, middle: Tensor, right: Tensor | None) -> Tensor:
    """``left @ middle @ right``, where None is the identity."""
    middle = middle if left is None else left @ middle
    return middle if right is None else middle @ right
