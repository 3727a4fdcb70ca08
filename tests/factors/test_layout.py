"""Any reading of any weight as factors: exact, balanced, of the shapes that were promised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam import imbalance
from overparam.factors.initialize import initial_factors
from overparam.factors.layout import MatrixLayout, make_layout
from overparam.layers.views import (
    MatrixView,
    convolution_view,
    expert_view,
    linear_view,
    packed_view,
    transposed_convolution_view,
)

SIDE = st.integers(1, 5)
VIEWS = st.one_of(
    st.builds(lambda m, n: linear_view((m, n)), SIDE, SIDE),
    st.builds(lambda b, m, n: packed_view((b * m, n), b), SIDE, SIDE, SIDE),
    st.builds(lambda g, m, n, k: convolution_view((g * m, n, k, k), g), SIDE, SIDE, SIDE, SIDE),
    st.builds(
        lambda g, m, n, k: transposed_convolution_view((g * n, m, k), g), SIDE, SIDE, SIDE, SIDE
    ),
    st.builds(lambda e, m, n: expert_view((e, m, n)), SIDE, SIDE, SIDE),
)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(view=VIEWS, depth=st.integers(1, 4), ratio=st.floats(1, 2.5), seed=st.integers(0, 999))
def test_balanced_start(view: MatrixView, depth: int, ratio: float, seed: int) -> None:
    layout = make_layout(view, "matrix", depth, ratio)
    assert isinstance(layout, MatrixLayout)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(view.shape, dtype=torch.float64, generator=generator)
    factors = initial_factors(layout, weight)
    assert tuple(tuple(factor.shape) for factor in factors) == layout.shapes
    assert all(factor.is_contiguous() for factor in factors)
    product = layout.product(factors)
    assert float((product - weight).norm()) <= 1e-13 * float(weight.norm())
    if depth > 1:
        assert float(imbalance(factors).max()) <= 1e-12
    # Once more through the grouping alone: each matrix of the view is a product by itself.
    matrices = [factor.reshape(view.batch, *factor.shape[-2:]) for factor in factors]
    for index, matrix in enumerate(view.split(weight)):
        alone = matrices[0][index]
        for factor in matrices[1:]:
            alone = factor[index] @ alone
        torch.testing.assert_close(alone, matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_error_of_a_balanced_start_by_dtype(dtype: torch.dtype, depth: int) -> None:
    """In float32 to 1e-6; in half precision to a few roundings of the factors."""
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    layout = make_layout(linear_view((96, 64)), "matrix", depth, None)
    factors = initial_factors(layout, weight)
    product = layout.product([factor.float() for factor in factors])
    gap = float((product - weight.float()).norm() / weight.float().norm())
    assert gap <= (1e-6 if dtype == torch.float32 else depth * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_balanced_start_at_every_scale(scale: float) -> None:
    weight = scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    layout = make_layout(linear_view((5, 4)), "matrix", 2, None)
    product = layout.product(initial_factors(layout, weight))
    torch.testing.assert_close(product / scale, weight / scale, rtol=1e-5, atol=1e-6)
