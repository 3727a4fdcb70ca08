"""The tensors that an inner optimizer steps on, and how a step of theirs is undone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from overparam.layers.views import MatrixView

State = dict[str, Any]


class Copies:
    """Memory for copies, used again at every step: new memory costs more than the copying."""

    def __init__(self) -> None:
        self._free: dict[Any, list[Tensor]] = {}
        self._used: dict[Any, list[Tensor]] = {}

    def begin(self) -> None:
        """Take all copies back; what the last step did not use is given up."""
        self._free, self._used = self._used, {}

    def of(self, tensor: Tensor) -> Tensor:
        """A copy, until the next step begins."""
        if tensor.is_sparse:
            return tensor.detach().clone()
        key = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        free = self._free.get(key)
        copy = free.pop() if free else torch.empty_like(tensor, requires_grad=False)
        self._used.setdefault(key, []).append(copy)
        return copy.copy_(tensor)


@dataclass
class StandIn:
    """A tensor that the inner optimizer steps on, for a parameter.

    Attributes:
        p: the parameter.
        tensor: the parameter itself, or one of the tensors in its place.
        prefix: of the inner optimizer's names in ``state[p]``.
        group: of the parameter.
        view: of the parameter.
        before: copies of the tensor and of its state, to undo a step.
        gradient: the parameter's, with a copy: some inner optimizers work in it.
    """

    p: Tensor
    tensor: Tensor
    prefix: str = ""
    group: dict[str, Any] = field(default_factory=dict)
    view: MatrixView | None = None
    before: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gradient: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def remember(self, state: State, gradient: Tensor | None, copies: Copies) -> None:
        """Copy what the inner optimizer may write to."""
        held = [self.tensor, *(v for v in state.values() if isinstance(v, Tensor))]
        self.before = [(tensor, copies.of(tensor)) for tensor in held]
        self.gradient = [] if gradient is None else [(gradient, copies.of(gradient))]

    def is_as_before(self) -> bool:
        """Whether the step left the tensor as it was; False where asking makes the host wait."""
        on_host = bool(self.before) and self.tensor.device.type == "cpu"
        return on_host and torch.equal(self.tensor, self.before[0][1])

    def undo(self, keep: Tensor | None = None) -> None:
        """Put the copies back: all, or those of which ``keep`` (a scalar on the device) is not."""
        for tensor, copy in self.before:
            tensor.copy_(copy if keep is None else torch.where(keep, tensor, copy))
