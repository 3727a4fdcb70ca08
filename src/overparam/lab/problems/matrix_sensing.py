"""Matrix sensing: a low-rank matrix from Gaussian measurements of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import low_rank, small_matrix


def measured(operators: Tensor, matrix: Tensor) -> Tensor:
    """The measurements ``y_i = <A_i, W> = sum_rs A_irs W_rs``.

    Args:
        operators: ``A (count, m, n)``.
        matrix: ``W (m, n)``.

    Returns:
        ``y (count,)``.
    """
    return operators.flatten(1) @ matrix.flatten()


@problem("matrix-sensing")
def matrix_sensing(size: int = 30, rank: int = 3, share: float = 0.5) -> Problem:
    """Full batch; the error of the matrix itself is reported beside it.

    Arora et al. (2019), "Implicit regularization in deep matrix factorization", section 2. The
    entries of each operator have variance ``1 / size^2``, so that the loss estimates the mean
    squared error of the entries of W. ``share`` is the number of measurements for each entry.
    """
    count = round(share * size**2)
    if count < 1:
        raise ValueError(f"share is {share}; at least one measurement needs {1 / size**2:.2g}.")
    source = torch.Generator().manual_seed(0)
    truth = low_rank(size, rank, source)
    operators = torch.randn(count, size, size, generator=source) / size
    values = measured(operators, truth)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        a, y = batch
        return (measured(a, model.get_parameter("weight")) - y).square().mean()

    def error(model: nn.Module) -> float:
        return float((model.get_parameter("weight") - truth).square().mean())

    return Problem(
        title=f"{count} measurements of a {size} x {size} matrix of rank {rank}",
        build=lambda: small_matrix(size, size),
        batches=[(operators, values)],
        loss=loss,
        evaluate={"error of the matrix": error},
        steps=8000,
    )
