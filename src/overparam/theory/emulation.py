"""Theorem 1: gradient descent on balanced factors moves their product by the end-to-end rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.factors.balance import balanced_factors, imbalance
from overparam.factors.product import factor_product
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck, largest
from overparam.theory.descent import descend_end_to_end, descend_factors
from overparam.theory.losses import GradientOf, fit_to


def rotated_factors(
    factors: Sequence[Tensor], generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """Rotate every hidden layer at random: ``W_j <- Q_j W_j Q_{j-1}^T`` with orthogonal ``Q``.

    Product and balance stay; zero padding of wide hidden layers becomes dense. Source: the
    symmetry behind Arora, Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.
        generator: source of random numbers, on the device of the factors.

    Returns:
        As many factors of the same shapes.

    Example:
        >>> import torch
        >>> factors = (torch.ones(1, 2), torch.ones(3, 1))
        >>> torch.allclose(factor_product(rotated_factors(factors)), torch.ones(3, 2))
        True
    """
    rotated = list(factors)
    for j in range(len(factors) - 1):
        *leading, width, _ = factors[j].shape
        noise = factors[j].new_empty(*leading, width, width).normal_(generator=generator)
        rotation = torch.linalg.qr(noise).Q
        rotated[j] = rotation @ rotated[j]
        rotated[j + 1] = rotated[j + 1] @ rotation.mT
    return tuple(rotated)


def rescaled_factors(factors: Sequence[Tensor], stretch: float) -> tuple[Tensor, ...]:
    """Multiply the first factor by ``exp(stretch)`` and divide the last by it.

    The product stays and balance is lost: factors as far from balance as one likes.

    Args:
        factors: ``(W_1, ..., W_N)`` with N >= 2.
        stretch: a real number; 0 changes nothing.

    Returns:
        The factors.

    Raises:
        ValueError: fewer than two factors.

    Example:
        >>> import torch
        >>> [f.item() for f in rescaled_factors((torch.ones(1, 1), torch.ones(1, 1)), 0.0)]
        [1.0, 1.0]
    """
    if len(factors) < 2:
        raise ValueError(f"factors has {len(factors)} factor(s); pass at least 2 to rescale.")
    by = math.exp(stretch)
    return (factors[0] * by, *factors[1:-1], factors[-1] / by)


def emulation_error(
    factors: Sequence[Tensor],
    gradient_of: GradientOf,
    lr: float | Tensor,
    steps: int | Tensor,
) -> Tensor:
    """Largest distance on the way of the product of factors from the end-to-end rule.

    ``max_t |W_factors(t) - W_rule(t)|_F / max_t |W_rule(t)|_F``, both from the same product.
    For balanced factors it is ``O(lr)`` at fixed ``lr * steps``. Source: Arora, Cohen, Hazan
    (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, balanced or not; leading dimensions are separate runs.
        gradient_of: gradient of the loss at the product; see
            :func:`overparam.theory.loss_gradient` for any loss.
        lr: learning rate, or one per run.
        steps: number of steps, or one per run.

    Returns:
        The relative distance of every run, of the leading dimensions, no unit; NaN where a run
        left the finite numbers.

    Example:
        >>> import torch
        >>> factors = balanced_factors(torch.eye(2, dtype=torch.float64), depth=3)
        >>> loss_gradient = fit_to(torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)))
        >>> bool(emulation_error(factors, loss_gradient, lr=1e-4, steps=100) < 1e-3)
        True
    """
    last = torch.as_tensor(steps, device=factors[0].device)
    longest = int(last.max())
    explicit = torch.stack(
        [factor_product(now) for now in descend_factors(factors, gradient_of, lr, longest)]
    )
    rule = descend_end_to_end(explicit[0], gradient_of, len(factors), lr, longest)
    times = torch.arange(longest + 1, device=last.device)
    beyond = times.reshape(-1, *(1,) * (rule.ndim - 3)) > last
    distance = torch.linalg.matrix_norm(explicit - rule).masked_fill(beyond, 0.0)
    size = torch.linalg.matrix_norm(rule).masked_fill(beyond, 0.0)
    return distance.amax(0) / size.amax(0)


_DEPTHS = (2, 3, 4, 8)
_SHAPES = ((3, 4), (4, 2))
_PROBLEMS = 3
_HORIZON = 0.4  # lr * steps of every run
_LRS = tuple(0.1 / 2**k for k in range(7))
_STRETCHES = (0.2, 0.1, 0.05, 0.025, 0.0125)


def check() -> TheoryCheck:
    """Compare explicit products with the rule over depth, learning rate, width and imbalance.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(1)
    rows: list[Row] = []
    in_lr, in_imbalance, stays, spreads = [], [], [], []
    for shape, depth in itertools.product(_SHAPES, _DEPTHS):
        start, target = torch.randn(2, _PROBLEMS, *shape, generator=generator, dtype=torch.float64)
        start, gradient_of = start / 2, fit_to(target, 0.5)
        names = [f"{shape[0]} x {shape[1]}, problem {k + 1}" for k in range(_PROBLEMS)]
        dense = rotated_factors(balanced_factors(start, depth), generator)
        errors = _errors(dense, gradient_of, _LRS)
        in_lr.append((errors[:-1] / errors[1:]).log2())
        spreads.append(_spread_over_widths(start, gradient_of, depth, generator))
        rows += _lines("learning rate", depth, names, torch.tensor(_LRS), errors)
        rows += _lines("exponent", depth, names, torch.tensor(_LRS[1:]), in_lr[-1])

        off = [rescaled_factors(dense, stretch) for stretch in _STRETCHES]
        gaps = torch.stack([imbalance(factors).amax(-1) for factors in off])
        stacked = [torch.stack(parts) for parts in zip(*off, strict=True)]
        missed = _errors(stacked, gradient_of, _LRS[-2:])  # (lrs, stretches, problems)
        added = _added_by_imbalance(dense, stacked, gradient_of)  # (stretches, problems)
        in_imbalance.append((added[:-1] / added[1:]).log() / (gaps[:-1] / gaps[1:]).log())
        stays.append((missed[0] / missed[1]).log2()[0])
        rows += _lines("imbalance", depth, names, gaps, missed[-1])
    from_one = (torch.stack(in_lr) - 1).abs().amax((0, 2))  # by halving
    off_one = (torch.stack(in_imbalance) - 1).abs().amax((0, 2))
    return TheoryCheck(
        name="emulation",
        statement=(
            "Gradient descent on N balanced factors moves their product as the end-to-end rule "
            "does, up to O(lr), whatever the hidden width; on unbalanced factors it does not."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1",
        measurements=(
            Measurement(
                "largest distance from 1 of the exponent of lr in the relative error at fixed "
                f"time, between lr = {_LRS[-2]:g} and {_LRS[-1]:g}",
                from_one[-1].item(),
                0.0,
                0.1,
            ),
            Measurement(
                "the same over its value one halving of lr earlier: 1/2 where the exponent tends "
                "to 1",
                (from_one[-1] / from_one[-2]).item(),
                0.3,
                0.7,
            ),
            Measurement(
                "largest relative spread of the product over hidden widths 1 to 10 x min(m, n)",
                largest(spreads),
                0.0,
                1e-10,
            ),
            Measurement(
                "unbalanced start: largest distance from 1 of the exponent of the imbalance in "
                "what it adds to the error, at the smallest imbalance",
                off_one[-1].item(),
                0.0,
                0.1,
            ),
            Measurement(
                "the same over its value one halving of the imbalance earlier",
                (off_one[-1] / off_one[-2]).item(),
                0.3,
                0.7,
            ),
            Measurement(
                "unbalanced start: largest exponent of lr in the error at the largest imbalance: "
                "0 where the error stays, however small lr",
                torch.stack(stays).abs().max().item(),
                0.0,
                0.1,
            ),
        ),
        table=columns(("panel", "depth", "run", "x", "value"), rows),
        notes=(
            f"N = 2, 3, 4, 8; weights 3 x 4 and 4 x 2; {_PROBLEMS} random problems of each, all "
            f"followed to lr * steps = {_HORIZON:g}.",
            "An exponent is that of two runs, one at half the learning rate (or imbalance) of the "
            "other. Its largest distance from 1 falls with the learning rate: "
            + ", ".join(
                f"{value:.2g} at {lr:g}"
                for lr, value in zip(_LRS[1:], from_one.tolist(), strict=True)
            )
            + ". The theorem speaks of small rates; at large ones the error falls at other powers.",
            "Unbalanced: the first factor times e^s, the last divided by it, s from "
            f"{_STRETCHES[-1]:g} to {_STRETCHES[0]:g}; the product at the start stays the same. "
            "What imbalance adds is the distance from the run of balanced factors at the same lr.",
        ),
    )


def _errors(factors: Sequence[Tensor], gradient_of: GradientOf, lrs: Sequence[float]) -> Tensor:
    """Errors at fixed time at every learning rate, ``(lrs, leading dimensions)``."""
    leading = factors[0].ndim - 2
    rates = torch.tensor(lrs, dtype=torch.float64).reshape(-1, *(1,) * leading)
    copies = [factor.expand(len(lrs), *factor.shape) for factor in factors]
    return emulation_error(copies, gradient_of, rates, (_HORIZON / rates).round())


def _added_by_imbalance(
    balanced: Sequence[Tensor], unbalanced: Sequence[Tensor], gradient_of: GradientOf
) -> Tensor:
    """Largest relative distance between the two products on the way, at one learning rate."""
    paths = [
        torch.stack(
            [factor_product(now) for now in descend_factors(factors, gradient_of, 0.01, 40)]
        )
        for factors in (balanced, unbalanced)
    ]
    away = torch.linalg.matrix_norm(paths[1] - paths[0][:, None]).amax(0)
    return away / torch.linalg.matrix_norm(paths[0]).amax(0)


def _spread_over_widths(
    start: Tensor, gradient_of: GradientOf, depth: int, generator: torch.Generator
) -> float:
    """Largest relative distance of products after 40 steps, over hidden widths."""
    least = min(start.shape[-2:])
    ends = []
    for times in (1, 2, 4, 10):
        wide = rotated_factors(balanced_factors(start, depth, least * times), generator)
        ends.append(factor_product(descend_factors(wide, gradient_of, 0.01, 40)[-1]))
    away = torch.stack(ends[1:]) - ends[0]
    return (torch.linalg.matrix_norm(away) / torch.linalg.matrix_norm(ends[0])).max().item()


def _lines(panel: str, depth: int, names: Sequence[str], x: Tensor, values: Tensor) -> list[Row]:
    """Rows of one panel, a line for each column of ``values (points, problems)``."""
    places = x.reshape(len(x), -1).expand(values.shape)
    return [
        (panel, depth, name, *point)
        for name, line in zip(
            names, torch.stack((places, values), -1).transpose(0, 1).tolist(), strict=True
        )
        for point in line
    ]
