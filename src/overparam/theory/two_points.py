"""Section 7: the largest stable learning rates of L_p regression on two orthonormal points."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.rule.reference import single_output_update


def divergence_threshold(largest: float, power: float) -> float:
    """Learning rate ``2 / y^(p-2)`` above which gradient descent from zero diverges.

    Source: Arora, Cohen, Hazan (2018), section 7.

    Args:
        largest: ``y``, the largest target, positive.
        power: ``p >= 2``.

    Returns:
        The threshold.

    Raises:
        ValueError: ``largest`` is not positive, or ``power`` is below 2.

    Example:
        >>> divergence_threshold(2.0, 4.0)
        0.5
    """
    if not largest > 0 or not power >= 2:
        raise ValueError(
            f"largest is {largest!r} and power {power!r}; pass largest > 0 and power >= 2."
        )
    return 2 / largest ** (power - 2)


def curvature(depth: float, targets: Tensor) -> float:
    """Largest eigenvalue of the rule's linear map near the optimum of the p = 2 loss.

    The error of the end-to-end rule contracts by ``1 - lr * eigenvalue`` there, so it is stable
    up to ``lr = 2 / curvature``. Gradient descent's is 1: the points are orthonormal.

    Source: Arora, Cohen, Hazan (2018), Claim 2, at ``w = y``.

    Args:
        depth: ``N``.
        targets: ``y``, ``(d,)``.

    Returns:
        ``N |y|^(2-2/N)``.

    Example:
        >>> import torch
        >>> round(curvature(2, torch.tensor([3.0, 4.0])), 4)
        10.0
    """
    basis = torch.eye(len(targets), dtype=targets.dtype)
    linear = single_output_update(targets.expand_as(basis), basis, depth)
    return torch.linalg.eigvalsh(linear)[-1].item()
