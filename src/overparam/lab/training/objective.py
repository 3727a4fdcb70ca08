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
# Numbers of runs whose buffers are kept.
_MOST_SPACES = 3


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

    def gradient(self, weights: Tensor, out: Tensor | None = None) -> Tensor:
        """``dL/dW = (p/B) sum_b sign(e) |e|^(p-1) x_b^T`` for each run.

        Args:
            weights: ``(runs, m, n)``.
            out: where to write the gradients, contiguous; by default a new tensor.

        Returns:
            The gradients, ``(runs, m, n)``.
        """
        out = torch.empty_like(weights) if out is None else out
        flat, total = weights.reshape(-1, self.inputs), out.view(-1, self.inputs)
        if self._gram is not None and self._cross is not None:
            torch.mm(flat, self._gram, out=total)
            return out.sub_(self._cross)
        scale, beta = self.power / self.rows, 0
        for features, residual, scratch in self._fast.residuals(flat):
            slopes = signed_power_(residual, self.power - 1, scratch)
            total.addmm_(slopes, features, alpha=scale, beta=beta)
            beta = 1
        return out

    def buffers(self) -> list[Tensor]:
        """The tensors that :meth:`gradient` writes to; a captured graph must keep them alive."""
        blocks = (self._fast, self._exact)
        return [tensor for each in blocks for space in each.spaces.values() for tensor in space]

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
        for _, residual, scratch in blocks.residuals(flat):
            slopes = signed_power_(residual.clone(), self.power - 1, scratch)
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
        self._longest = blocks[0].shape[1]
        self._blocks = blocks if self._by_columns else [block.contiguous() for block in blocks]
        self._features = [block[: self.inputs].mT for block in self._blocks]
        # By number of runs: [W, -1], residuals, and scratch of their size.
        self.spaces: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def residuals(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield each block of features ``(b, n)`` with its residuals ``(runs*m, b)``.

        The third tensor is scratch of the shape of the residuals. The next block overwrites both.
        """
        extended, *buffers = self.spaces.get(flat.shape[0]) or self._allocate(flat)
        extended[:, : self.inputs] = flat
        for block, features in zip(self._blocks, self._features, strict=True):
            residual, scratch = (self._part(each, block.shape[1]) for each in buffers)
            yield features, torch.mm(extended, block, out=residual), scratch

    def _part(self, buffer: Tensor, size: int) -> Tensor:
        """The start of a buffer as ``(runs*m, size)``."""
        if self._by_columns:
            return buffer[: buffer.shape[0] // self._longest * size].view(size, -1).mT
        return buffer[: buffer.shape[0] // self._longest * size].view(-1, size)

    def _allocate(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The number of runs changes only when runs diverge, and between methods that ask for the
        # loss of a part of them.
        while len(self.spaces) >= _MOST_SPACES:
            del self.spaces[next(iter(self.spaces))]
        runs = flat.shape[0]
        signs = -torch.eye(self.outputs).repeat(runs // self.outputs, 1).to(flat)
        extended = torch.cat((flat, signs), dim=1)
        residual, scratch = (flat.new_empty(runs * self._longest) for _ in range(2))
        return self.spaces.setdefault(runs, (extended, residual, scratch))


def signed_power_(error: Tensor, exponent: float, scratch: Tensor | None = None) -> Tensor:
    """Replace ``e`` by ``sign(e) |e|^q`` in place.

    Odd whole ``q`` are computed without logarithms: ``q = 3``, for example, is two multiplications.

    Args:
        error: ``e``, overwritten.
        exponent: ``q >= 0``.
        scratch: of the same shape, overwritten; by default a new tensor, which for large errors
            costs more than the arithmetic.

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
    scratch = torch.empty_like(error) if scratch is None else scratch
    if exponent % 2 == 1:
        return error.mul_(torch.mul(error, error, out=scratch).pow_((exponent - 1) // 2))
    size = torch.abs(error, out=scratch).pow_(exponent)
    return error.sign_().mul_(size)
