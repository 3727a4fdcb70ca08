"""The two optimizers for one weight, in a few lines each: read this first.

:class:`overparam.EndToEnd` and :class:`overparam.Factored` do the same for whole models, with
momentum, decay, any inner optimizer, every kind of layer and checkpoints. The tests hold them
against these functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["end_to_end_step", "factored_step"]


def end_to_end_step(weight: Tensor, gradient: Tensor, lr: float, depth: float) -> Tensor:
    """One step of the end-to-end rule: the weight moves as a product of N factors would.

    ``W - lr * sum_j [W W^T]^((j-1)/N) G [W^T W]^((N-j)/N)``. Source: Arora, Cohen, Hazan (2018),
    Theorem 1. In the singular bases of W the sum multiplies entry (i, k) of the gradient by
    ``K_ik = (s_i^2 - s_k^2) / (s_i^(2/N) - s_k^(2/N))``: large directions move faster. With s the
    larger of the two and q their quotient, K is ``s^(2-2/N) (1 - q^2) / (1 - q^(2/N))``.

    Example:
        >>> weight = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
        >>> end_to_end_step(weight, torch.ones(2, 2), lr=0.1, depth=2)
        tensor([[ 3.2000, -0.5000],
                [-0.5000,  0.8000]])
    """
    m, n = weight.shape
    left, s, right = torch.linalg.svd(weight.double())  # full bases: s counts as 0 beyond the rank
    stored = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).eps
    round_off = max(stored, max(m, n) * torch.finfo(s.dtype).eps) * s[0]
    s = torch.where(s > round_off, s, 0.0)
    rows, columns = s.new_zeros(m, 1), s.new_zeros(1, n)
    rows[: len(s), 0] = columns[0, : len(s)] = s
    large, small = torch.maximum(rows, columns), torch.minimum(rows, columns)
    log = (small / large).log()  # one rounding above and below, so that it cancels near q = 1
    quotient = torch.expm1(2 * log) / torch.expm1(2 / depth * log)
    kernel = large ** (2 - 2 / depth) * torch.where(small == large, depth, quotient)
    direction = left @ (kernel * (left.T @ gradient.double() @ right.T)) @ right
    return weight - lr * direction.to(weight.dtype)


def factored_step(factors: list[Tensor], gradient: Tensor, lr: float) -> list[Tensor]:
    """One step of gradient descent on factors ``[W_1, ..., W_N]`` whose product is the weight.

    The loss sees the factors through ``W = W_N ... W_1`` alone, so the gradient of each is
    ``(W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T``: here autograd finds it. Source: Arora, Cohen,
    Hazan (2018), section 4 and the proof of Theorem 1.

    Example:
        >>> factors = [torch.tensor([[2.0]]), torch.tensor([[3.0]])]
        >>> factored_step(factors, torch.tensor([[1.0]]), lr=0.1)
        [tensor([[1.7000]]), tensor([[2.8000]])]
    """
    leaves = [factor.detach().requires_grad_() for factor in factors]
    product = leaves[0]
    for factor in leaves[1:]:
        product = factor @ product
    slopes = torch.autograd.grad(product, leaves, gradient)
    return [factor - lr * slope for factor, slope in zip(factors, slopes, strict=True)]
