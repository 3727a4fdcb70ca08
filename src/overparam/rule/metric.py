"""Steps of one length in the metric of depth."""

from __future__ import annotations

import torch
from torch import Tensor


def metric_normalized(update: Tensor, gradient: Tensor, dims: int = 2) -> Tensor:
    r"""An update divided by its length in the metric that it comes from: ``D / sqrt(<G, D>)``.

    .. math::
        \frac{P \, G}{\sqrt{\langle G, P \, G \rangle}}, \qquad D = P \, G,

    the steepest direction among those of length 1 in the metric ``P^{-1}``: the normalized
    gradient, as depth sees it. For ``P = 1`` it is ``G / |G|``. Scale-free in G; of degree
    ``1 - 1/N`` in W for the end-to-end rule of depth N. Source: steepest descent in a quadratic
    norm, Boyd and Vandenberghe (2004), 'Convex optimization', section 9.4.1; P is that of Arora,
    Cohen, Hazan (2018), Claim 1.

    Args:
        update: ``D``, with ``<G, D> >= 0``, such as :func:`overparam.end_to_end_update` gives.
        gradient: ``G``, of the same shape.
        dims: trailing dimensions of one step: 2 for a matrix, 1 for a row, all for a tensor.

    Returns:
        The normalized update; zero where ``<G, D>`` is zero or negative.

    Example:
        >>> import torch
        >>> metric_normalized(torch.tensor([[8.0, 0.0]]), torch.tensor([[2.0, 1.0]]))
        tensor([[2., 0.]])
    """
    axes = tuple(range(-dims, 0))
    # Scaled first, so that products of small or large entries stay in range.
    by, size = (
        tensor.abs().amax(axes, keepdim=True).clamp_min(torch.finfo(tensor.dtype).tiny)
        for tensor in (gradient, update)
    )
    scaled = update / size
    inner = (gradient / by * scaled).sum(axes, keepdim=True)
    length = inner.clamp_min(0).sqrt() * (by.sqrt() / size.sqrt())
    # One factor for each step: a pass over all entries is saved.
    return scaled * torch.where(inner > 0, 1 / torch.where(inner > 0, length, 1.0), 0.0)
