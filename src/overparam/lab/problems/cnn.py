"""A small convolutional network on the digits in scikit-learn, or on MNIST."""

from __future__ import annotations

from torch import nn

from overparam.data import load_images
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import classification_loss, error_on, minibatches


@problem("cnn")
def cnn(data: str = "digits", channels: int = 16, hidden: int = 64) -> Problem:
    """Two convolutions with pooling, two dense layers, cross-entropy."""
    found = load_images(data)
    inputs, tests = (x[:, None].float() / 255 for x in (found.images, found.test_images))
    features = 2 * channels * (inputs.shape[-1] // 4) ** 2

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )  # fmt: skip

    return Problem(
        title=f"CNN of {channels} and {2 * channels} channels on {data}",
        build=build,
        batches=minibatches((inputs, found.labels), 64),
        loss=classification_loss,
        evaluate={"test error": error_on(tests[:2000], found.test_labels[:2000])},
        steps=8000,
    )
