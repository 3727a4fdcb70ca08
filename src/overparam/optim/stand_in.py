"""The tensors that an inner optimizer steps on, and how a step of theirs is undone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from overparam.layers.views import MatrixView

State = dict[str, Any]


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

    def remember(self, state: State) -> None:
        """Copy what the inner optimizer may write to."""
        held = [self.tensor, *(v for v in state.values() if isinstance(v, Tensor))]
        self.before = with_copies(held)
        if self.tensor is self.p and self.p.grad is not None:
            self.gradient = with_copies([self.p.grad])

    def is_as_before(self) -> bool:
        """Whether the step left the tensor as it was; False where asking makes the host wait."""
        on_host = bool(self.before) and self.tensor.device.type == "cpu"
        return on_host and torch.equal(self.tensor, self.before[0][1])

    def undo(self, keep: Tensor | None = None) -> None:
        """Put the copies back: all, or those of which ``keep`` (a scalar on the device) is not."""
        for tensor, copy in self.before:
            tensor.copy_(copy if keep is None else torch.where(keep, tensor, copy))


def with_copies(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Tensors, each with a copy."""
    return [(tensor, tensor.detach().clone()) for tensor in tensors]
