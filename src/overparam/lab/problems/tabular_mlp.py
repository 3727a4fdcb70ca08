"""A multilayer perceptron on regression data: abalone, diabetes and the others."""

from __future__ import annotations

from overparam.data import load, standardize
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import minibatches, mlp, squared_loss


@problem("tabular-mlp")
def tabular_mlp(
    data: str = "abalone", width: int = 64, depth: int = 2, norm: str = "none"
) -> Problem:
    """Standardized features and targets; squared error."""
    rows = standardize(load(data))
    features, targets = rows.features.float(), rows.targets.float()
    sizes = (features.shape[1], *[width] * depth, targets.shape[1])
    return Problem(
        title=f"MLP of {depth} hidden layers of {width} on {data}, normalization {norm}",
        build=lambda: mlp(*sizes, norm=norm),
        batches=minibatches((features, targets), 100),
        loss=squared_loss,
        steps=8000,
    )
