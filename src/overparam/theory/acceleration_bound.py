"""Appendix B: how much depth 2 raises the learning rate of the small target, at p = 4.

Two orthonormal points with ``y_1 >> y_2 = 1``, a start ``w = (eps_1, eps_2)`` with
``eps_1 / eps_2 = y_1 / y_2`` and ``eps_1 << 1 << eps_1 y_1``. Gradient descent cannot exceed
``2 / y_1^2`` on any coordinate. Depth 2 reaches ``y_1`` in one step, and from then on the second
coordinate moves with the learning rate ``lr |w|``.
"""

from __future__ import annotations


def jump_lr(largest: float, start: float) -> float:
    """Learning rate ``1 / (2 eps_1 y_1^2)``, which takes depth 2 to ``y_1`` in its first step.

    ``|w| ~ eps_1`` and both the gradient and its stretched part are ``y_1^3`` long, so the first
    coordinate moves by ``2 lr eps_1 y_1^3 = y_1``. Source: derived here from Claim 2 of Arora,
    Cohen, Hazan (2018), in the setting of its appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``, the first coordinate at the start.

    Returns:
        The learning rate.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> jump_lr(100.0, 0.05)
        0.001
    """
    _check_positive(largest, start)
    return 1 / (2 * start * largest**2)


def acceleration_bound(largest: float, start: float) -> float:
    """``y_1 / (4 eps_1)``: the learning rate of the second coordinate over gradient descent's.

    ``lr |w| / (2 / y_1^2)`` with the learning rate of :func:`jump_lr` and ``|w| = y_1``.
    Source: Arora, Cohen, Hazan (2018), appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``, the first coordinate at the start.

    Returns:
        The quotient.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> round(acceleration_bound(100.0, 0.05), 6)
        500.0
    """
    _check_positive(largest, start)
    return largest / (4 * start)


def _check_positive(largest: float, start: float) -> None:
    if not (largest > 0 and start > 0):
        raise ValueError(f"largest is {largest!r} and start {start!r}; pass two positive numbers.")
