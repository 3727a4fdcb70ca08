"""MNIST-1D: ten shapes of twelve points, moved, stretched, sheared and noisy; generated.

Greydanus and Kobak (2024), "Scaling down deep learning with MNIST-1D", with the settings of its
section 2. The random numbers are torch's, so the signals are not those of the published file.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_PADDING, _LENGTH = (36, 60), 40
_SCALE, _SHEAR, _TRANSLATION = 0.4, 0.75, 48
_SMOOTH_NOISE, _NOISE = 0.25, 0.02


@functools.cache
def mnist1d(count: int = 5000, seed: int = 42) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signals ``(B, 40)`` and classes to train on, four fifths of them, and the rest for tests.

    Args:
        count: number of signals, as many of each class.
        seed: of everything that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    templates = torch.tensor(_TEMPLATES)
    templates = (templates - templates.mean(1, keepdim=True)) / templates.std(1, False, True)
    templates = (templates - templates[:, :1]) / 6
    labels = torch.arange(count) % 10
    labels = labels[torch.randperm(count, generator=generator)]
    signals = torch.stack([_signal(templates[label], generator) for label in labels])
    part = count * 4 // 5
    return signals[:part], labels[:part], signals[part:], labels[part:]


def _signal(template: Tensor, generator: torch.Generator) -> Tensor:
    """One signal from its template."""

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    low, high = _PADDING
    padding = low + math.floor(uniform() * (high - low + 1))
    x = functional.pad(template + 1e-8, (0, padding))
    x = x * (1 + _SCALE * (uniform() - 0.5))
    x = _resized(x, len(template) + high)
    x = x.roll(math.floor(uniform() * _TRANSLATION))
    noise = _smooth(_SMOOTH_NOISE * torch.randn(len(x), generator=generator))
    x = torch.where(x != 0, x, noise) + _NOISE * torch.randn(len(x), generator=generator)
    shear = _SHEAR * (uniform() - 0.5) * torch.linspace(-0.5, 0.5, len(x))
    return _resized(x - shear, _LENGTH)


def _resized(x: Tensor, length: int) -> Tensor:
    """Linear interpolation, with the ends on the ends."""
    return functional.interpolate(x[None, None], length, mode="linear", align_corners=True)[0, 0]


def _smooth(x: Tensor, deviation: float = 2.0) -> Tensor:
    """Convolution with a Gaussian of this width, mirrored at the ends."""
    reach = 8
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    padded = functional.pad(x[None, None], (reach, reach), mode="reflect")
    return functional.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]
