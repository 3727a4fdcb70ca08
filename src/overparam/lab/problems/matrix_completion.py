"""Matrix completion: a low-rank matrix from a part of its entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import low_rank, small_matrix


@problem("matrix-completion")
def matrix_completion(size: int = 40, rank: int = 3, share: float = 0.4) -> Problem:
    """Full batch; the error on the entries that were not seen is reported beside it.

    Arora et al. (2019), "Implicit regularization in deep matrix factorization", section 2: depth
    helps to find the low rank from few entries, and may be slower to fit the ones seen.
    """
    source = torch.Generator().manual_seed(0)
    truth = low_rank(size, rank, source)
    seen = torch.rand(size, size, generator=source) < share

    def loss(model: nn.Module, mask: Tensor) -> Tensor:
        return (model.get_parameter("weight") - truth)[mask].square().mean()

    shown = f"{100 * share:.0f} % of its entries"
    return Problem(
        title=f"Completion of a {size} x {size} matrix of rank {rank} from {shown}",
        build=lambda: small_matrix(size, size),
        batches=[seen],
        loss=loss,
        evaluate={"error on unseen entries": lambda model: float(loss(model, ~seen))},
        steps=8000,
    )
