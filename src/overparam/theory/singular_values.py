"""Singular values under depth: each grows at a rate set by its own size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overparam._checks import check_depth, check_same_trailing
from overparam.rule.reference import end_to_end_update
from overparam.theory._fit import power_law_exponent
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck, largest, smallest
from overparam.theory.descent import descend_end_to_end
from overparam.theory.losses import GradientOf, fit_to

_VELOCITY_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0)
_EVERY = 30  # steps between two points of the figure
_ByCase = dict[tuple[float, float], float]


def singular_value_velocity(weight: Tensor, gradient: Tensor, depth: float | Tensor) -> Tensor:
    r"""Time derivative of each singular value along the end-to-end flow.

    .. math::
        \dot\sigma_r = -N \, \sigma_r^{2-2/N} \, \langle G, u_r v_r^T \rangle.

    Source: Arora, Cohen, Hu, Luo (2019), 'Implicit regularization in deep matrix factorization',
    Theorem 3. Defined where singular values are distinct.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, of the same last two dimensions.
        depth: ``N >= 1``, finite, a number or a tensor of the leading dimensions.

    Returns:
        ``(..., min(m, n))``, in the order of falling singular values.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is no number.
        ValueError: shapes do not fit, or a depth is below 1.

    Example:
        >>> import torch
        >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
        >>> singular_value_velocity(weight, -torch.eye(2), depth=2)
        tensor([8., 2.])
    """
    check_same_trailing(weight, gradient, trailing=2)
    check_depth(depth)
    power = torch.as_tensor(depth, dtype=weight.dtype, device=weight.device)[..., None]
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    slope = torch.einsum("...mr,...mn,...rn->...r", left, gradient, right)
    return -power * singular ** (2 - 2 / power) * slope


def velocity_error(
    weight: Tensor, gradient_of: GradientOf, depth: float | Tensor, lr: float, steps: int
) -> Tensor:
    """Largest relative gap, along a run, between measured and predicted velocity.

    Measured: change of the singular values in one step, over ``lr``; the gap is ``O(lr)``.
    Source: as :func:`singular_value_velocity`.

    Args:
        weight: ``W`` at the start, ``(..., m, n)``.
        gradient_of: gradient of the loss.
        depth: ``N >= 1``, a number or a tensor of the leading dimensions: one run per entry.
        lr: learning rate.
        steps: number of steps.

    Returns:
        Over the largest predicted velocity of the run, of the leading dimensions, no unit.

    Example:
        >>> import torch
        >>> start = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
        >>> bool(velocity_error(start, fit_to(torch.zeros(2, 2)), 2.0, lr=1e-4, steps=10) < 1e-3)
        True
    """
    path = descend_end_to_end(weight, gradient_of, depth, lr, steps)
    measured = torch.linalg.svdvals(path).diff(dim=0) / lr
    predicted = singular_value_velocity(path[:-1], gradient_of(path[:-1]), depth)
    return (measured - predicted).abs().amax((0, -1)) / predicted.abs().amax((0, -1))


def check() -> TheoryCheck:
    """Check the velocity along runs, and complete a matrix of rank 2 at several depths.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    lrs, depth = [0.01 / 2**k for k in range(4)], torch.tensor(_VELOCITY_DEPTHS).double()
    errors = torch.stack(
        [velocity_error(start, gradient_of, depth, lr, round(0.2 / lr)) for lr in lrs]
    )
    exponents = [power_law_exponent(lrs, line) for line in errors.mT.tolist()]
    gradient, h = gradient_of(start), 1e-6
    move = h * end_to_end_update(start, gradient, depth)
    ahead, behind = torch.linalg.svdvals(start - move), torch.linalg.svdvals(start + move)
    predicted = singular_value_velocity(start, gradient, depth)
    away = (ahead - behind) / (2 * h) - predicted
    exact = (away.abs().amax(-1) / predicted.abs().amax(-1)).max().item()
    depths, scales = (1.0, 2.0, 3.0), (1e-1, 1e-3)
    rows, ratios, fitted, recovered = _completion(depths, scales, generator)
    return TheoryCheck(
        name="singular values",
        statement=(
            "Under the end-to-end flow a singular value moves at -N sigma^(2-2/N) <G, u v^T>: "
            "large ones grow faster, so depth and small initialization lower the rank."
        ),
        source="Arora, Cohen, Hu, Luo (2019), Theorem 3",
        measurements=(
            Measurement(
                "largest relative difference of the formula from central differences",
                exact,
                0.0,
                1e-6,
            ),
            Measurement(
                "smallest exponent of lr in the error along a run, N = 1 to 4",
                smallest(exponents),
                0.8,
                1.2,
            ),
            Measurement("largest exponent of lr, same runs", largest(exponents), 0.8, 1.2),
            Measurement(
                "completing a matrix of rank 2 from scale 0.001: third over first singular value "
                "at N = 3, over the same at N = 1",
                ratios[3.0, 1e-3] / ratios[1.0, 1e-3],
                0.0,
                0.5,
            ),
            Measurement(
                "the same quotient at N = 3 from scale 0.001, over that from scale 0.1",
                ratios[3.0, 1e-3] / ratios[3.0, 1e-1],
                0.0,
                0.5,
            ),
            # Without it a run that has not yet learned anything would pass for one of low rank.
            Measurement(
                "largest relative error on the observed entries at the end of these runs",
                largest(fitted.values()),
                0.0,
                0.05,
            ),
        ),
        table=columns(("depth", "scale", "time", "rank", "value"), rows),
        notes=(
            "Relative error on the entries that were not observed, at the end from scale 0.001: "
            + ", ".join(f"{recovered[depth, 1e-3]:.2g} at N = {depth:g}" for depth in depths)
            + ".",
        ),
    )


def _completion(
    depths: Sequence[float], scales: Sequence[float], generator: torch.Generator
) -> tuple[list[Row], _ByCase, _ByCase, _ByCase]:
    """Complete a 10 x 10 matrix of rank 2 from 60 % of its entries, all runs as one batch.

    Returns the rows of the figure and, by (depth, scale): third over first singular value at the
    end, relative error on the observed entries, relative error on the others.
    """
    size, rank, lr, steps = 10, 2, 0.2, 1500
    thin = torch.randn(2, size, rank, generator=generator, dtype=torch.float64)
    target = thin[0] @ thin[1].mT
    target = target / torch.linalg.matrix_norm(target, 2)
    seen = (torch.rand(size, size, generator=generator, dtype=torch.float64) < 0.6).double()
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    cases = [(depth, scale) for depth in depths for scale in scales]
    start = torch.stack([scale * noise for _, scale in cases])
    depth = torch.tensor([depth for depth, _ in cases], dtype=torch.float64)
    # Time is measured so that a singular value of 1 moves equally fast at every depth.
    path = descend_end_to_end(start, fit_to(target, seen / depth[:, None, None]), depth, lr, steps)
    singular = torch.linalg.svdvals(path[::_EVERY])  # (times, cases, size)
    rows: list[Row] = []
    ratios, fitted, missed = {}, {}, {}
    for number, case in enumerate(cases):
        ratios[case] = (singular[-1, number, 2] / singular[-1, number, 0]).item()
        for errors, mask in ((fitted, seen), (missed, 1 - seen)):
            away = mask * (path[-1, number] - target)
            errors[case] = (away.norm() / (mask * target).norm()).item()
        for time in range(len(singular)):
            for r in range(5):
                value = max(singular[time, number, r].item(), 1e-8)
                rows.append((*case, time * _EVERY * lr, r + 1, value))
    return rows, ratios, fitted, missed
