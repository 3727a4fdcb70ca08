"""A multilayer perceptron on the digits in scikit-learn: small enough for a minute."""

from __future__ import annotations

from overparam.data import load_images
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import classification_loss, error_on, minibatches, mlp


@problem("digits-mlp")
def digits_mlp(width: int = 64, depth: int = 2, norm: str = "none") -> Problem:
    """1,500 images of 8 x 8 pixels, ten classes."""
    data = load_images("digits", download=False)
    inputs, tests = (x.flatten(1).float() / 255 for x in (data.images, data.test_images))
    return Problem(
        title=f"MLP of {depth} hidden layers of {width} on the digits, normalization {norm}",
        build=lambda: mlp(64, *[width] * depth, 10, norm=norm),
        batches=minibatches((inputs, data.labels), 64),
        loss=classification_loss,
        evaluate={"test error": error_on(tests, data.test_labels)},
        steps=4000,
    )
