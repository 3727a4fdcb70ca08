"""Independent ground truths for the rule: written from the paper's formula, not from the code."""

import math
from typing import Any

import mpmath
import torch
from torch import Tensor

DIGITS = 50


def sum_over_factors(weight: Tensor, gradient: Tensor, depth: int, rank: int) -> Tensor:
    """Theorem 1 term by term in float64, with the rank given and never guessed.

    Both bases are completed, so that [W W^T]^0 and [W^T W]^0 are identities; the Gram matrices
    are never formed.
    """
    left, singular, right = torch.linalg.svd(weight.double(), full_matrices=True)
    singular = torch.cat((singular[:rank], singular.new_zeros(len(singular) - rank)))
    m, n = weight.shape
    rows = torch.nn.functional.pad(singular, (0, m - len(singular)))
    columns = torch.nn.functional.pad(singular, (0, n - len(singular)))
    rotated = left.mT @ gradient.double() @ right.mT
    total = torch.zeros_like(rotated)
    for j in range(1, depth + 1):
        left_power = rows ** (2 * (j - 1) / depth)
        right_power = columns ** (2 * (depth - j) / depth)
        total += left_power[:, None] * rotated * right_power[None, :]
    return left @ total @ right


def spectral_rule(weight: Tensor, gradient: Tensor, depth: float, rank: int) -> Tensor:
    """The rule of any real depth in float64 singular bases, with the rank given.

    The eigenvalues come from :func:`kernel`, in 50 digits, where their quotient of differences
    is harmless at any gap.
    """
    left, singular, right = torch.linalg.svd(weight.double(), full_matrices=True)
    m, n = weight.shape
    values = [*singular[:rank].tolist(), *[0.0] * (max(m, n) - rank)]
    table = [[float(kernel(values[i], values[k], depth)) for k in range(n)] for i in range(m)]
    eigenvalues = torch.tensor(table, dtype=torch.float64)
    return left @ (eigenvalues * (left.mT @ gradient.double() @ right.mT)) @ right


def kernel(first: Any, second: Any, depth: float) -> Any:
    """``(s^2 - t^2) / (s^(2/N) - t^(2/N))`` and its limits, over N at infinity, in 50 digits."""
    with mpmath.workdps(DIGITS):
        s, t = mpmath.mpf(first), mpmath.mpf(second)
        if depth == 1:
            return mpmath.mpf(1)
        if s == t:
            return s**2 if math.isinf(depth) else depth * s ** (2 - 2 / mpmath.mpf(depth))
        if not math.isinf(depth):
            exponent = 2 / mpmath.mpf(depth)
            return (s**2 - t**2) / (s**exponent - t**exponent)
        return mpmath.mpf(0) if s * t == 0 else (s**2 - t**2) / (2 * mpmath.log(s / t))


def exact_rule(weight: Any, gradient: Any, depth: float) -> Any:
    """The rule with everything in 50 digits, for small wide or square matrices of full rank."""
    with mpmath.workdps(DIGITS):
        left, singular, right = mpmath.svd_r(weight, full_matrices=True)
        values = [*singular, *[mpmath.mpf(0)] * (weight.cols - weight.rows)]
        rotated = left.T * gradient * right.T
        for i in range(weight.rows):
            for k in range(weight.cols):
                rotated[i, k] *= kernel(values[i], values[k], depth)
        return left * rotated * right


def exact_slope(
    weight: Tensor, gradient: Tensor, depth: float, upper: Tensor, along: Tensor
) -> float:
    """Directional derivative of ``<upper, D(W, G)>`` in W: a central difference in 50 digits."""
    with mpmath.workdps(DIGITS):
        w, g, h, e = (mpmath.matrix(t.tolist()) for t in (weight, gradient, upper, along))
        step = mpmath.mpf(10) ** -15
        change = exact_rule(w + step * e, g, depth) - exact_rule(w - step * e, g, depth)
        return float(sum(a * b for a, b in zip(h, change, strict=True)) / (2 * step))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest relative error in the Frobenius norm over the matrices of a batch; 0/0 is 0."""
    difference = torch.linalg.matrix_norm(actual.double() - expected.double())
    size = torch.linalg.matrix_norm(expected.double())
    return float(torch.where(difference == 0, 0.0, difference / size).detach().max())
