"""Training with the matrices of a model as products, and the optimizer's state in numbers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from tasks import Task
from torch import Tensor, nn

from overparam import balanced_factors, factor_product, factor_product_vjp

KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
    "AdamW": torch.optim.AdamW,
}
Batch = tuple[Tensor, Tensor]


class Run:
    """A model in training, each matrix as a product that lives beside it; depth 1 is plain.

    Up to rounding it is the training of a model with explicit factors, and the gradient of every
    matrix is at hand.
    """

    def __init__(self, task: Task, kind: str, rate: float, depth: int) -> None:
        self.model, self.loss, self.depth = task.model, task.loss, depth
        matrices = {p: p.detach().flatten(1) for p in self.model.parameters() if p.ndim > 1}
        self.products = {
            p: [nn.Parameter(f) for f in balanced_factors(w, depth)] for p, w in matrices.items()
        }
        rest = [p for p in self.model.parameters() if p not in matrices]
        factors = itertools.chain.from_iterable(self.products.values())
        self.optimizer = KINDS[kind]([*factors, *rest], lr=rate)
        # The recorder sees the gradients of W and moves nothing.
        self.recorded = {p: nn.Parameter(w.clone()) for p, w in matrices.items()}
        self.recorder = KINDS[kind](self.recorded.values(), lr=0.0)

    def step(self, batch: Batch) -> float:
        """One update; the loss before it."""
        loss = self.differentiate(batch)
        self.optimizer.step()
        if self.depth > 1:
            self.recorder.step()
        with torch.no_grad():
            for p, factors in self.products.items():
                p.copy_(factor_product(factors).reshape(p.shape))
        return loss

    def differentiate(self, batch: Batch) -> float:
        """The loss; gradients of weights and factors are set."""
        self.model.zero_grad()
        loss = self.loss(self.model(batch[0]), batch[1])
        loss.backward()
        with torch.no_grad():
            for p, factors in self.products.items():
                assert p.grad is not None
                gradient = self.recorded[p].grad = p.grad.flatten(1)
                parts = factor_product_vjp(factors, gradient)
                for factor, part in zip(factors, parts, strict=True):
                    factor.grad = part
        return loss.item()


def first_moments(optimizer: torch.optim.Optimizer, trained: Iterable[Tensor]) -> Tensor:
    """Those of all these tensors in one vector."""
    states = [optimizer.state[p] for p in trained]
    return torch.cat([next(v for n, v in s.items() if n != "step").flatten() for s in states])


def adam(run: Run, batches: Sequence[Batch]) -> list[float]:
    """Roots of second moments over those of the coming gradients' mean squares, and the step.

    Quantiles (5 %, 50 %, 95 %) over all entries; below 1, steps are too large by that much. Then
    the root mean square of the step that the state alone would take, over the learning rate.
    """
    factors = [factor for each in run.products.values() for factor in each]
    squares = [torch.zeros_like(factor) for factor in factors]
    for batch in batches:
        run.differentiate(batch)
        for square, factor in zip(squares, factors, strict=True):
            assert factor.grad is not None
            square += factor.grad**2 / len(batches)
    ratios, steps = [], []
    states = [run.optimizer.state[factor] for factor in factors]
    for square, state in zip(squares, states, strict=True):
        root = (state["exp_avg_sq"] / (1 - 0.999 ** state["step"])).sqrt()
        ratios.append((root / square.sqrt())[square > 1e-16])
        steps.append((state["exp_avg"] / (1 - 0.9 ** state["step"]) / (root + 1e-8)).flatten())
    quantiles = torch.cat(ratios).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return [*quantiles, torch.cat(steps).square().mean().sqrt().item()]
