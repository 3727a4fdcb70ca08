r"""The kernel of factors out of balance by multiples of the identity.

Gradient flow on ``W = W_N ... W_1`` conserves ``W_{j+1}^T W_{j+1} - W_j W_j^T``. Where these
differences are ``(l_{j+1} - l_j) I``, the squared singular values of ``W_j`` are ``x_r + l_j`` with
one ``x_r`` for each singular value of W, ``\prod_j (x_r + l_j) = s_r^2``, and the product moves by
the end-to-end rule with the eigenvalues

.. math::
    K_{rs} = \sum_{j=1}^{N} \prod_{i>j} (x_r + l_i) \prod_{i<j} (x_s + l_i).

Only differences of offsets matter: here the smallest is zero. Then ``x = 0`` where ``s = 0``, and
null directions of a rectangular W count as zero singular values: the factor with the smallest
offset is the rectangular one, hidden layers before it have the width of the inputs, those behind it
that of the outputs.

Sources: depth 2 of one output, Kunin et al. (2024), 'Get rich quick: exact solutions reveal how
unbalanced initializations promote rapid feature learning'; conservation, Arora, Cohen, Hazan
(2018), Theorem 1; the kernel follows as the balanced one does. All offsets zero give
``x = s^(2/N)`` and the kernel of that theorem.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

Imbalance = float | Sequence[float]
"""``lam`` for depth 2, or N offsets for depth N."""

Offsets = tuple[float, ...]
"""``l_1, ..., l_N`` with the smallest at zero; empty where all are equal: balance."""

# Newton's method on log(x) starts near log(2) of the solution; random offsets over six orders of
# magnitude reach round-off in five steps of float64 and in four of float32.
_STEPS, _STEPS_NARROW = 6, 4


def check_imbalance(imbalance: Imbalance, depth: float | Tensor) -> Offsets:
    """The offsets that an imbalance means, the smallest at zero; empty for balance.

    Args:
        imbalance: ``lam`` with ``W_2^T W_2 - W_1 W_1^T = lam I`` for depth 2, or the sequence of N
            offsets ``l_j`` with ``W_{j+1}^T W_{j+1} - W_j W_j^T = (l_{j+1} - l_j) I`` for depth N.
        depth: ``N``.

    Raises:
        TypeError: not a number nor a sequence of numbers.
        ValueError: a number that is not finite, an imbalance of a depth that is not a whole
            number, a single number for another depth than 2, or a wrong number of offsets.

    Example:
        >>> check_imbalance(0.5, 2), check_imbalance(-0.5, 2), check_imbalance((1.0, 3.0, 2.0), 3)
        ((0.0, 0.5), (0.5, 0.0), (0.0, 2.0, 1.0))
        >>> check_imbalance(0.0, 2.5), check_imbalance((1.0, 1.0), 2)
        ((), ())
    """
    # Every step comes here, with a float: numbers.Real alone is slow to ask.
    if isinstance(imbalance, (float, numbers.Real)) and not isinstance(imbalance, bool):
        if imbalance == 0:
            return ()
        values = [0.0, float(imbalance)]
        if isinstance(depth, Tensor) or depth != 2:
            raise ValueError(
                f"imbalance is {imbalance!r}, a single number, and depth {depth!r}; a number is "
                "the imbalance of depth 2. For depth N pass N offsets, such as (0.0, 1.0, 1.0) for "
                "depth 3, or imbalance=0."
            )
    elif isinstance(imbalance, Sequence) and not isinstance(imbalance, str):
        for value in imbalance:
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"imbalance holds {value!r}; each offset is a real number.")
        values = [float(value) for value in imbalance]
        if isinstance(depth, Tensor) or depth != len(values):
            raise ValueError(
                f"imbalance lists {len(values)} offset(s) and depth is {depth!r}; depth N takes N "
                "offsets, one for each factor, and a whole number N. Use imbalance=0 for balance."
            )
    else:
        raise TypeError(
            f"imbalance is {imbalance!r}, a {type(imbalance).__name__}; pass a number for depth 2, "
            "a sequence of N offsets for depth N, or 0 for balanced factors."
        )
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"imbalance is {imbalance!r}; offsets are finite numbers.")
    offsets = tuple(value - min(values) for value in values)
    if not all(math.isfinite(value) for value in offsets):
        raise ValueError(f"imbalance is {imbalance!r}; its offsets are too far apart for float64.")
    return offsets if any(offsets) else ()


def excess_squares(singular: Tensor, offsets: Sequence[float | Tensor]) -> Tensor:
    r"""The solution ``x >= 0`` of ``\prod_j (x + l_j) = s^2``.

    Source: derived here from the conservation law of Arora, Cohen, Hazan (2018), Theorem 1; at
    depth 2 and one output, Kunin et al. (2024).

    Depth 2 in closed form without cancellation, ``x = s^2 / (l/2 + sqrt(s^2 + l^2/4))``; other
    depths by Newton's method on ``log(x)``, where the equation is convex and increasing.

    Args:
        singular: ``s >= 0``, ``(..., r, 1)``; float32 costs digits where ``s`` is far from 1.
        offsets: ``l_j >= 0``, the smallest 0: numbers, or tensors ``(..., 1, 1)``.

    Returns:
        ``x``, in the shape of ``singular``, 0 where ``s = 0``.

    Example:
        >>> import torch
        >>> excess_squares(torch.tensor([[2.0], [0.0]]).double(), (0.0, 3.0)).flatten()
        tensor([1., 0.], dtype=torch.float64)
    """
    if len(offsets) == 2:
        half = (offsets[0] + offsets[1]) / 2
        root = torch.hypot(singular, torch.as_tensor(half, dtype=singular.dtype).to(singular))
        return singular * (singular / torch.where(singular == 0, 1.0, half + root))
    zero = singular == 0
    square = 2 * torch.where(zero, 1.0, singular).log()
    shifts = [torch.zeros_like(singular[..., :1, :]) + offset for offset in offsets]
    larger = torch.stack(shifts, -1).sort(-1, descending=True).values.unbind(-1)[:-1]
    # Each bound leaves out l of the k smallest offsets and x of the others.
    log, behind = square / len(offsets), 0.0
    for count, shift in zip(range(len(offsets) - 1, 0, -1), larger, strict=True):
        behind = behind + shift.log()
        log = torch.minimum(log, (square - behind) / count)
    for _ in range(_STEPS if singular.dtype == torch.float64 else _STEPS_NARROW):
        x, excess, slope = log.exp(), log - square, torch.ones_like(log)  # of the offset 0
        for shift in larger:
            shifted = x + shift
            excess += shifted.log()  # in place: for many entries, new memory costs more
            slope += x / shifted
        log = log - excess / slope
    return torch.where(zero, 0.0, log.exp())


def unbalanced_kernel(
    first: Tensor, second: Tensor | float, offsets: Sequence[float | Tensor]
) -> Tensor:
    r"""``K = \sum_j \prod_{i>j} (x + l_i) \prod_{i<j} (y + l_i)``: terms of one sign.

    Source: the sum of Arora, Cohen, Hazan (2018), Theorem 1, with the singular values of factors
    out of balance.

    Args:
        first: ``x >= 0``.
        second: ``y >= 0``, broadcasts with ``first``; 0 for null directions.
        offsets: ``l_j >= 0``, numbers or tensors that broadcast with both.

    Returns:
        ``K`` of the broadcast shape.

    Example:
        >>> import torch
        >>> unbalanced_kernel(torch.tensor(1.0), torch.tensor(4.0), (0.0, 3.0))
        tensor(8.)
    """
    above: list[Tensor | float] = [1.0]
    for offset in reversed(offsets[1:]):
        above.append(above[-1] * (first + offset))
    below: Tensor | float = 1.0
    total: Tensor | float = 0.0
    for part, offset in zip(reversed(above), offsets, strict=True):
        total = total + part * below
        below = below * (second + offset)
    return torch.as_tensor(total)
