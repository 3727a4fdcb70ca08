"""Whether a weight is still what an optimizer wrote: exact, and the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd, so that multiplication modulo 2^64 loses nothing.
_SPREAD = 0x9E3779B97F4A7C15 - 2**64


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit number from the bits of a tensor: sums by rows and by columns, each with a weight.

    Integer arithmetic modulo 2^64, so the result does not depend on machine, threads or order of
    summation. Any single changed entry changes it; so do exchanged rows or columns.

    Example:
        >>> one = torch.ones(3, 2)
        >>> bool(fingerprint(one) == fingerprint(one.clone()))
        True
        >>> one[2, 1] = 1.0000001
        >>> bool(fingerprint(one) == fingerprint(torch.ones(3, 2)))
        False
    """
    bits = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])
    bits = bits.reshape(bits.shape[0] if bits.ndim else 1, -1)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for dim, offset in ((1, 1), (0, 2**20)):
        sums = bits.sum(dim, dtype=torch.int64)
        weights = torch.arange(offset, offset + len(sums), device=tensor.device) * _SPREAD
        total += (sums * weights).sum()
    return total


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
