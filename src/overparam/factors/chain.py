"""One convolution kernel as a chain of smaller ones, always multiplied out again.

A chain is a sequence of kernels ``(K_1, ..., K_N)``, ordered from the input, ``K_j`` of shape
``(g, d_j, d_{j-1}, k_j...)`` for g groups. Running the convolutions one after another, with all
padding before the first, equals one convolution with the composed kernel of size
``1 + sum (k_j - 1)``, at the borders too. Source of the strategies: Guo, Alvarez, Salzmann (2020),
ExpandNets: CL is 1x1, kxk, 1x1; CK is a sequence of 3x3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from overparam.factors.balance import balanced_factors

Size = tuple[int, ...]

# Sweeps of pairwise balancing; each one lowers the sum of squares of the chain.
_SWEEPS = 12
# Relative imbalance, in float64, at which the sweeps stop.
_BALANCED = 1e-7


def sides_sizes(size: Size) -> tuple[Size, ...]:
    """Kernel sizes of the strategy 'sides': 1, k, 1.

    Example:
        >>> sides_sizes((5, 3))
        ((1, 1), (5, 3), (1, 1))
    """
    ones = (1,) * len(size)
    return (ones, tuple(size), ones)


def kernels_sizes(size: Size) -> tuple[Size, ...]:
    """Kernel sizes of the strategy 'kernels': as many 3s as fit, a 2 where one step is left.

    Shorter directions are filled with 1s.

    Example:
        >>> kernels_sizes((7, 4))
        ((3, 3), (3, 2), (3, 1))
    """
    directions = []
    for length in size:
        threes, rest = divmod(length - 1, 2)
        directions.append([3] * threes + [2] * rest)
    count = max(1, *(len(sizes) for sizes in directions))
    filled = [sizes + [1] * (count - len(sizes)) for sizes in directions]
    return tuple(zip(*filled, strict=True))


def composed_size(sizes: Sequence[Size]) -> Size:
    """Size of the composed kernel, ``1 + sum (k_j - 1)`` in each direction."""
    return tuple(1 + sum(k - 1 for k in lengths) for lengths in zip(*sizes, strict=True))


def compose(kernels: Sequence[Tensor]) -> Tensor:
    """The one kernel that equals a chain of kernels.

    ``K[o, i, u] = sum_{m, v} B[o, m, v] A[m, i, u - v]`` for two kernels A, then B. Formed by one
    matrix product for each pair and sums of shifted copies, without convolution routines, whose
    precision on an accelerator is a global setting.

    Args:
        kernels: ``(K_1, ..., K_N)``, ``K_j`` of shape ``(g, d_j, d_{j-1}, k_j...)``.

    Returns:
        The kernel ``(g, d_N, d_0, 1 + sum (k_j - 1)...)``.

    Example:
        >>> import torch
        >>> edge = torch.tensor([[[[1.0, -1.0]]]])
        >>> compose((edge, edge))
        tensor([[[[ 1., -2.,  1.]]]])
    """
    return reduce(_compose_pair, kernels)


def least_widths(out: int, inputs: int, sizes: Sequence[Size]) -> tuple[int, ...]:
    """The smallest hidden widths, for one group, with which :func:`start` holds any kernel.

    Example:
        >>> least_widths(8, 4, sides_sizes((3, 3))), least_widths(8, 4, kernels_sizes((5, 5)))
        ((4, 8), (16,))
    """
    if len(sizes) == 1:
        return ()
    from_input, from_output = _peel_widths(out, inputs, sizes)
    if from_input <= from_output:
        return (from_input, *least_widths(out, from_input, sizes[1:]))
    return (*least_widths(from_output, inputs, sizes[:-1]), from_output)


def start(kernel: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Some chain with the least widths whose composition is ``kernel``, exactly.

    One layer after another is peeled off at the narrower end: it copies its channels to a few
    shifted positions, so that the rest, applied to all of them, reaches every tap once.

    Args:
        kernel: ``(g, out, in, K...)``.
        sizes: kernel sizes of the chain, composing to K.
    """
    if len(sizes) == 1:
        return [kernel]
    out, inputs = kernel.shape[1], kernel.shape[2]
    from_input, from_output = _peel_widths(out, inputs, sizes)
    if from_input <= from_output:
        first, rest = _peel(kernel, sizes[0], composed_size(sizes[1:]))
        return [first, *start(rest, sizes[1:])]
    # The output end is the input end of the transposed kernel; shifts commute.
    last, rest = _peel(kernel.transpose(1, 2), sizes[-1], composed_size(sizes[:-1]))
    return [*start(rest.transpose(1, 2), sizes[:-1]), last.transpose(1, 2)]


def balance(kernels: Sequence[Tensor]) -> list[Tensor]:
    """Balance each pair of neighbours in turn, without changing the composition.

    A hidden channel layer allows any invertible change of basis between its two kernels, read as
    matrices ``(out * k, hidden)`` and ``(hidden, in * k)``: balancing their product is exact for
    that pair and keeps the composed kernel. Pairs overlap, so it is repeated until all are
    balanced to 1e-7, at most twelve times.

    Args:
        kernels: ``(K_1, ..., K_N)``, in float64.
    """
    chain = list(kernels)
    for _ in range(_SWEEPS):
        for j in range(len(chain) - 1):
            chain[j], chain[j + 1] = _balance_pair(chain[j], chain[j + 1])
        if chain_imbalance(chain) <= _BALANCED:
            break
    return chain


def neighbours(kernels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each pair of neighbouring kernels as two matrices that share the hidden channels.

    ``A`` of shape ``(g, hidden, in * k)`` and ``B`` of shape ``(g, out * k, hidden)``, as in
    :func:`balance`. Any change of basis of the hidden channels leaves the composition as it is,
    so gradient flow conserves ``B^T B - A A^T``.

    Example:
        >>> import torch
        >>> chain = (torch.ones(1, 4, 2, 3, 3), torch.ones(1, 5, 4, 2, 2))
        >>> [[tuple(matrix.shape) for matrix in pair] for pair in neighbours(chain)]
        [[(1, 4, 18), (1, 20, 4)]]
    """
    return [
        (_by_hidden_input(low), _by_hidden_output(high))
        for low, high in itertools.pairwise(kernels)
    ]


def chain_imbalance(kernels: Sequence[Tensor]) -> float:
    """Largest relative distance from balance over pairs of neighbours.

    ``|| B^T B - A A^T ||_F / || A A^T ||_F`` for the matrices of :func:`neighbours`; what gradient
    flow conserves. Zero for a single kernel.
    """
    worst = 0.0
    for a, b in neighbours(kernels):
        gram = a @ a.mT
        size = torch.linalg.matrix_norm(gram).amax().clamp_min(torch.finfo(gram.dtype).tiny)
        worst = max(worst, float((torch.linalg.matrix_norm(b.mT @ b - gram) / size).amax()))
    return worst


def _compose_pair(low: Tensor, high: Tensor) -> Tensor:
    """A, then B; see :func:`compose`."""
    groups, hidden, inputs, *low_size = low.shape
    out, high_size = high.shape[1], tuple(high.shape[3:])
    taps = math.prod(high_size)
    product = _by_hidden_output(high) @ low.reshape(groups, hidden, -1)
    copies = product.reshape(groups, out, taps, inputs, *low_size)
    if taps == 1:
        return copies[:, :, 0]
    if math.prod(low_size) == 1:
        return copies.movedim(2, 3).reshape(groups, out, inputs, *high_size)
    total = None
    for number, shift in enumerate(itertools.product(*map(range, high_size))):
        # F.pad lists the last direction first.
        room = [(s, k - 1 - s) for s, k in zip(shift, high_size, strict=True)]
        pads = [pad for pair in reversed(room) for pad in pair]
        moved = torch.nn.functional.pad(copies[:, :, number], pads)
        total = moved if total is None else total + moved
    assert total is not None
    return total


def _by_hidden_input(low: Tensor) -> Tensor:
    """``A`` as a matrix (g, hidden, in * k)."""
    return low.flatten(2)


def _by_hidden_output(high: Tensor) -> Tensor:
    """``B`` as a matrix (g, out * k, hidden)."""
    return high.movedim(2, -1).flatten(1, -2)


def _offsets(length: int, rest: int) -> list[int]:
    """The fewest shifts below ``length`` whose windows of ``rest`` taps reach every tap."""
    return sorted({min(step * rest, length - 1) for step in range(math.ceil(length / rest) + 1)})


def _shifts(size: Size, rest: Size) -> list[tuple[int, ...]]:
    return list(itertools.product(*(_offsets(k, r) for k, r in zip(size, rest, strict=True))))


def _peel_widths(out: int, inputs: int, sizes: Sequence[Size]) -> tuple[int, int]:
    """Hidden widths that peeling the first or the last layer would need."""
    first = inputs * len(_shifts(sizes[0], composed_size(sizes[1:])))
    last = out * len(_shifts(sizes[-1], composed_size(sizes[:-1])))
    return first, last


def _peel(kernel: Tensor, size: Size, rest: Size) -> tuple[Tensor, Tensor]:
    """The first layer of one-hot kernels (g, in * shifts, in, k...), and what is left."""
    groups, out, inputs = kernel.shape[:3]
    shifts = _shifts(size, rest)
    first = kernel.new_zeros(groups, len(shifts), inputs, inputs, *size)
    left = kernel.new_zeros(groups, out, len(shifts), inputs, *rest)
    todo = torch.ones(kernel.shape[3:], dtype=torch.bool, device=kernel.device)
    for number, shift in enumerate(shifts):
        window = tuple(slice(s, s + r) for s, r in zip(shift, rest, strict=True))
        first[(slice(None), number, slice(None), slice(None), *shift)] = torch.eye(
            inputs, dtype=kernel.dtype, device=kernel.device
        )
        left[:, :, number] = kernel[(..., *window)] * todo[window]
        todo[window] = False
    return first.flatten(1, 2), left.flatten(2, 3)


def _balance_pair(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Two neighbours with the same composition, balanced at their hidden layer."""
    a, b = _by_hidden_input(low), _by_hidden_output(high)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.mT)
    first, second = balanced_factors(r_b @ r_a.mT, 2, width=low.shape[1])
    new_low = (first @ q_a.mT).reshape(low.shape)
    hidden_last = (*high.shape[:2], *high.shape[3:], high.shape[2])
    new_high = (q_b @ second).reshape(hidden_last).movedim(-1, 2)
    return new_low, new_high
