"""Matrix completion: a low-rank matrix from a part of its entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem


@problem("matrix-completion")
def matrix_completion(size: int = 40, rank: int = 3, share: float = 0.4) -> Problem:
    """Full batch; the error on the entries that were not seen is reported beside it.

    Arora et al. (2019), "Implicit regularization in deep matrix factorization", section 2: depth
    helps to find the low rank from few entries, and may be slower to fit the ones seen.
    """
    source = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, rank, generator=source) for _ in range(2))
    truth = left @ right.T / rank**0.5
    seen = torch.rand(size, size, generator=source) < share

    def build() -> nn.Module:
        model = nn.Linear(size, size, bias=False)
        nn.init.normal_(model.weight, std=1e-2)
        return model

    def loss(model: nn.Module, mask: Tensor) -> Tensor:
        return (model.get_parameter("weight") - truth)[mask].square().mean()

    shown = f"{100 * share:.0f} % of its entries"
    return Problem(
        title=f"Completion of a {size} x {size} matrix of rank {rank} from {shown}",
        build=build,
        batches=[seen],
        loss=loss,
        evaluate={"error on unseen entries": lambda model: float(loss(model, ~seen))},
        steps=8000,
    )
