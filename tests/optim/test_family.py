"""Imbalance and entries in EndToEnd: against the pure functions, factors and bad input."""

import copy
import math

import pytest
import torch
from support.family_cases import LAYERS, OFFSETS, largest_eigenvalues, layer, moved
from support.optim_cases import assert_same_bits, mixed, parameters_of, run
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam import EndToEnd, balanced_factors, end_to_end_update
from overparam.rule.entrywise import entrywise_update


def rows_update(weight: Tensor, gradient: Tensor, depth: int, imbalance) -> Tensor:
    """Each row as a matrix of its own."""
    update = end_to_end_update(
        weight[..., None, :], gradient[..., None, :], depth, imbalance=imbalance
    )
    return update[..., 0, :]


# Imbalance


@pytest.mark.parametrize("basis", ["exact", "tracked"])
@pytest.mark.parametrize("depth", OFFSETS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_step_is_the_unbalanced_rule_on_each_matrix(name: str, depth: int, basis: str) -> None:
    for normalize in (False, True):
        module, p, view = layer(name)
        weight, gradient = view.split(p.detach().clone()), view.split(p.grad)
        expected = end_to_end_update(weight, gradient, depth, imbalance=OFFSETS[depth])
        if normalize:
            expected = expected / largest_eigenvalues(weight, depth, OFFSETS[depth])
        options = {"depth": depth, "imbalance": OFFSETS[depth], "basis": basis}
        update = moved(p, module, normalize=normalize, **options)
        torch.testing.assert_close(update, view.join(expected), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("depth", OFFSETS)
@pytest.mark.parametrize("name", ["linear", "tall", "transposed, grouped"])
def test_rows_are_unbalanced_matrices_of_their_own(name: str, depth: int) -> None:
    module, p, view = layer(name)
    weight, gradient = view.split(p.detach().clone()), view.split(p.grad)
    expected = rows_update(weight, gradient, depth, OFFSETS[depth])
    options = {"depth": depth, "imbalance": OFFSETS[depth], "granularity": "row"}
    update = moved(p, module, normalize=False, **options)
    torch.testing.assert_close(update, view.join(expected), atol=1e-12, rtol=1e-12)
    module, p, view = layer(name)
    largest = largest_eigenvalues(weight[..., None, :], depth, OFFSETS[depth])[..., 0]
    expected = expected / largest.amax(-2, keepdim=True)
    update = moved(p, module, **options)
    torch.testing.assert_close(update, view.join(expected), atol=1e-12, rtol=1e-12)


def test_a_whole_tensor_is_one_unbalanced_row() -> None:
    p = drawn(4, 3, 2)
    expected = rows_update(p.detach().reshape(1, -1), p.grad.reshape(1, -1), 2, 0.8).view(4, 3, 2)
    update = moved(p, imbalance=0.8, granularity="tensor", normalize=False)
    torch.testing.assert_close(update, expected)


@pytest.mark.filterwarnings("ignore:all-zero weights")
@pytest.mark.parametrize("granularity", ["auto", "matrix", "row", "tensor", "entry"])
def test_without_imbalance_the_step_is_that_of_before_bit_for_bit(granularity: str) -> None:
    ends = []
    for options in ({}, {"imbalance": 0.0}, {"imbalance": (1.0, 1.0)}):
        model = mixed(torch.float32)
        run(model, EndToEnd(model, 0.1, granularity=granularity, momentum=0.9, **options), 5)
        ends.append(parameters_of(model))
    assert_same_bits(ends[0], ends[1])
    assert_same_bits(ends[0], ends[2])


@pytest.mark.parametrize("lam", [0.5, -0.5])
@pytest.mark.parametrize("granularity", ["matrix", "row", "tensor", "entry"])
def test_zero_weights_move_by_lam_times_the_gradient(granularity: str, lam: float) -> None:
    p = drawn(4, 6)
    nn.init.zeros_(p)
    options = {"imbalance": lam, "granularity": granularity}
    torch.testing.assert_close(moved(p, normalize=False, **options), abs(lam) * p.grad)
    nn.init.zeros_(p)
    torch.testing.assert_close(moved(p, **options), p.grad)


def test_large_lam_is_gradient_descent() -> None:
    p = drawn(4, 6)
    torch.testing.assert_close(moved(p, imbalance=1e8), p.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("offsets", [(0.0, 0.6), (0.6, 0.0), (0.3, 0.0, 0.5), (0.0, 0.4, 0.2)])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_fifty_steps_follow_unbalanced_factors_with_an_error_linear_in_the_rate(
    offsets: tuple[float, ...], shape: tuple[int, int]
) -> None:
    depth, start, target = len(offsets), drawn(*shape).detach() / 2, drawn(*shape, seed=1).detach()
    errors = []
    for lr, steps in ((2e-3, 50), (1e-3, 100)):
        factors = [
            nn.Parameter(factor) for factor in balanced_factors(start, depth, imbalance=offsets)
        ]
        p = nn.Parameter(start.clone())
        sgd = torch.optim.SGD(factors, lr)
        rule = EndToEnd([p], lr, depth, imbalance=offsets, normalize=False)
        for _ in range(steps):
            product = torch.linalg.multi_dot([*reversed(factors)])
            sgd.zero_grad()
            (product - target).square().sum().backward()
            sgd.step()
            p.grad = 2 * (p.detach() - target)
            rule.step()
        product = torch.linalg.multi_dot([*reversed(factors)])
        errors.append(((p - product).norm() / (p - start).norm()).item())
    assert errors[0] < 0.05
    assert 0.4 < errors[1] / errors[0] < 0.6


@pytest.mark.parametrize("granularity", ["matrix", "row", "tensor", "entry"])
def test_the_differentiable_step_is_the_same(granularity: str) -> None:
    steps = []
    for differentiable in (False, True):
        p = drawn(4, 6)
        if differentiable:
            outer = p.detach().clone().requires_grad_()
            gradient = p.grad.clone().requires_grad_()
            p = outer.clone()
            p.grad = gradient
            options = {"differentiable": True}
        else:
            options = {}
        start = p.detach().clone()
        EndToEnd([p], 1.0, 3, imbalance=(0.4, 0.0, 1.3), granularity=granularity, **options).step()
        steps.append(start - p.detach())
    torch.testing.assert_close(*steps)
    p.square().sum().backward()
    assert gradient.grad.isfinite().all()
    assert outer.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:all-zero weights")
@pytest.mark.parametrize("granularity", ["matrix", "entry"])
def test_a_saved_run_goes_on_bit_for_bit_and_brings_its_imbalance(granularity: str) -> None:
    options = {"momentum": 0.9, "imbalance": [0.5, 0.0], "granularity": granularity}
    model = mixed()
    optimizer = EndToEnd(model, 0.1, basis="tracked", **options)
    run(model, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    run(model, optimizer, 3)
    other = mixed(seed=1)
    again = EndToEnd(other, 0.2, granularity=granularity, momentum=0.0)
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert again.param_groups[0]["imbalance"] == (0.5, 0.0)
    run(other, again, 3)
    assert_same_bits(parameters_of(model), parameters_of(other))


def test_a_checkpoint_from_before_the_family_is_loaded_with_todays_options() -> None:
    model = mixed()
    optimizer = EndToEnd(model, 0.1, momentum=0.9)
    run(model, optimizer, 2)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["imbalance"]
    again = EndToEnd(model, 0.1, momentum=0.9, imbalance=0.5)
    again.load_state_dict(saved)
    assert again.param_groups[0]["imbalance"] == 0.5
    run(model, again, 1)


def test_tracked_and_exact_runs_end_at_the_same_place() -> None:
    ends = []
    for basis in ("exact", "tracked"):
        p = drawn(8, 12)
        options = {"imbalance": (0.0, 0.5, 0.2), "normalize": False, "basis": basis}
        optimizer = EndToEnd([p], 0.01, depth=3, momentum=0.9, **options)
        for _ in range(100):
            p.grad = p.detach() - drawn(8, 12, seed=1).detach()
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0.02, atol=1e-3)


# Entries


@pytest.mark.parametrize("depth", [1.5, 2, 3, math.inf])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 3, 2)])
def test_each_entry_moves_as_a_product_of_numbers(shape: tuple[int, ...], depth: float) -> None:
    for imbalance in {0.0, OFFSETS.get(depth, 0.0)}:
        p = drawn(*shape)
        expected = entrywise_update(p.detach(), p.grad, depth, imbalance=imbalance)
        options = {"depth": depth, "granularity": "entry", "imbalance": imbalance}
        update = moved(p, normalize=False, **options)
        torch.testing.assert_close(update, expected, rtol=1e-12, atol=1e-12)
        slopes = entrywise_update(
            p.detach() + update, torch.ones_like(p), depth, imbalance=imbalance
        )
        p = drawn(*shape)
        torch.testing.assert_close(moved(p, **options), expected / slopes.max())


def test_small_steps_of_entries_are_multiplicative_and_keep_signs() -> None:
    p = drawn(50)
    start, gradient = p.detach().clone(), p.grad
    optimizer = EndToEnd([p], 0.3 / 500, granularity="entry", normalize=False)
    for _ in range(500):
        optimizer.step()
    exact = start * torch.exp(-0.6 * start.sign() * gradient)
    torch.testing.assert_close(p.detach(), exact, rtol=5e-3, atol=0)


def test_entries_of_half_precision_and_sparse_gradients() -> None:
    words = nn.Embedding(6, 4, sparse=True)
    before = words.weight.detach().clone()
    words(torch.tensor([[0, 2, 5]])).sum().backward()
    EndToEnd(words, 1.0, targets="embedding", granularity="entry").step()
    assert (words.weight.detach() != before).any(1).tolist() == [True, False, True] + 2 * [
        False
    ] + [True]
    p = drawn(4, 6, dtype=torch.bfloat16)
    expected = entrywise_update(p.detach().float(), p.grad.float(), 2, imbalance=0.5)
    torch.testing.assert_close(
        moved(p, lr=0.1, imbalance=0.5, granularity="entry", normalize=False).float(),
        expected,
        atol=0.2,
        rtol=0.05,
    )


# Bad input and reports


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"imbalance": 0.5, "depth": 3}, ValueError, "imbalance is 0.5, a single number"),
        ({"imbalance": 0.5, "depth": 2.5}, ValueError, "imbalance=0"),
        ({"imbalance": 0.5, "depth": math.inf}, ValueError, "imbalance=0"),
        ({"imbalance": (0.0, 1.0), "depth": 3}, ValueError, "lists 2 offset.*depth is 3"),
        ({"imbalance": math.nan}, ValueError, "imbalance is nan; offsets are finite"),
        ({"imbalance": (0.0, math.inf)}, ValueError, "offsets are finite"),
        ({"imbalance": "ab"}, TypeError, "imbalance is 'ab', a str"),
        ({"imbalance": None}, TypeError, "imbalance is None"),
        ({"imbalance": torch.tensor(0.5)}, TypeError, "pass a number"),
        (
            {"imbalance": 0.5, "singular_value_floor": 0.1},
            ValueError,
            "imbalance is 0.5 and singular_value_floor 0.1; set one",
        ),
        ({"granularity": "entries"}, ValueError, "granularity is 'entries'.*entry"),
    ],
)
def test_bad_input_names_value_and_remedy(options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        EndToEnd([drawn(4, 6)], 0.1, **options)


def test_an_imbalance_that_was_changed_to_a_bad_one_is_refused_before_anything_moves() -> None:
    p = drawn(4, 6)
    optimizer = EndToEnd([p], 0.1, imbalance=0.5)
    optimizer.param_groups[0]["imbalance"] = (0.0, 1.0, 2.0)
    before = p.detach().clone()
    with pytest.raises(ValueError, match="lists 3 offset"):
        optimizer.step()
    assert torch.equal(p, before)
    assert not optimizer.state[p]


def test_zero_weights_are_named_unless_they_move() -> None:
    p = nn.Parameter(torch.zeros(4, 6))
    with pytest.warns(UserWarning, match="stay zero.*give imbalance"):
        EndToEnd([p], 0.1)
    with pytest.warns(UserWarning, match="stay zero"):
        EndToEnd([p], 0.1, 3, imbalance=(0.0, 0.0, 1.0))
    EndToEnd([p], 0.1, imbalance=0.5)
    EndToEnd([p], 0.1, 3, imbalance=(0.0, 0.1, 1.0))


def test_depth_one_takes_any_imbalance_of_the_other_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = EndToEnd(model, 0.1, imbalance=0.5, overrides={"1": {"depth": 1}})
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()


def test_a_deep_finite_depth_without_normalization_is_named() -> None:
    with pytest.warns(UserWarning, match="depth is 2000: the update grows"):
        EndToEnd([drawn(4, 6)], 0.1, 2000, normalize=False)
    EndToEnd([drawn(4, 6)], 0.1, 2000)


def test_the_report_names_imbalance_and_entries() -> None:
    model = nn.Linear(3, 2)
    rows = {row["parameter"]: row for row in EndToEnd(model, 0.1, imbalance=0.5).routing()}
    assert "imbalance 0.5" in rows["weight"]["reason"]
    assert "imbalance" not in rows["bias"]["reason"]
    (row, _) = EndToEnd(model, 0.1, granularity="entry").routing()
    assert row["rule"] == "entry"
    assert "each entry as a product of numbers" in row["reason"]
