"""Tensors of one shape as one tensor, so that one call updates them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Stack:
    """Tensors of one shape, dtype and device, read as one tensor and written back.

    Attributes:
        value: ``(k, *shape)`` in the dtype asked for.

    Example:
        >>> import torch
        >>> first, second = torch.ones(2), torch.zeros(2)
        >>> stack = Stack([first, second])
        >>> stack.write(stack.scratch().add_(1))
        >>> first, second
        (tensor([2., 2.]), tensor([1., 1.]))
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        dtype: torch.dtype | None = None,
        keep: Tensor | None = None,
    ) -> None:
        """Stack tensors.

        Args:
            tensors: one or more; of a single one no entry is copied.
            dtype: of the value; by default theirs.
            keep: ``(k,)``, which tensors :meth:`write` shall change; None for all.
        """
        self._tensors = list(tensors)
        first = self._tensors[0]
        alone = len(self._tensors) == 1
        value = first.unsqueeze(0) if alone else torch.stack(self._tensors)
        self.value = value if dtype in (None, value.dtype) else value.to(dtype)
        # Whether a change of the value is a change of the tensor.
        self._in_place = alone and self.value.dtype == first.dtype
        self._keep = None if keep is None else keep.reshape(-1, *(1,) * first.ndim)

    def scratch(self) -> Tensor:
        """The value, to be changed in place and then written; a copy if some must not change."""
        return self.value if self._keep is None else self.value.clone()

    def write(self, value: Tensor) -> None:
        """Write ``(k, *shape)`` to the tensors, rounded once to their dtype."""
        if self._keep is not None:
            value = torch.where(self._keep, value, self.value)
        elif self._in_place and value is self.value:
            return
        torch._foreach_copy_(self._tensors, value.unbind())  # pyright: ignore[reportPrivateImportUsage]
