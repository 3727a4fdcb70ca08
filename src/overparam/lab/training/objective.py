"""Linear regression with a p-th power loss, for many weights at once.

``L(W) = (1/B) sum_b sum_o |w_o x_b - y_bo|^p`` for features ``(B, n)``, targets ``(B, m)`` and
weights ``(runs, m, n)``. Full batch; the paper's sections 3 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of one block: bounds the memory of the residuals, 2 MiB for 64 runs in float64. Smaller
# blocks, which fit in the second-level cache, were measured and are not faster.
BLOCK_ROWS = 4096


# The formula is that of overparam.theory.power_loss with scale = p/B. The methods compute it in
# place, block by block, because they are the inner loop of training; test_objective.py compares
# them with it.
class PowerLoss:
    """The loss and its gradient for a batch of weights, blocked over rows of the data.

    The gradient costs ``4 B n m`` flops per run, in two matrix products per block; it uses the
    dtype given. For p = 2 and more rows than features it is ``(2/B) (W X^T X - Y^T X)``, which
    costs ``2 n^2 m``, with both Gram matrices formed once in float64. By default, losses are
    computed from residuals in float64, so that the curve of a run in float32 shows the error of
    training, not of measuring.

    Args:
        features: ``X``, ``(B, n)``, float64.
        targets: ``Y``, ``(B, m)``, float64.
        power: ``p``, a real number of at least 1.
        dtype: dtype of weights and gradients.
        device: device of the weights; by default that of the features.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        power: float,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        features, targets = features.to(device), targets.to(device)
        self.power, self.device = power, features.device
        self.rows, self.inputs = features.shape
        self.outputs = targets.shape[1]
        self._gram = self._cross = None
        if power == 2 and self.rows > self.inputs:
            self._gram = (2 / self.rows * (features.mT @ features)).to(dtype)
            self._cross = (2 / self.rows * (targets.mT @ features)).to(dtype)
        self._exact = _Blocks(features, targets)
        self._fast = self._exact if dtype == torch.float64 else _Blocks(features, targets, dtype)

    def gradient(self, weights: Tensor) -> Tensor:
        """``dL/dW = (p/B) sum_b sign(e) |e|^(p-1) x_b^T`` for each run.

        Args:
            weights: ``(runs, m, n)``.

        Returns:
            The gradients, ``(runs, m, n)``.
        """
        if self._gram is not None and self._cross is not None:
            return torch.matmul(weights, self._gram).sub_(self._cross)
        flat = weights.reshape(-1, self.inputs)
        total = torch.zeros_like(flat)
        scale = self.power / self.rows
        for features, residual in self._fast.residuals(flat):
            total.addmm_(signed_power_(residual, self.power - 1), features, alpha=scale)
        return total.view_as(weights)

    def loss(self, weights: Tensor, *, exact: bool = True) -> Tensor:
        """``L(W)`` for each run, ``(runs,)``.

        Args:
            weights: ``(runs, m, n)``.
            exact: True for float64; False for the dtype of the gradients, which is faster, for
                methods that need the loss at every step.
        """
        blocks = self._exact if exact else self._fast
        flat = (weights.double() if exact else weights).reshape(-1, self.inputs)
        total = flat.new_zeros(flat.shape[0])
        for _, residual in blocks.residuals(flat):
            slopes = signed_power_(residual.clone(), self.power - 1)
            total += residual.mul_(slopes).sum(dim=1)
        return total.view(-1, self.outputs).sum(dim=1) / self.rows


class _Blocks:
    """The data, transposed and cut into blocks of rows that fit the cache.

    The targets of a block are stored below its features, so that one matrix product with the
    weights ``[W, -1]`` gives the residuals.
    """

    def __init__(
        self, features: Tensor, targets: Tensor, dtype: torch.dtype = torch.float64
    ) -> None:
        self.inputs, self.outputs = features.shape[1], targets.shape[1]
        stacked = torch.cat((features, targets), dim=1).to(dtype)
        # The faster memory order for both products: by rows in float64 (10 % faster), by columns in
        # float32 (6 % faster).
        self._by_columns = dtype == torch.float32
        blocks = [block.mT for block in stacked.split(BLOCK_ROWS)]
        self._blocks = blocks if self._by_columns else [block.contiguous() for block in blocks]
        self._features = [block[: self.inputs].mT for block in self._blocks]
        self._extended = stacked.new_empty(0, 0)
        self._residuals: list[Tensor] = []

    def residuals(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block of features ``(b, n)`` with the residuals ``(runs*m, b)``.

        The next block overwrites the residuals.
        """
        if self._extended.shape[0] != flat.shape[0]:
            self._allocate(flat)
        self._extended[:, : self.inputs] = flat
        for block, features, residual in zip(
            self._blocks, self._features, self._residuals, strict=True
        ):
            yield features, torch.mm(self._extended, block, out=residual)

    def _allocate(self, flat: Tensor) -> None:
        # Buffers and views for this number of runs, which changes only when a run diverges.
        runs = flat.shape[0]
        signs = -torch.eye(self.outputs).repeat(runs // self.outputs, 1).to(flat)
        self._extended = torch.cat((flat, signs), dim=1)
        buffer = flat.new_empty(runs * self._blocks[0].shape[1])
        sizes = [block.shape[1] for block in self._blocks]
        self._residuals = [
            buffer[: runs * size].view(size, runs).mT
            if self._by_columns
            else buffer[: runs * size].view(runs, size)
            for size in sizes
        ]


def signed_power_(error: Tensor, exponent: float) -> Tensor:
    """Replace ``e`` by ``sign(e) |e|^q`` in place.

    Odd whole ``q`` are computed without logarithms: ``q = 3``, for example, is two multiplications.

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
