"""Claims 1 and 2: the end-to-end rule as a preconditioner that stretches large directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SingleOutputParts(NamedTuple):
    """The parts of the end-to-end step of a vector: ``D = size * (stretch * along + across)``.

    Attributes:
        size: ``|w|^(2 - 2/N)``, the adaptive step size, ``(..., 1)``.
        stretch: ``N``, the factor on the part along w.
        along: the part of the gradient along w, ``(..., d)``.
        across: the rest of the gradient, ``(..., d)``.
    """

    size: Tensor
    stretch: float
    along: Tensor
    across: Tensor


def preconditioner_matrix(weight: Tensor, depth: int) -> Tensor:
    r"""The preconditioner as an explicit matrix, for small weights.

    .. math::
        P_W = \sum_{j=1}^{N} [W^T W]^{(N-j)/N} \otimes [W W^T]^{(j-1)/N}, \qquad
        vec(D(W, G)) = P_W \, vec(G),

    where vec stacks columns and ``0^0 = 1``. Source: Arora, Cohen, Hazan (2018), Claim 1. It takes
    powers of singular values, never of the eigenvalues of a Gram matrix, so the null directions
    of a weight of low rank should be exact zeros. Memory ``(m n)^2``.

    Args:
        weight: ``W``, ``(m, n)``.
        depth: ``N``, an integer of at least 1.

    Returns:
        ``(m n, m n)``, symmetric and positive semidefinite.

    Raises:
        ValueError: weight is not a single matrix, or depth is not an integer of at least 1.

    Example:
        >>> import torch
        >>> preconditioner_matrix(torch.diag(torch.tensor([4.0, 1.0])), depth=2).diag()
        tensor([8., 5., 5., 2.])
    """
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; pass one matrix (m, n).")
    if depth != int(depth) or depth < 1:
        raise ValueError(
            f"depth is {depth!r}; the sum needs an integer >= 1. For real depth use "
            "overparam.preconditioner_spectrum."
        )
    m, n = weight.shape
    left, singular, right = torch.linalg.svd(weight, full_matrices=True)
    rows = torch.nn.functional.pad(singular, (0, m - len(singular)))
    cols = torch.nn.functional.pad(singular, (0, n - len(singular)))
    total = weight.new_zeros(m * n, m * n)
    for j in range(1, int(depth) + 1):
        inner = right.mT * cols ** (2 * (depth - j) / depth) @ right
        outer = left * rows ** (2 * (j - 1) / depth) @ left.mT
        total += torch.kron(inner, outer)
    return total


def single_output_parts(weight: Tensor, gradient: Tensor, depth: float) -> SingleOutputParts:
    """Split the step of a single output into its size, the part along w and the part across it.

    ``D(w, g) = |w|^(2 - 2/N) (N g_along + g_across)``. Source: Arora, Cohen, Hazan (2018),
    Claim 2.

    Args:
        weight: ``w``, ``(..., d)``, not zero.
        gradient: ``g``, ``(..., d)``.
        depth: ``N >= 1``, a real number.

    Returns:
        The parts.

    Raises:
        ValueError: a weight is zero, so it has no direction to stretch along.

    Example:
        >>> import torch
        >>> parts = single_output_parts(torch.tensor([4.0, 0.0]), torch.tensor([1.0, 1.0]), 2)
        >>> parts.size * (parts.stretch * parts.along + parts.across)
        tensor([8., 4.])
    """
    length = weight.norm(dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        raise ValueError("a weight is zero, so it has no direction to stretch along.")
    unit = weight / length
    along = (unit * gradient).sum(-1, keepdim=True) * unit
    return SingleOutputParts(length ** (2 - 2 / depth), depth, along, gradient - along)
