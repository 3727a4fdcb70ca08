"""Linear regression with a p-th power loss, for many weights at once.

``L(W) = (1/B) sum_b sum_o |w_o x_b - y_bo|^p`` for features ``(B, n)``, targets ``(B, m)`` and
weights ``(runs, m, n)``. Full batch; the paper's section 3 and 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of one block: residuals of 64 runs (96 KiB in float64) and the block of features (192 KiB)
# stay in the second-level cache between the two matrix products that read them.
_BLOCK_ROWS = 192


class PowerLoss:
    """The loss and its gradient for a batch of weights, blocked over rows of the data.

    The gradient costs ``4 B n m`` flops per run, in two matrix products per block; it uses the
    dtype given. Losses are always computed in float64, so that a curve measured in float32 shows
    the error of training and not that of measuring.

    Args:
        features: ``X``, ``(B, n)``, float64.
        targets: ``Y``, ``(B, m)``, float64.
        power: ``p``, a real number of at least 1... see :func:`signed_power_`.
        dtype: of weights and gradients.
    """

    def __init__(
        self, features: Tensor, targets: Tensor, power: float, dtype: torch.dtype = torch.float64
    ) -> None:
        self.power = power
        self.rows, self.inputs = features.shape
        self.outputs = targets.shape[1]
        self._exact = _Blocks(features, targets)
        self._fast = self._exact if dtype == torch.float64 else _Blocks(features, targets, dtype)

    def gradient(self, weights: Tensor) -> Tensor:
        """``dL/dW = (p/B) sum_b sign(e) |e|^(p-1) x_b^T`` for each run.

        Args:
            weights: ``(runs, m, n)``.

        Returns:
            The gradients, ``(runs, m, n)``.
        """
        flat = weights.reshape(-1, self.inputs)
        total = torch.zeros_like(flat)
        for features, residual in self._fast.residuals(flat):
            signed_power_(residual, self.power - 1)
            total.addmm_(residual, features.mT)
        return total.mul_(self.power / self.rows).view_as(weights)

    def loss(self, weights: Tensor) -> Tensor:
        """``L(W)`` for each run, ``(runs,)``, in float64."""
        flat = weights.double().reshape(-1, self.inputs)
        total = flat.new_zeros(flat.shape[0])
        for _, residual in self._exact.residuals(flat):
            total += residual.abs_().pow_(self.power).sum(dim=1)
        return total.view(-1, self.outputs).sum(dim=1) / self.rows


class _Blocks:
    """The data, transposed and cut into blocks of rows that fit the cache."""

    def __init__(
        self, features: Tensor, targets: Tensor, dtype: torch.dtype = torch.float64
    ) -> None:
        pairs = zip(features.split(_BLOCK_ROWS), targets.split(_BLOCK_ROWS), strict=True)
        self._blocks = [
            (rows.to(dtype).mT.contiguous(), labels.to(dtype).mT.contiguous())
            for rows, labels in pairs
        ]
        self._scratch = torch.empty(0, dtype=dtype, device=features.device)

    def residuals(self, flat: Tensor):
        """Yield each block of features ``(n, b)`` with the residuals ``(runs*m, b)``.

        The residuals live in one buffer that the next block overwrites.
        """
        outputs = self._blocks[0][1].shape[0]
        wanted = flat.shape[0] * self._blocks[0][0].shape[1]
        if self._scratch.numel() < wanted:
            self._scratch = self._scratch.new_empty(wanted)
        for features, labels in self._blocks:
            shape = (flat.shape[0], features.shape[1])
            residual = self._scratch[: shape[0] * shape[1]].view(shape)
            torch.mm(flat, features, out=residual)
            residual.view(-1, outputs, shape[1]).sub_(labels)
            yield features, residual


def signed_power_(error: Tensor, exponent: float) -> Tensor:
    """Replace ``e`` by ``sign(e) |e|^q`` in place.

    Odd ``q`` needs no logarithms: ``q = 1`` is the identity and ``q = 3`` two multiplications.

    Args:
        error: ``e``, overwritten.
        exponent: ``q >= 0``.

    Returns:
        ``error``.

    Example:
        >>> signed_power_(torch.tensor([-2.0, 3.0]), 1.5).round(decimals=3)
        tensor([-2.8280,  5.1960])
    """
    if exponent == 1:
        return error
    if exponent == 3:
        return torch.pow(error, 3, out=error)
    if exponent % 2 == 1:
        return error.mul_((error * error).pow_((exponent - 1) // 2))
    return error.copy_(error.sign() * error.abs().pow_(exponent))
