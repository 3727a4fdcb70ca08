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
    """What is known of weights since they were written, without waiting for a device."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def remember(self, p: Tensor) -> Tensor:
        """The fingerprint of a weight that has just been written."""
        self._seen[id(p)] = (p._version, p.data_ptr() if not p.is_meta else 0)
        return fingerprint(p)

    def is_unchanged(self, p: Tensor, written: Tensor) -> bool:
        """Whether a weight is what it was when its fingerprint was taken.

        On an accelerator the version that torch counts is enough where it is known, so that the
        host need not wait; writes through ``p.data`` escape it.
        """
        if p.is_meta:
            return True
        if p.device.type != "cpu" and self._seen.get(id(p)) == (p._version, p.data_ptr()):
            return True
        return bool(fingerprint(p) == written.to(p.device))
