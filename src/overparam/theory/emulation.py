"""Theorem 1: gradient descent on balanced factors moves their product by the end-to-end rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.balance import balanced_factors, imbalance
from overparam.product import factor_product
from overparam.theory._fit import power_law_exponent
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck
from overparam.theory.descent import GradientOf, descend_end_to_end, descend_factors, fit_to


def rotated_factors(
    factors: Sequence[Tensor], generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """Rotate every hidden layer at random: ``W_j <- Q_j W_j Q_{j-1}^T`` with orthogonal ``Q``.

    Product and balance stay; zero padding of wide hidden layers becomes dense. Source: the
    symmetry behind Arora, Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, matrices without leading dimensions.
        generator: source of random numbers.

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
        width = factors[j].shape[0]
        noise = torch.randn(width, width, generator=generator, dtype=factors[j].dtype)
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
    by = torch.tensor(stretch, dtype=factors[0].dtype).exp()
    return (factors[0] * by, *factors[1:-1], factors[-1] / by)


def emulation_error(
    factors: Sequence[Tensor], gradient_of: GradientOf, lr: float, steps: int
) -> float:
    """Largest distance on the way of the product of factors from the end-to-end rule.

    ``max_t |W_factors(t) - W_rule(t)|_F / max_t |W_rule(t)|_F``, both from the same product.
    For balanced factors it is ``O(lr)`` at fixed ``lr * steps``. Source: Arora, Cohen, Hazan
    (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, balanced or not.
        gradient_of: gradient of the loss at the product.
        lr: learning rate.
        steps: number of steps.

    Returns:
        The relative distance, no unit.

    Example:
        >>> import torch
        >>> factors = balanced_factors(torch.eye(2, dtype=torch.float64), depth=3)
        >>> loss_gradient = fit_to(torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)))
        >>> emulation_error(factors, loss_gradient, lr=1e-4, steps=100) < 1e-3
        True
    """
    explicit = torch.stack(
        [factor_product(now) for now in descend_factors(factors, gradient_of, lr, steps)]
    )
    rule = descend_end_to_end(explicit[0], gradient_of, len(factors), lr, steps)
    distance = torch.linalg.matrix_norm(explicit - rule).max()
    return (distance / torch.linalg.matrix_norm(rule).max()).item()


def check() -> TheoryCheck:
    """Compare explicit products with the rule over depth, learning rate, width and imbalance."""
    generator = torch.Generator().manual_seed(1)
    rows: list[Row] = []
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64) / 2
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64), 0.5)
    lrs = [0.01 / 2**k for k in range(4)]
    exponents, spreads, unbalanced = [], [], []
    for depth in (2, 3, 4, 8):
        dense = rotated_factors(balanced_factors(start, depth), generator)
        errors = [emulation_error(dense, gradient_of, lr, round(0.5 / lr)) for lr in lrs]
        exponents.append(power_law_exponent(lrs, errors))
        rows += [("learning rate", depth, *pair) for pair in zip(lrs, errors, strict=True)]

        ends = []
        for times in (1, 2, 4, 10):
            wide = rotated_factors(balanced_factors(start, depth, 3 * times), generator)
            path = descend_factors(wide, gradient_of, lrs[0], 50)
            ends.append(factor_product(path[-1]))
        spread = [torch.linalg.matrix_norm(end - ends[0]).item() for end in ends]
        spreads.append(max(spread) / torch.linalg.matrix_norm(ends[0]).item())

        gaps, errors = [], []
        for stretch in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
            off = rescaled_factors(balanced_factors(start, depth), stretch)
            gaps.append(imbalance(off).max().item())
            errors.append(emulation_error(off, gradient_of, 2e-3, 150))
        # The smallest steps still show the O(lr) floor of balanced factors.
        unbalanced.append(power_law_exponent(gaps[1:5], errors[1:5]))
        rows += [("imbalance", depth, *pair) for pair in zip(gaps, errors, strict=True)]
    return TheoryCheck(
        name="emulation",
        statement=(
            "Gradient descent on N balanced factors moves their product as the end-to-end rule "
            "does, up to O(lr), whatever the hidden width."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1",
        measurements=(
            Measurement(
                "smallest exponent of lr in the relative error at fixed time, N = 2, 3, 4, 8, "
                f"lr from {lrs[-1]:g} to {lrs[0]:g}",
                min(exponents),
                0.8,
                1.2,
            ),
            Measurement("largest exponent of lr, same runs", max(exponents), 0.8, 1.2),
            Measurement(
                "largest relative spread of the product over hidden widths 1 to 10 x min(m, n)",
                max(spreads),
                0.0,
                1e-10,
            ),
        ),
        table=columns(("panel", "depth", "x", "error"), rows),
        notes=(
            "From an unbalanced start the error grows with the imbalance, with exponents "
            + ", ".join(f"{value:.2f}" for value in unbalanced)
            + " at N = 2, 3, 4, 8: the theorem needs balance.",
        ),
    )
