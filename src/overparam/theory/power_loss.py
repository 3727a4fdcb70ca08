"""The L_p loss of regression: one formula, whatever its normalization."""

from __future__ import annotations

from torch import Tensor

from overparam.theory.losses import GradientOf


def power_loss(
    prediction: Tensor, targets: Tensor, power: float | Tensor, scale: float = 1.0
) -> Tensor:
    """The loss ``scale/p sum_i |z_i - y_i|^p``, summed over the last dimension.

    ``scale`` is 1 in section 7 of Arora, Cohen, Hazan (2018), ``1/B`` for the mean over B examples
    of section 8, and ``p/B`` where the factor ``1/p`` is left out. Source: their section 3.

    Args:
        prediction: ``z``, ``(..., B)``.
        targets: ``y``, broadcasts with it.
        power: ``p >= 1``, a number or a tensor that broadcasts with both.
        scale: the normalization.

    Returns:
        The loss, ``(...)``.

    Example:
        >>> import torch
        >>> power_loss(torch.zeros(2), torch.tensor([2.0, 1.0]), 4)
        tensor(4.2500)
    """
    return (scale / power * (prediction - targets).abs() ** power).sum(-1)


def power_gradient(
    prediction: Tensor, targets: Tensor, power: float | Tensor, scale: float = 1.0
) -> Tensor:
    """Gradient of :func:`power_loss` in the prediction, ``scale sign(z - y) |z - y|^(p-1)``.

    With one orthonormal example per coordinate the prediction is the weight itself. Source:
    Arora, Cohen, Hazan (2018), section 7.

    Args:
        prediction: ``z``, ``(..., B)``.
        targets: ``y``, broadcasts with it.
        power: ``p >= 1``, a number or a tensor that broadcasts with both.
        scale: the normalization.

    Returns:
        The gradient, ``(..., B)``.

    Example:
        >>> import torch
        >>> power_gradient(torch.zeros(2), torch.tensor([2.0, 1.0]), 4)
        tensor([-8., -1.])
    """
    residual = prediction - targets
    slope = residual.sign() * residual.abs() ** (power - 1)
    return slope if scale == 1 else scale * slope


def power_loss_gradient(
    features: Tensor, targets: Tensor, power: float, scale: float | None = None
) -> GradientOf:
    """Gradient of :func:`power_loss` at ``z = X w`` in the weight: ``X^T dL/dz``.

    Source: Arora, Cohen, Hazan (2018), section 8. Costs ``4 B d`` flops per weight.

    Args:
        features: ``X``, ``(B, d)``.
        targets: ``y``, ``(B,)``.
        power: ``p >= 1``.
        scale: the normalization; by default ``1/B``, the mean over examples.

    Returns:
        The gradient as a function of the weight, ``(..., d) -> (..., d)``.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> import torch
        >>> power_loss_gradient(torch.eye(2), torch.ones(2), 4.0)(torch.zeros(2))
        tensor([-0.5000, -0.5000])
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)} and targets {tuple(targets.shape)} do not fit; pass "
            "(rows, d) and (rows,), for example targets.flatten()."
        )
    scale = 1 / len(targets) if scale is None else scale

    def gradient_of(weight: Tensor) -> Tensor:
        return power_gradient(weight @ features.mT, targets, power, scale) @ features

    return gradient_of
