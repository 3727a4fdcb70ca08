"""A multilayer perceptron on MNIST-1D, which is generated."""

from __future__ import annotations

from overparam.data.mnist1d import mnist1d
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import classification_loss, error_on, minibatches, mlp


@problem("mnist1d-mlp")
def mnist1d_mlp(width: int = 100, depth: int = 2, norm: str = "none") -> Problem:
    """4,000 signals of 40 points, ten classes."""
    inputs, labels, tests, test_labels = mnist1d()
    return Problem(
        title=f"MLP of {depth} hidden layers of {width} on MNIST-1D, normalization {norm}",
        build=lambda: mlp(inputs.shape[1], *[width] * depth, 10, norm=norm),
        batches=minibatches((inputs, labels), 100),
        loss=classification_loss,
        evaluate={"test error": error_on(tests, test_labels)},
        steps=8000,
    )
