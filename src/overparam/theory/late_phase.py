"""How much depth speeds up the last phase of training: condition numbers at the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from overparam._finite import is_finite
from overparam.rule.reference import PreconditionerSpectrum, preconditioner_spectrum
from overparam.rule.unbalanced import Imbalance

Loss = Callable[[Tensor], Tensor]
"""Maps a weight to a scalar."""

# Weights with at most this many entries get their Hessian as a matrix.
_DENSE = 1024


class LatePhase(NamedTuple):
    """What decides the best speed near a non-degenerate optimum.

    Attributes:
        plain: ``cond(H)``, of gradient descent.
        with_depth: ``cond(P^(1/2) H P^(1/2))``, of the end-to-end rule; infinite where P is
            singular, as it is at a rank-deficient optimum without imbalance.
        speedup: iterations of gradient descent over those of the rule, for the same late
            progress, each at its best constant learning rate.
    """

    plain: float
    with_depth: float
    speedup: float


@torch.inference_mode(False)  # with gradients, wherever it is called
def predict_speedup(
    hessian: Tensor | Loss,
    optimum: Tensor,
    depth: float,
    *,
    imbalance: Imbalance = 0.0,
    steps: int = 500,
) -> LatePhase:
    r"""The factor by which depth speeds up gradient descent near a non-degenerate optimum.

    .. math::
        \text{speedup} = \ln\frac{\kappa_d - 1}{\kappa_d + 1} \Big/
            \ln\frac{\kappa - 1}{\kappa + 1}, \qquad
        \kappa = \mathrm{cond}(H), \quad \kappa_d = \mathrm{cond}(P^{1/2} H P^{1/2}),

    H the Hessian and P the preconditioner of the rule, both at the optimum: near it the rule
    contracts the error by ``1 - lr P H``, and at the best learning rate
    ``2 / (l_min + l_max)`` the largest factor is ``(cond - 1) / (cond + 1)``. Source: Polyak (1963)
    for descent on a quadratic; P is that of Arora, Cohen, Hazan (2018), Claim 1.

    A Hessian given as a matrix, and that of a loss with up to 1024 entries, is used exactly. For
    larger weights Lanczos' method takes products with the Hessian by autograd, with all vectors
    kept orthogonal: memory ``steps`` times that of the weight.

    Args:
        hessian: ``H (m n, m n)``, for entries of the weight row by row; or the loss, twice
            differentiable by autograd, of a weight in float64.
        optimum: the weight ``(m, n)`` of least loss; a vector ``(d,)`` counts as one row.
        depth: ``N >= 1``, a real number.
        imbalance: as in :func:`overparam.end_to_end_update`.
        steps: at most so many steps of Lanczos' method.

    Returns:
        Both condition numbers and the predicted speedup, above 1 where depth is faster.

    Raises:
        ValueError: shapes do not fit, or the Hessian is not positive definite.
        TypeError: the loss cannot take a weight in float64.
        RuntimeError: Lanczos' method did not converge in that many steps.

    Example:
        >>> import torch
        >>> hessian = torch.diag(torch.tensor([1.0, 100.0]))
        >>> predict_speedup(hessian, torch.tensor([10.0, 0.1]), depth=2).with_depth < 60
        True
    """
    point = optimum.detach().double()
    if point.ndim not in (1, 2) or point.numel() == 0:
        raise ValueError(
            f"optimum has shape {tuple(point.shape)}; pass a matrix or a vector that has entries."
        )
    if not isinstance(hessian, Tensor):
        _check_loss(hessian, point)
    matrix = point[None] if point.ndim < 2 else point
    spectrum = preconditioner_spectrum(matrix, depth, imbalance=imbalance)
    if isinstance(hessian, Tensor):
        size = matrix.numel()
        if hessian.shape != (size, size):
            raise ValueError(
                f"hessian has shape {tuple(hessian.shape)}; for a weight of {size} entries pass a "
                f"matrix ({size}, {size}), entries row by row, or the loss itself."
            )
        plain, deep = _conditions(hessian.double(), spectrum)
    elif matrix.numel() <= _DENSE:
        dense = torch.autograd.functional.hessian(hessian, point)
        assert isinstance(dense, Tensor)
        plain, deep = _conditions(dense.reshape(matrix.numel(), -1), spectrum)
    else:
        times = _hessian_product(hessian, point)
        plain = _lanczos_condition(times, matrix, steps)
        deep = _lanczos_condition(
            lambda v: _root(spectrum, times(_root(spectrum, v))), matrix, steps
        )
    if not 1 <= plain < math.inf:
        raise ValueError(
            "the Hessian is not positive definite at this weight: it is not a non-degenerate "
            "minimum, and no rate of convergence is predicted."
        )
    speedup = 1.0 if plain == deep else _log_rate(deep) / _log_rate(plain)
    return LatePhase(plain, deep, speedup)


def _check_loss(loss: Loss, point: Tensor) -> None:
    """Refuse a loss whose data are in another dtype than the weight; others fail as they do."""
    try:
        loss(point)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("dtype", "scalar type")):
            raise
        raise TypeError(
            "the loss is called with a weight in float64, and its own tensors are of another "
            f"dtype; make them float64 too, with .double(). ({error})"
        ) from error


def _log_rate(condition: float) -> float:
    """Minus the logarithm of the contraction per step at the best learning rate."""
    return math.inf if condition == 1 else -math.log1p(-2 / (condition + 1))


def _root(spectrum: PreconditionerSpectrum, matrices: Tensor) -> Tensor:
    """``P^(1/2)`` times matrices ``(..., m, n)``."""
    eigenvalues, left, right = spectrum
    return left @ (eigenvalues.sqrt() * (left.mT @ matrices @ right)) @ right.mT


def _conditions(hessian: Tensor, spectrum: PreconditionerSpectrum) -> tuple[float, float]:
    """The two condition numbers, from the matrix."""
    shape, size = spectrum.eigenvalues.shape, len(hessian)
    _check_finite(hessian)
    symmetric = (hessian + hessian.mT) / 2
    half = _root(spectrum, symmetric.reshape(size, *shape)).reshape(size, size)
    both = _root(spectrum, half.mT.reshape(size, *shape)).reshape(size, size)
    return _condition(torch.linalg.eigvalsh(symmetric)), _condition(
        torch.linalg.eigvalsh((both + both.mT) / 2)
    )


def _check_finite(numbers: Tensor) -> None:
    if not is_finite(numbers):
        raise ValueError("the Hessian has entries that are not finite at this weight.")


def _condition(values: Tensor) -> float:
    """Largest over smallest of ascending eigenvalues; infinite where the smallest is round-off.

    Equal up to round-off counts as equal, unless none is positive.
    """
    if values[-1] <= 0:
        return math.inf
    round_off = len(values) * torch.finfo(values.dtype).eps * values[-1]
    if values[-1] - values[0] <= round_off:
        return 1.0
    return (values[-1] / values[0]).item() if values[0] > round_off else math.inf


def _hessian_product(loss: Loss, point: Tensor) -> Callable[[Tensor], Tensor]:
    """Products of the Hessian with a matrix ``(m, n)``, by differentiating the gradient again."""
    point = point.requires_grad_()
    (slope,) = torch.autograd.grad(loss(point), point, create_graph=True)
    if not slope.requires_grad:  # a linear loss
        return torch.zeros_like

    def times(vector: Tensor) -> Tensor:
        product = torch.autograd.grad(slope, point, vector.reshape(point.shape), retain_graph=True)
        return product[0].reshape(vector.shape)

    return times


def _lanczos_condition(times: Callable[[Tensor], Tensor], like: Tensor, steps: int) -> float:
    """The condition number of a symmetric operator on matrices of the shape of ``like``."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)
    basis = [start.flatten() / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(1, min(steps, like.numel()) + 1):
        image = times(basis[-1].view(like.shape)).flatten()
        _check_finite(image)
        diagonal.append(basis[-1] @ image)
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough
            image = image - known.mT @ (known @ image)
        beside.append(image.norm())
        # Nothing is left of the image where all eigenvalues have been met.
        round_off = like.numel() * torch.finfo(image.dtype).eps * torch.stack(diagonal).abs().max()
        complete = step == like.numel() or bool(beside[-1] <= round_off)
        if complete or step % 10 == 0:
            band = torch.stack(beside[:-1]) if step > 1 else image.new_zeros(0)
            ritz = torch.stack(diagonal).diag() + band.diag(1) + band.diag(-1)
            values, vectors = torch.linalg.eigh(ritz)
            ends, misses = values[[0, -1]].abs(), beside[-1] * vectors[-1, [0, -1]].abs()
            if complete or bool((misses <= 1e-4 * ends).all()):
                return _condition(values)
        basis.append(image / beside[-1])
    raise RuntimeError(
        f"Lanczos' method did not find the smallest eigenvalue in {steps} steps: the condition "
        "number is large. Pass a larger steps, or the Hessian as a matrix."
    )
