"""Sparse regression: few of many features matter."""

from __future__ import annotations

import torch
from torch import nn

from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import small_matrix, squared_loss


@problem("sparse-regression")
def sparse_regression(features: int = 200, rows: int = 100, active: int = 5) -> Problem:
    """Full batch; the distance to the true weights is reported beside the loss."""
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, features, generator=source)
    truth = torch.zeros(1, features)
    truth[0, :active] = 1.0

    def distance(model: nn.Module) -> float:
        return float((model.get_parameter("weight") - truth).norm())

    return Problem(
        title=f"Regression on {rows} rows of {features} features, of which {active} matter",
        build=lambda: small_matrix(1, features),
        batches=[(inputs, inputs @ truth.T)],
        loss=squared_loss,
        evaluate={"distance of weights": distance},
        steps=4000,
    )
