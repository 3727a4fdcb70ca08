"""First values of factors: what they multiply to, and what is refused."""

import itertools
from typing import Any

import pytest
import torch

from overparam.factors.initialize import INITIALIZATIONS, initial_factors
from overparam.factors.layout import make_layout
from overparam.layers import linear_view, packed_view

VIEWS = {"wide": linear_view((4, 7)), "packed": packed_view((12, 3), 3, "attention")}


def _layout(view: Any, depth: int = 3, width: int | None = None) -> Any:
    return make_layout(view, "matrix", depth=depth, width=width)


@pytest.mark.parametrize("view", VIEWS)
def test_a_balanced_start_keeps_the_weight_and_balances_every_pair(view: str) -> None:
    layout = _layout(VIEWS[view], width=8)
    weight = torch.randn(layout.shape, dtype=torch.float64)
    factors = initial_factors(layout, weight)
    torch.testing.assert_close(layout.product(factors), weight)
    batch = layout.view.batch
    matrices = [factor.reshape(batch, *factor.shape[-2:]) for factor in factors]
    for first, second in itertools.pairwise(matrices):
        torch.testing.assert_close(second.mT @ second, first @ first.mT)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_fresh_start_has_the_energy_of_the_weight(depth: int) -> None:
    layout = _layout(linear_view((30, 40)), depth)
    weight = 0.3 * torch.randn(30, 40, dtype=torch.float64)
    energies = [
        layout.product(
            initial_factors(
                layout, weight, "fresh", generator=torch.Generator().manual_seed(seed)
            )
        ).square().sum()
        for seed in range(40)
    ]  # fmt: skip
    ratio = torch.stack(energies).mean() / weight.square().sum()
    assert abs(ratio - 1) < 0.1


def test_a_start_near_zero_has_the_scale_that_was_asked_for() -> None:
    layout = _layout(linear_view((50, 60)), 2)
    factors = initial_factors(layout, torch.ones(50, 60), "near_zero", std=0.02)
    for factor in factors:
        assert abs(factor.std() / 0.02 - 1) < 0.1


def test_identities_multiply_to_the_identity() -> None:
    layout = _layout(linear_view((3, 5)), 3)
    factors = initial_factors(layout, torch.ones(3, 5), "identity")
    torch.testing.assert_close(layout.product(factors), torch.eye(3, 5))


@pytest.mark.parametrize("init", INITIALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_have_the_dtype_and_shapes_of_the_layout(init: str, dtype: torch.dtype) -> None:
    layout = _layout(VIEWS["packed"])
    factors = initial_factors(layout, torch.randn(12, 3).to(dtype), init)
    assert [(f.dtype, tuple(f.shape)) for f in factors] == [(dtype, s) for s in layout.shapes]


@pytest.mark.parametrize(
    ("weight", "options", "words"),
    [
        (torch.ones(4, 7), {"init": "zeros"}, "init='zeros' is unknown"),
        (torch.ones(4, 7, device="meta"), {}, "on the meta device"),
        (torch.full((4, 7), torch.inf), {}, "non-finite entries"),
        (torch.zeros(4, 7), {}, "1 of 1 product.s. dead"),
        (torch.ones(4, 7), {"init": "near_zero", "std": -1.0}, "std"),
    ],
)
def test_what_is_refused(weight: torch.Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        initial_factors(_layout(VIEWS["wide"]), weight, **options)


def test_a_width_that_cannot_hold_the_weight_is_refused() -> None:
    layout = _layout(VIEWS["wide"], width=2)
    with pytest.raises(ValueError, match="a hidden width of 2 cannot hold this weight"):
        initial_factors(layout, torch.ones(4, 7))
