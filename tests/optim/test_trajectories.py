"""EndToEnd against gradient descent on explicit factors: Theorem 1 over whole runs."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from overparam import balanced_factors, factor_product, factor_product_vjp
from overparam.factors.balance import balanced_initialization
from overparam.optim import EndToEnd


def rotated(factors: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """The same product and balance in random bases of the hidden layers: no zeros from padding."""
    turned = list(factors)
    for j in range(len(turned) - 1):
        width = len(turned[j])
        q = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
        turned[j], turned[j + 1] = q @ turned[j], turned[j + 1] @ q.mT
    return tuple(turned)


def distances(
    depth: int, shape: tuple[int, int], rates: list[float], width: int | None
) -> list[float]:
    """How far EndToEnd ends from an explicit product of factors, per learning rate."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape[1], 8, generator=generator, dtype=torch.float64)
    targets = torch.randn(shape[0], 8, generator=generator, dtype=torch.float64)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)

    def gradient(weight: Tensor) -> Tensor:
        return (weight @ inputs - targets) @ inputs.mT / 8

    results = []
    for lr in rates:
        factors = rotated(balanced_factors(start, depth, width), generator)
        p = nn.Parameter(start.clone())
        optimizer = EndToEnd([p], lr, depth, normalize=False)
        for _ in range(round(0.01 / lr)):
            p.grad = gradient(p.detach())
            optimizer.step()
            slopes = factor_product_vjp(factors, gradient(factor_product(factors)))
            factors = tuple(f - lr * s for f, s in zip(factors, slopes, strict=True))
        results.append((p.detach() - factor_product(factors)).norm().item())
    return results


@pytest.mark.parametrize(("depth", "shape"), [(2, (4, 3)), (3, (4, 3)), (4, (3, 4))])
def test_distance_to_explicit_factors_falls_linearly_and_width_does_not_matter(
    depth: int, shape: tuple[int, int]
) -> None:
    rates = [1e-2, 1e-3, 1e-4, 1e-5]
    narrow = distances(depth, shape, rates, None)
    slopes = [math.log10(a / b) for a, b in itertools.pairwise(narrow)]
    assert slopes == pytest.approx([1.0] * 3, abs=0.1)
    wide = distances(depth, shape, rates[:2], 17)
    # The same trajectory to round-off, in whatever bases the hidden layers are.
    assert wide == pytest.approx(narrow[:2], rel=1e-6)


def test_width_matters_as_little_from_a_random_balanced_start() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (3, 9):
        made = balanced_initialization(
            4, 3, 3, width=width, std=1.0, generator=generator, dtype=torch.float64
        )
        made = rotated(made, generator)  # balanced_initialization pads with zeros
        p = nn.Parameter(factor_product(made))
        p.grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        slopes = factor_product_vjp(made, p.grad)
        stepped = factor_product([f - 1e-6 * s for f, s in zip(made, slopes, strict=True)])
        before = p.detach().clone()
        EndToEnd([p], 1e-6, 3, normalize=False).step()
        assert (p.detach() - stepped).norm() < 1e-4 * (stepped - before).norm()
