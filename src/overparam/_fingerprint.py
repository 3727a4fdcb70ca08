"""Whether a weight is still what an optimizer wrote: exact, and the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd, so that multiplication modulo 2^64 loses nothing.
_SPREAD = 0x9E3779B97F4A7C15 - 2**64


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit number from the bits of a tensor: their sum, each with a weight of its own.

    Integer arithmetic modulo 2^64, so the result does not depend on machine, threads or order of
    summation. Any single changed entry changes it; entries that change places do too, but for
    accidents of one in 2^64 or so.

    Example:
        >>> one = torch.ones(3, 2)
        >>> bool(fingerprint(one) == fingerprint(one.clone()))
        True
        >>> one[2, 1] = 1.0000001
        >>> bool(fingerprint(one) == fingerprint(torch.ones(3, 2)))
        False
    """
    flat = tensor.detach().contiguous().reshape(-1)
    # Eight bytes at a time where they come out even: sums without a conversion.
    even = flat.numel() * flat.element_size() % 8 == 0
    bits = flat.view(torch.int64 if even else _INTEGERS[tensor.element_size()])
    rows = tensor.shape[0] if tensor.ndim else 1
    bits = bits.reshape(rows if rows and bits.numel() % rows == 0 else 1, -1)
    # The highest bit, the sign, would only ever count modulo 2.
    bits = bits.to(torch.int64)
    bits = bits ^ (bits >> 32)
    rows, columns = (_weights(size, bits.device) for size in bits.shape)
    return ((bits * columns).sum(1) * rows).sum()


def _weights(count: int, device: torch.device) -> Tensor:
    """Odd numbers that are far from any pattern: a linear sequence, mixed once."""
    mixed = torch.arange(1, count + 1, device=device) * _SPREAD
    return (mixed ^ (mixed >> 29)) * _SPREAD | 1


class Written:
    """Weights as they were last written, so that a look at them costs one pass or none."""

    def __init__(self) -> None:
        # Not by weak references: torch.utils.swap_tensors refuses tensors that have some.
        self._seen: dict[Tensor, tuple[Tensor, Tensor, int, int]] = {}

    def remember(self, p: Tensor, factor: Tensor, written: Tensor) -> None:
        """Keep what has just been written to a weight.

        Args:
            p: the weight.
            factor: one of those that it is the product of: with others, nothing is known.
            written: the entries of the weight in a tensor that stays as it is.
        """
        version, place = (0, 0) if p.is_meta else (p._version, p.data_ptr())
        self._seen[p] = (factor, written, version, place)

    def rename(self, old: Tensor, new: Tensor) -> None:
        """Let what is known of a weight be known of another tensor."""
        if old in self._seen:
            self._seen[new] = self._seen.pop(old)

    def written(self, p: Tensor, factor: Tensor) -> Tensor | None:
        """What was written to a weight as the product of these factors, if it is known."""
        seen = self._seen.get(p)
        return seen[1] if seen is not None and seen[0] is factor else None

    def is_unchanged(self, p: Tensor, factor: Tensor) -> bool | None:
        """Whether a weight is what was written to it; None as in :meth:`written`.

        On an accelerator the version that torch counts is enough, so that the host need not wait;
        writes through ``p.data`` escape it.
        """
        seen = self._seen.get(p)
        if seen is None or seen[0] is not factor:
            return None
        _, written, version, place = seen
        if p.is_meta or (p.device.type != "cpu" and (version, place) == (p._version, p.data_ptr())):
            return True
        return same_bits(p, written)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype hold the same bits; NaN is the same as itself."""
    integers = _INTEGERS[one.element_size()]
    alike = one.device == other.device and one.dtype == other.dtype
    return alike and torch.equal(one.detach().view(integers), other.view(integers))
