"""A small convolutional network on the digits in scikit-learn, or on MNIST."""

from __future__ import annotations

from torch import nn

from overparam.data import load_images
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import classification_loss, error_on, minibatches


@problem("cnn")
def cnn(data: str = "digits", channels: int = 16, hidden: int = 64, kernel: int = 3) -> Problem:
    """Two convolutions with pooling, two dense layers, cross-entropy; the kernel's side is odd."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel}; use an odd side, so that images keep their size.")
    found = load_images(data)
    inputs, tests = (x[:, None].float() / 255 for x in (found.images, found.test_images))
    features = 2 * channels * (inputs.shape[-1] // 4) ** 2

    def build() -> nn.Module:
        first, second = (
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            for inputs, outputs in ((1, channels), (channels, 2 * channels))
        )
        return nn.Sequential(
            first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )  # fmt: skip

    kernels = "" if kernel == 3 else f", kernels of {kernel} x {kernel}"
    return Problem(
        title=f"CNN of {channels} and {2 * channels} channels{kernels} on {data}",
        build=build,
        batches=minibatches((inputs, found.labels), 64),
        loss=classification_loss,
        evaluate={"test error": error_on(tests[:2000], found.test_labels[:2000])},
        steps=8000,
    )
