"""The end-to-end rule against its ground truths, and at the edges of its domain."""

import math

import mpmath
import pytest
import torch
from support.core_cases import CASES, DEPTHS, TOLERANCE, Case, normal
from support.oracles import exact_rule, relative_error, spectral_rule, sum_over_factors

from overparam import end_to_end_update, preconditioner_spectrum, single_output_update

DTYPES = (torch.float64, torch.float32)


def skip_if_too_coarse(case: Case, dtype: torch.dtype) -> None:
    if case.float64_only and dtype != torch.float64:
        pytest.skip("float32 does not hold this matrix")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_depth_matches_the_oracle(case: Case, dtype: torch.dtype) -> None:
    skip_if_too_coarse(case, dtype)
    weight, gradient = case.weight(dtype), case.gradient(dtype)
    for depth in DEPTHS:
        expected = spectral_rule(weight, gradient, depth, case.rank)
        update = end_to_end_update(weight, gradient, depth)
        assert update.dtype == dtype
        assert relative_error(update, expected) <= case.tolerance(depth, dtype), depth
        if float(depth).is_integer():
            textbook = sum_over_factors(weight, gradient, int(depth), case.rank)
            assert relative_error(update, textbook) <= case.tolerance(depth, dtype), depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_fifty_digits_agree(depth: float) -> None:
    case = Case("small", 3, 4, (2.0, 1.0, 1e-3))
    weight, gradient = case.weight(), case.gradient()
    exact = exact_rule(mpmath.matrix(weight.tolist()), mpmath.matrix(gradient.tolist()), depth)
    expected = torch.tensor([float(x) for x in exact], dtype=torch.float64).view(3, 4)
    assert relative_error(end_to_end_update(weight, gradient, depth), expected) <= 1e-13
    assert relative_error(spectral_rule(weight, gradient, depth, 3), expected) <= 1e-13


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_rank_of_integer_matrices_is_seen(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-9, 10, (6, 3), generator=generator).to(dtype)
    weight = left @ torch.randint(-9, 10, (3, 9), generator=generator).to(dtype)
    gradient = normal(6, 9, seed=seed).to(dtype)
    for depth in DEPTHS:
        expected = spectral_rule(weight, gradient, depth, rank=3)
        update = end_to_end_update(weight, gradient, depth)
        assert relative_error(update, expected) <= TOLERANCE[dtype], depth


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient_scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("weight_scale", [1e-20, 1e20])
@pytest.mark.parametrize(("m", "n", "singular"), [(3, 5, (2.0, 1.0)), (1, 4, (3.0,))])
def test_scales(
    m: int,
    n: int,
    singular: tuple[float, ...],
    weight_scale: float,
    gradient_scale: float,
    dtype: torch.dtype,
) -> None:
    case = Case("scaled", m, n, singular)
    weight = (case.weight() * weight_scale).to(dtype)
    gradient = (case.gradient() * gradient_scale).to(dtype)
    limits = torch.finfo(dtype)
    for depth in DEPTHS:
        expected = spectral_rule(weight, gradient, depth, case.rank)
        update = end_to_end_update(weight, gradient, depth)
        assert not update.isnan().any()
        if expected.abs().max() > limits.max:
            large = expected.abs() > 1.001 * limits.max
            assert torch.equal(update.isinf(), large), depth
        elif expected.abs().max() < limits.smallest_normal:
            close = (update.double() - expected).abs() <= limits.smallest_normal * limits.eps
            assert close.all(), depth
        else:
            assert relative_error(update, expected) <= TOLERANCE[dtype], depth


def test_beyond_float64_is_inf_or_zero_and_never_nan() -> None:
    weight = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    for scale, expected in ((1e300, torch.inf), (1e-300, 0.0)):
        update = end_to_end_update(weight * scale, torch.eye(2).double() * scale, math.inf)
        assert update.diagonal().tolist() == [expected, expected]
        assert update[0, 1] == update[1, 0] == 0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 0), (0, 1), (0, 2, 3), (2, 0, 3)])
@pytest.mark.parametrize("depth", [1, 2.5, math.inf, torch.tensor(3.0)])
def test_empty(shape: tuple[int, ...], depth: float | torch.Tensor) -> None:
    assert end_to_end_update(torch.empty(shape), torch.empty(shape), depth).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", DEPTHS)
def test_half_precision_is_rounded_once(depth: float, dtype: torch.dtype) -> None:
    weight, gradient = normal(4, 6, seed=1).to(dtype), normal(4, 6, seed=2).to(dtype)
    expected = spectral_rule(weight, gradient, depth, rank=4)
    update = end_to_end_update(weight, gradient, depth)
    assert update.dtype == dtype
    assert ((update.double() - expected).abs() <= expected.abs() * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1)])
def test_depth_one_is_gradient_descent_bit_for_bit(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight, gradient = normal(*shape, seed=1).to(dtype), normal(*shape, seed=2).to(dtype)
    assert torch.equal(end_to_end_update(weight, gradient, 1), gradient)
    assert torch.equal(end_to_end_update(weight, gradient, torch.tensor(1)), gradient)
    depths = torch.tensor([1.0, 2.0, 1.0, math.inf])
    assert torch.equal(end_to_end_update(weight, gradient, depths)[::2], gradient.expand(2, *shape))


def test_result_never_aliases_the_gradient() -> None:
    gradient = normal(3, 4, seed=1)
    end_to_end_update(gradient, gradient, 1).zero_()
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 5)])
def test_leading_dimensions_broadcast(shape: tuple[int, int]) -> None:
    weight = normal(4, 1, *shape, seed=1)
    gradient = normal(3, *shape, seed=2)
    depth = torch.tensor([[[1.0]], [[2.5]]])  # (2, 1, 1)
    update = end_to_end_update(weight, gradient, depth)
    assert update.shape == (2, 4, 3, *shape)
    for d in range(2):
        for w in range(4):
            for g in range(3):
                alone = end_to_end_update(weight[w, 0], gradient[g], float(depth[d]))
                assert relative_error(update[d, w, g], alone) <= 1e-14


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 6)])
def test_slots_are_independent(shape: tuple[int, int]) -> None:
    weight, gradient = normal(8, *shape, seed=1), normal(8, *shape, seed=2)
    depth = torch.tensor([1, 1.5, 2, 2.5, 3, 5, 8, math.inf])
    clean = end_to_end_update(weight, gradient, depth)
    slots = zip(weight, gradient, depth, strict=True)
    alone = [end_to_end_update(w, g, d) for w, g, d in slots]
    assert relative_error(clean, torch.stack(alone)) <= 1e-14
    for broken, value in ((weight, math.nan), (gradient, math.inf)):
        broken[3, 0, 0] = value
    broken_update = end_to_end_update(weight, gradient, depth)
    keep = torch.arange(8) != 3
    assert torch.equal(broken_update[keep], clean[keep])
    assert broken_update[3].isnan().all()


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 6), (6, 1)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_non_finite_input_gives_nan(shape: tuple[int, int], value: float, which: int) -> None:
    matrices = [normal(*shape, seed=1), normal(*shape, seed=2)]
    matrices[which][-1, 0] = value
    for depth in DEPTHS[1:]:
        assert end_to_end_update(matrices[0], matrices[1], depth).isnan().all(), depth


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 6)])
def test_strides_do_not_matter_and_inputs_stay(shape: tuple[int, int]) -> None:
    weight, gradient = normal(3, *shape, seed=1), normal(3, *shape, seed=2)
    expected = end_to_end_update(weight, gradient, 2.5)
    strided_weight = weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    strided_gradient = gradient.repeat_interleave(2, dim=-1)[..., ::2]
    before = strided_weight.clone(), strided_gradient.clone()
    update = end_to_end_update(strided_weight, strided_gradient, 2.5)
    assert relative_error(update, expected) <= 1e-14
    assert torch.equal(strided_weight, before[0])
    assert torch.equal(strided_gradient, before[1])


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 6)])
def test_vmap_is_the_batch(shape: tuple[int, int]) -> None:
    weight, gradient = normal(3, *shape, seed=1), normal(3, *shape, seed=2)
    mapped = torch.vmap(lambda w, g: end_to_end_update(w, g, 2.5))(weight, gradient)
    assert relative_error(mapped, end_to_end_update(weight, gradient, 2.5)) <= 1e-14
    depth = torch.tensor([1.0, 2.5, math.inf])
    each = torch.vmap(end_to_end_update)(weight, gradient, depth)
    assert relative_error(each, end_to_end_update(weight, gradient, depth)) <= 1e-14
    one = torch.vmap(lambda d: end_to_end_update(weight, gradient, d))(depth)
    assert relative_error(one[1], end_to_end_update(weight, gradient, 2.5)) <= 1e-14
    with pytest.raises(ValueError, match=r"depth contains 0\.5"):
        torch.vmap(end_to_end_update)(weight, gradient, depth / 2)
    shared = torch.vmap(lambda g: end_to_end_update(weight[0], g, 2.5))(gradient)
    assert relative_error(shared, end_to_end_update(weight[0], gradient, 2.5)) <= 1e-14


@pytest.mark.parametrize("scale", [1e3, 1e15])
@pytest.mark.filterwarnings("ignore:depth is 1e.15")
def test_infinite_depth_is_the_limit(scale: float) -> None:
    weight, gradient = normal(4, 6, seed=1), normal(4, 6, seed=2)
    limit = end_to_end_update(weight, gradient, math.inf)
    error = relative_error(end_to_end_update(weight, gradient, scale) / scale, limit)
    assert error <= 5 / scale + 1e-13


def test_a_depth_that_is_nearly_infinite_draws_a_warning() -> None:
    weight = normal(3, 4, seed=1)
    for rule in (end_to_end_update, single_output_update):
        with pytest.warns(UserWarning, match=r"depth is 1e\+06.* depth=math\.inf returns"):
            rule(weight, weight, 1e6)
    with pytest.warns(UserWarning, match="grows in proportion"):
        preconditioner_spectrum(weight, 1001)
