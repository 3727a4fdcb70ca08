"""Adjacent runs of one optimizer, whose parameters and state are one batch of tensors each."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.factors.product import partial_products, pulled_back
from overparam.lab.methods import OPTIMIZERS, Method
from overparam.lab.training.clock import Numbers
from overparam.lab.training.directions import DEPTH_KINDS, Apply, Depths, pieces, stretched
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.scaling import by_loss


class Block(ABC):
    """The runs, which the batch of all runs gives a place in its tensors.

    Args:
        methods: of the runs; they share the optimizer.
        members: their numbers.
        parameters: their parameters, ``(runs, ...)`` each.
        objective: the loss.

    Attributes:
        states: one dict of tensors per parameter.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        members: Sequence[int],
        parameters: list[Tensor],
        objective: PowerLoss,
    ) -> None:
        self.methods, self.members = list(methods), list(members)
        self.parameters, self.objective = parameters, objective
        optimizer = OPTIMIZERS[self.methods[0].optimizer]
        self.update, self._scaling = optimizer.update, optimizer.scaling
        self.states = [
            {name: torch.zeros_like(parameter) for name in self.update.state}
            for parameter in parameters
        ]
        self.weights = self.rates = self._gradients = parameters[0]  # until they have a place

    @property
    def stands_alone(self) -> bool:
        """Whether a step shares nothing that it writes to with other blocks."""
        return self._scaling is not by_loss

    def place(self, weights: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """Take the runs' rows of the batch: weights to keep up to date, and what is read."""
        self.weights, self._gradients, self.rates = weights, gradients, rates
        if self.members:
            self._settle()

    @abstractmethod
    def step(self, numbers: Numbers) -> None:
        """Take one step from the gradients, in place; looks at no value from the host."""

    @abstractmethod
    def _settle(self) -> None:
        """Prepare for the runs and the place that the block now has."""

    def keep(self, flags: Tensor) -> None:
        """Drop the runs whose flag is false, with their state; then the block needs a place."""
        here = flags.cpu().tolist()
        self.methods = list(itertools.compress(self.methods, here))
        self.members = list(itertools.compress(self.members, here))
        self.parameters = [parameter[flags] for parameter in self.parameters]
        self.states = [{name: t[flags] for name, t in state.items()} for state in self.states]

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training."""
        return {"members": self.members, "parameters": self.parameters, "states": self.states}

    def load_state_dict(self, state: dict[str, Any], methods: Sequence[Method]) -> None:
        """Continue from a saved state, given the methods of its members."""
        like = self.parameters[0].device
        self.methods, self.members = list(methods), list(state["members"])
        self.parameters = [parameter.to(like, copy=True) for parameter in state["parameters"]]
        self.states = [
            {name: tensor.to(like, copy=True) for name, tensor in each.items()}
            for each in state["states"]
        ]

    def _scaled_gradients(self) -> Tensor:
        if self._scaling is None:
            return self._gradients
        objective, weights = self.objective, self.weights
        return self._scaling(
            self._gradients, lambda: objective.loss(weights, exact=False), objective.power
        )


class WeightBlock(Block):
    """Runs whose parameter is the weight itself: plain, or moved as depth would move it."""

    def place(self, weights: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """The weight of the batch becomes the parameter."""
        weights.copy_(self.parameters[0])
        self.parameters = [weights]
        super().place(weights, gradients, rates)

    def step(self, numbers: Numbers) -> None:
        """Depth changes the gradient, the optimizer turns it into a direction, the weight moves."""
        directions = self._scaled_gradients()
        for rows, apply in self._depths:
            apply(self.weights[rows], directions[rows])
        move = self.update.step(directions, self.states[0], numbers)
        if self._radial is not None:
            move = move._replace(direction=stretched(self.weights, move, self._radial))
        self.weights.addcmul_(self.rates, move.direction)

    def _settle(self) -> None:
        self._depths: list[tuple[slice, Apply]] = []
        self._radial = None
        kinds = [(method.depth_kind, method.imbalance != 0) for method in self.methods]
        for rows, (kind, unbalanced) in pieces(kinds):
            methods = self.methods[rows]
            imbalances = [method.imbalance for method in methods] if unbalanced else []
            depths = Depths([method.depth for method in methods], self.weights, imbalances)
            direction = DEPTH_KINDS[kind].direction
            if kind == "radial":
                self._radial = depths.each
            elif direction is not None:
                self._depths.append((rows, direction(depths, self.objective.outputs)))


class FactorBlock(Block):
    """Runs whose parameters are the factors of the weight.

    Shallow runs may be padded with factors of one, which never move: then each parameter from the
    second to the last but one belongs to the runs at the end of the block that are deep enough.
    """

    def step(self, numbers: Numbers) -> None:
        """Each factor moves along its gradient; the weight becomes their product."""
        gradients = pulled_back(self.parameters, self._scaled_gradients(), self._partial, times)
        for parameter, state, gradient, first in zip(
            self.parameters, self.states, gradients, self._first, strict=True
        ):
            direction = self.update.step(gradient, state, numbers).direction
            parameter[first:].addcmul_(self.rates[first:], direction[first:])
        places = iter(self._partial[1:])
        partial_products(self.parameters, lambda *pair: times(*pair, out=next(places)))

    def _settle(self) -> None:
        deepest, depths = len(self.parameters), [int(method.depth) for method in self.methods]
        middle = range(3, deepest + 1)
        self._first = [0, *(sum(depth < least for depth in depths) for least in middle), 0]
        self._partial = partial_products(self.parameters, times)
        self.weights.copy_(self._partial[-1])
        self._partial[-1] = self.weights


def times(first: Tensor, second: Tensor, out: Tensor | None = None) -> Tensor:
    """The matrix product of batches; over a single column a multiplication of numbers.

    That costs a tenth of a batched matrix product, and gives the same bits.
    """
    multiply = torch.mul if first.shape[-1] == 1 else torch.bmm
    return multiply(first, second, out=out)


def blocks_of(
    methods: Sequence[Method], starts: Sequence[tuple[Tensor, ...]], objective: PowerLoss
) -> list[Block]:
    """Cut runs into as few blocks as possible.

    Args:
        methods: of the runs, in the order of the batch.
        starts: their parameters.
        objective: the loss.
    """

    def kind(number: int) -> tuple[object, ...]:
        method = methods[number]
        return method.optimizer, method.depth_kind == "radial", len(starts[number]) > 1

    def pads(number: int, following: int) -> bool:
        """Whether the factors of a run can be as many as those of the one that follows."""
        start, deeper = starts[number], starts[following]
        narrow = all(factor.shape[0] == 1 for factor in (*start[:-1], *deeper[:-1]))
        return len(start) == len(deeper) or (narrow and len(start) < len(deeper))

    groups: list[list[int]] = []
    for number in range(len(methods)):
        last = groups[-1][-1] if groups else number
        if groups and kind(last) == kind(number) and pads(last, number):
            groups[-1].append(number)
        else:
            groups.append([number])
    blocks: list[Block] = []
    for members in groups:
        deepest = len(starts[members[-1]])
        ones = torch.ones_like(starts[members[0]][0][:1, :1])
        padded = [
            (*start[:-1], *[ones] * (deepest - len(start)), start[-1])
            for start in (starts[member] for member in members)
        ]
        parameters = [torch.stack(tensors) for tensors in zip(*padded, strict=True)]
        block = FactorBlock if deepest > 1 else WeightBlock
        blocks.append(block([methods[m] for m in members], members, parameters, objective))
    return blocks
