"""Chains of kernels: one kernel that equals the sequence, at the borders too."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from overparam.factors.chain import balance, chain_imbalance, compose, kernels_sizes, start
from overparam.factors.initialize import initial_factors
from overparam.factors.layout import decode_layout, encode_layout, make_layout
from overparam.layers.views import convolution_view, transposed_convolution_view
from overparam.reparam import overparameterize
from overparam.reparam.attach import factors_of, places

CONVOLUTION = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def run_sequence(layer: nn.Module, x: Tensor, factors: list[Tensor]) -> Tensor:
    """The convolutions one after another, as ExpandNets do: all padding first, stride last."""
    dims, groups = len(layer.kernel_size), layer.groups
    pads = [p for p in reversed(layer.padding) for _ in range(2)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, pads, mode=mode)
    for number, factor in enumerate(factors):
        stride = layer.stride if number == len(factors) - 1 else 1
        x = CONVOLUTION[dims](x, factor, stride=stride, dilation=layer.dilation, groups=groups)
    return x + layer.bias.reshape(-1, *(1,) * dims)


@pytest.mark.parametrize("strategy", ["sides", "kernels"])
@pytest.mark.parametrize("width", [None, 1.5])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 4, 7, padding=3),
        nn.Conv2d(3, 5, 5, padding=2, stride=2),
        nn.Conv2d(4, 6, (7, 4), padding=(3, 1), groups=2),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4),
        nn.Conv2d(2, 3, 5, padding=2, padding_mode="reflect"),
        nn.Conv3d(2, 3, (1, 5, 3), padding=(0, 2, 1)),
    ],
    ids=["1d", "strided", "grouped", "depthwise", "reflect", "3d"],
)
def test_one_kernel_equals_the_sequence(layer: nn.Module, strategy: str, width: float) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    x = torch.randn(2, layer.in_channels, *(12,) * len(layer.kernel_size), dtype=torch.float64)
    before = layer(x)
    model = overparameterize(nn.Sequential(layer), targets="all", strategy=strategy, width=width)
    (place,) = places(model)
    factors = factors_of(place.factors)
    assert len(factors) == (
        3 if strategy == "sides" else math.ceil((max(layer.kernel_size) - 1) / 2)
    )
    # fully_shard and safetensors refuse other parameters.
    assert all(factor.is_contiguous() for factor in factors)
    torch.testing.assert_close(model(x), before)
    torch.testing.assert_close(model(x), run_sequence(layer, x, factors))
    with torch.no_grad():
        for factor in factors:
            factor.add_(torch.randn_like(factor), alpha=0.3)
    torch.testing.assert_close(model(x), run_sequence(layer, x, factors))


def test_transposed_convolution() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 4, 5, stride=2, bias=False).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    before = layer(x)
    overparameterize(layer, targets="all", strategy="kernels")
    torch.testing.assert_close(layer(x), before)
    first, second = factors_of(next(places(layer)).factors)
    # The adjoint of a sequence runs its adjoints backwards; the stride comes first then.
    step = functional.conv_transpose2d(x, second, stride=2)
    torch.testing.assert_close(layer(x), functional.conv_transpose2d(step, first))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    out=st.integers(1, 4),
    inputs=st.integers(1, 4),
    size=st.lists(st.integers(1, 8), min_size=1, max_size=2),
    groups=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_any_kernel_starts_and_balances(
    out: int, inputs: int, size: list[int], groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(groups, out, inputs, *size, dtype=torch.float64, generator=generator)
    chain = start(kernel, kernels_sizes(tuple(size)))
    assert torch.equal(compose(chain), kernel)
    balanced = balance(chain)
    torch.testing.assert_close(compose(balanced), kernel)
    if len(chain) == 2:
        # A single pair is balanced in one go.
        assert chain_imbalance(balanced) <= 1e-7
    assert sum(float(k.square().sum()) for k in balanced) <= sum(
        float(k.square().sum()) for k in chain
    ) * (1 + 1e-9)


def test_sides_are_nearly_balanced_after_the_sweeps() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3).double()
    overparameterize(layer, targets="all", strategy="sides")
    factors = [f.detach()[None] for f in factors_of(next(places(layer)).factors)]
    assert chain_imbalance(factors) < 1e-3


@pytest.mark.parametrize("strategy", ["matrix", "sides", "kernels"])
@pytest.mark.parametrize(
    "view", [convolution_view((60, 20, 5, 5), 2), convolution_view((40, 30, 5))]
)
def test_fresh_start_matches_the_energy(strategy: str, view) -> None:
    layout = make_layout(view, strategy, 2, None)
    weight = 0.3 * torch.randn(view.shape, generator=torch.Generator().manual_seed(0))
    ratios = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        factors = initial_factors(layout, weight, "fresh", generator=generator)
        ratios.append(float(layout.product(factors).square().mean() / weight.square().mean()))
    # The mean of twelve draws scatters by about 3 %.
    assert 0.88 < sum(ratios) / len(ratios) < 1.12


@pytest.mark.parametrize("strategy", ["sides", "kernels"])
def test_identity_start_hands_on_the_centre(strategy: str) -> None:
    layout = make_layout(convolution_view((3, 3, 5, 5)), strategy, 3, None)
    kernel = layout.product(initial_factors(layout, torch.ones(3, 3, 5, 5), "identity"))
    expected = torch.zeros(3, 3, 5, 5)
    expected[..., 2, 2] = torch.eye(3)
    assert torch.equal(kernel, expected)


@pytest.mark.parametrize(
    "view", [convolution_view((4, 3, 5, 5)), transposed_convolution_view((4, 3, 5, 5), 2)]
)
@pytest.mark.parametrize("strategy", ["matrix", "sides", "kernels"])
def test_layouts_survive_a_file_and_count_flops(view, strategy: str) -> None:
    layout = make_layout(view, strategy, 3, 1.5)
    assert decode_layout(encode_layout(layout)) == layout
    factors = [torch.zeros(shape) for shape in layout.shapes]
    with FlopCounterMode(display=False) as counter:
        assert layout.product(factors).shape == layout.shape
    assert counter.get_total_flops() == layout.product_flops
