"""Claims 1 and 2: the end-to-end rule as a preconditioner that stretches large directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.reference import (
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck, largest


class SingleOutputParts(NamedTuple):
    """The end-to-end step of a vector, taken apart: ``D = size * (stretch * along + across)``.

    Attributes:
        size: ``|w|^(2 - 2/N)``, the adaptive step size, ``(..., 1)``.
        stretch: ``N``, by which the part along w is longer.
        along: the part of the gradient along w, ``(..., d)``.
        across: the rest of it, ``(..., d)``.
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

    where vec stacks columns and ``0^0 = 1``. Source: Arora, Cohen, Hazan (2018), Claim 1. Powers
    are taken of singular values, never of the eigenvalues of a Gram matrix. Exact zeros are
    expected where the rank is deficient. Memory ``(m n)^2``.

    Args:
        weight: ``W``, ``(m, n)``.
        depth: ``N``, an integer of at least 1.

    Returns:
        ``(m n, m n)``, symmetric and positive semidefinite.

    Raises:
        ValueError: weight is no single matrix, or depth no integer of at least 1.

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
    """Take the step of a single output apart into adaptive size, stretched and plain parts.

    ``D(w, g) = |w|^(2 - 2/N) (N g_along + g_across)``. Source: Arora, Cohen, Hazan (2018),
    Claim 2.

    Args:
        weight: ``w``, ``(..., d)``, not zero.
        gradient: ``g``, ``(..., d)``.
        depth: ``N >= 1``, a real number.

    Returns:
        The parts.

    Raises:
        ValueError: a weight is zero, where there is no direction to stretch along.

    Example:
        >>> import torch
        >>> parts = single_output_parts(torch.tensor([4.0, 0.0]), torch.tensor([1.0, 1.0]), 2)
        >>> parts.size * (parts.stretch * parts.along + parts.across)
        tensor([8., 4.])
    """
    length = weight.norm(dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        raise ValueError("weight is zero; it has no direction along which to stretch a gradient.")
    unit = weight / length
    along = (unit * gradient).sum(-1, keepdim=True) * unit
    return SingleOutputParts(length ** (2 - 2 / depth), depth, along, gradient - along)


def check() -> TheoryCheck:
    """Compare spectrum and rule with the explicit matrix, and the single output with its parts.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(3)
    residuals, gaps, updates, parts_gap = [], [], [], []
    for m, n in ((2, 3), (4, 3), (3, 3)):
        weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
        gradient = torch.randn(m, n, generator=generator, dtype=torch.float64)
        for depth in (1, 2, 3, 5):
            matrix = preconditioner_matrix(weight, depth)
            size = torch.linalg.matrix_norm(matrix, 2)
            spectrum = preconditioner_spectrum(weight, depth)
            # Row c m + r holds vec(u_r v_c^T), as vec stacks columns.
            vectors = torch.kron(spectrum.right.mT.contiguous(), spectrum.left.mT.contiguous())
            values = spectrum.eigenvalues.mT.flatten()
            residual = vectors @ matrix - values[:, None] * vectors
            residuals.append((residual.abs().max() / size).item())
            gap = torch.linalg.eigvalsh(matrix) - values.sort().values
            gaps.append((gap.abs().max() / size).item())
            stacked = (matrix @ gradient.mT.flatten()).reshape(n, m).mT
            update = end_to_end_update(weight, gradient, depth)
            updates.append(((update - stacked).norm() / stacked.norm()).item())
    for depth in (1.0, 1.5, 2.0, 4.0):
        weight, gradient = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        parts = single_output_parts(weight, gradient, depth)
        update = single_output_update(weight, gradient, depth)
        rebuilt = parts.size * (parts.stretch * parts.along + parts.across)
        parts_gap.append(((update - rebuilt).norm() / rebuilt.norm()).item())
    return TheoryCheck(
        name="preconditioner",
        statement=(
            "The rule is a positive semidefinite preconditioner with eigenvectors u_r v_c^T; for "
            "one output it is an adaptive step size times a stretch along w."
        ),
        source="Arora, Cohen, Hazan (2018), Claims 1 and 2",
        measurements=(
            Measurement(
                "largest residual of an eigenpair in the Kronecker matrix, over its norm",
                largest(residuals),
                0.0,
                1e-12,
            ),
            Measurement(
                "largest difference from its eigenvalues, over its norm", largest(gaps), 0.0, 1e-12
            ),
            Measurement(
                "largest relative difference of the rule from matrix times vec(G)",
                largest(updates),
                0.0,
                1e-12,
            ),
            Measurement(
                "largest relative difference of the single-output rule from step size times "
                "stretch",
                largest(parts_gap),
                0.0,
                1e-12,
            ),
        ),
        table=columns(("depth", "angle", "x", "y"), _stretched_circle()),
    )


def _stretched_circle() -> list[Row]:
    """All gradients of length 1 after the rule, for a w of length 1 at 35 degrees."""
    weight = torch.tensor([math.cos(math.radians(35)), math.sin(math.radians(35))])
    angles = torch.linspace(0, 2 * math.pi, 97)
    circle = torch.stack((angles.cos(), angles.sin()), dim=-1)
    rows: list[Row] = []
    for depth in (1, 2, 3, 4):
        points = single_output_update(weight.expand_as(circle), circle, depth).tolist()
        rows += [(depth, a, x, y) for a, (x, y) in zip(angles.tolist(), points, strict=True)]
    return rows
