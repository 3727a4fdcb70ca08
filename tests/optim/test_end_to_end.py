"""EndToEnd against the reference rule, explicit products and SGD."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.optim_cases import Count, assert_same_bits, mixed, mixed_loss, parameters_of, run
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam import (
    end_to_end_update,
    single_output_update,
)
from overparam.layers import MatrixView, parameter_view
from overparam.optim import EndToEnd

check = settings(deadline=None, max_examples=20, derandomize=True)


def moved(p: nn.Parameter, *, lr: float = 1.0, **options) -> Tensor:
    """The direction of one step."""
    before = p.detach().clone()
    EndToEnd([p], lr, **options).step()
    return (before - p.detach()) / lr


MATRIX_LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), "weight"),
    "tall": (lambda: nn.Linear(3, 7), "weight"),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), "weight"),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), "weight"),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), "weight"),
    "depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4), "weight"),
    "packed attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight"),
    "gates": (lambda: nn.LSTM(3, 5), "weight_ih_l0"),
}


def layer_with_gradient(layer: str) -> tuple[nn.Module, nn.Parameter, MatrixView]:
    """One of the layers, its weight with a gradient, and the matrices of the weight."""
    torch.manual_seed(0)
    make, name = MATRIX_LAYERS[layer]
    module = make().double()
    p = getattr(module, name)
    p.grad = torch.randn_like(p)
    view = parameter_view(module, name)
    assert view is not None
    return module, p, view


@pytest.mark.parametrize("basis", ["exact", "tracked"])
@pytest.mark.parametrize("depth", [1.5, 2, 3, math.inf])
@pytest.mark.parametrize("layer", MATRIX_LAYERS)
def test_the_raw_step_is_the_rule_on_each_matrix(layer: str, depth: float, basis: str) -> None:
    module, p, view = layer_with_gradient(layer)
    expected = view.join(end_to_end_update(view.split(p.detach()), view.split(p.grad), depth))
    before = p.detach().clone()
    EndToEnd(module, 1.0, depth, normalize=False, basis=basis).step()
    torch.testing.assert_close(before - p.detach(), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("layer", MATRIX_LAYERS)
def test_row_granularity_is_the_single_output_rule_of_each_row(layer: str) -> None:
    module, p, view = layer_with_gradient(layer)
    expected = view.join(single_output_update(view.split(p.detach()), view.split(p.grad), 3))
    before = p.detach().clone()
    EndToEnd(module, 1.0, 3, normalize=False, granularity="row").step()
    torch.testing.assert_close(before - p.detach(), expected)


@pytest.mark.parametrize("granularity", ["auto", "row"])
@pytest.mark.parametrize("layer", MATRIX_LAYERS)
def test_each_matrix_has_a_normalization_of_its_own(layer: str, granularity: str) -> None:
    """The step does not change when one of the matrices of a weight is scaled."""
    module, p, view = layer_with_gradient(layer)
    moves = []
    for scale in (1.0, 10.0):
        with torch.no_grad():
            matrices = view.split(p).clone()
            matrices[0] *= scale
            p.copy_(view.join(matrices))
        before = p.detach().clone()
        EndToEnd(module, 1.0, 3, granularity=granularity).step()
        moves.append(before - p.detach())
        with torch.no_grad():
            p.copy_(before)
    torch.testing.assert_close(*moves)


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_coarser_granularities_are_the_single_output_rule(granularity: str) -> None:
    p = drawn(4, 3, 2)
    weight, gradient = p.detach(), p.grad
    if granularity == "row":
        expected = single_output_update(weight.flatten(1), gradient.flatten(1), 3).view(4, 3, 2)
    else:
        expected = single_output_update(weight.flatten(), gradient.flatten(), 3).view(4, 3, 2)
    update = moved(p, depth=3, granularity=granularity, normalize=False)
    torch.testing.assert_close(update, expected)


def test_embeddings_leave_unseen_rows_alone() -> None:
    words = nn.Embedding(6, 4, padding_idx=0).double()
    before = words.weight.detach().clone()
    words(torch.tensor([[0, 2, 5]])).sum().backward()
    EndToEnd(words, 1.0, depth=3, targets="embedding").step()
    changed = (words.weight.detach() != before).any(1)
    assert changed.tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (1, 2, 3)])
def test_one_row_or_column(shape: tuple[int, ...]) -> None:
    p = drawn(*shape)
    expected = single_output_update(p.detach().flatten(), p.grad.flatten(), 3).view(shape)
    torch.testing.assert_close(moved(p, depth=3, normalize=False), expected)


def test_vectors_take_a_gradient_step_but_in_tensor_granularity() -> None:
    p = drawn(5)
    expected = single_output_update(p.detach(), p.grad, 3)
    torch.testing.assert_close(moved(p, depth=3, normalize=False), p.grad)
    p = drawn(5)
    torch.testing.assert_close(moved(p, depth=3, normalize=False, granularity="tensor"), expected)


@pytest.mark.parametrize("depth", [1.5, 2, 3, math.inf])
@pytest.mark.parametrize("granularity", ["matrix", "row", "tensor"])
def test_normalized_lr_is_in_units_of_sgd(granularity: str, depth: float) -> None:
    """No direction moves further than under SGD, and the dominant one exactly as far."""
    p = drawn(4, 6)
    assert moved(p, depth=depth, granularity=granularity).norm() <= p.grad.norm() * (1 + 1e-12)
    p = drawn(4, 6)
    left, _, right = torch.linalg.svd(p.detach())
    if granularity == "matrix":
        p.grad = left[:, :1] @ right[:1]
    elif granularity == "row":
        longest = p.detach().norm(dim=1).argmax()
        p.grad = torch.zeros_like(p)
        p.grad[longest] = p.detach()[longest]
    else:
        p.grad = p.detach().clone()
    dominant = p.grad.clone()
    torch.testing.assert_close(moved(p, depth=depth, granularity=granularity), dominant)


@pytest.mark.parametrize("nesterov", [False, True])
def test_depth_one_is_sgd_bit_for_bit(nesterov: bool) -> None:
    first, second = mixed(torch.float32), mixed(torch.float32)
    sgd = torch.optim.SGD(first.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
    ours = EndToEnd(second, 0.1, depth=1, momentum=0.9, nesterov=nesterov)
    run(first, sgd, 20)
    run(second, ours, 20)
    assert_same_bits(parameters_of(first), parameters_of(second))


@check
@given(st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99))
def test_depth_one_is_sgd_with_weight_decay(lr: float, decay: float, seed: int) -> None:
    first, second = drawn(3, 4, seed=seed), drawn(3, 4, seed=seed)
    torch.optim.SGD([first], lr=lr, weight_decay=decay).step()
    EndToEnd([second], lr, depth=1, weight_decay=decay).step()
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("options", [{}, {"granularity": "row"}, {"granularity": "tensor"}])
@pytest.mark.parametrize("normalize", [False, True])
def test_weight_decay_is_that_of_the_inner_optimizer(options, normalize: bool) -> None:
    p = drawn(3, 4)
    p.grad.zero_()
    before = p.detach().clone()
    EndToEnd([p], 0.1, depth=3, weight_decay=0.2, normalize=normalize, **options).step()
    torch.testing.assert_close(p.detach(), before * (1 - 0.1 * 0.2))


def test_the_rule_comes_first_and_momentum_follows() -> None:
    p, gradients = drawn(3, 4), [drawn(3, 4, seed=seed).grad for seed in (1, 2)]
    weight = p.detach().clone()
    optimizer = EndToEnd([p], 0.1, depth=2, momentum=0.9, normalize=False)
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        buffer = 0.9 * buffer + end_to_end_update(weight, gradient, 2)
        weight = weight - 0.1 * buffer
        torch.testing.assert_close(p.detach(), weight)
        assert torch.equal(p.grad, gradient)


@check
@given(st.sampled_from([(3, 5), (5, 3), (4, 4)]), st.floats(1, 6), st.integers(0, 99))
def test_step_properties(shape: tuple[int, int], depth: float, seed: int) -> None:
    """Descent, orthogonal equivariance, transpose symmetry and homogeneity of whole steps."""
    p = drawn(*shape, seed=seed)
    weight, gradient = p.detach().clone(), p.grad.clone()
    update = moved(p, depth=depth, normalize=False)
    assert (gradient * update).sum() > 0

    def step(weight: Tensor, gradient: Tensor) -> Tensor:
        p = nn.Parameter(weight.clone())
        p.grad = gradient.clone()
        return moved(p, depth=depth, normalize=False)

    q, r = (torch.linalg.qr(drawn(size, size, seed=seed + 1).detach()).Q for size in shape)
    close = {"atol": 1e-9, "rtol": 1e-9}
    torch.testing.assert_close(step(q @ weight @ r, q @ gradient @ r), q @ update @ r, **close)
    torch.testing.assert_close(step(weight.mT, gradient.mT), update.mT, **close)
    torch.testing.assert_close(step(2 * weight, 3 * gradient), 3 * 2 ** (2 - 2 / depth) * update,
                               **close)  # fmt: skip


def test_groups_override_options() -> None:
    model = mixed()
    groups = [
        {"params": model.words, "depth": 1},
        {"params": model.conv, "depth": 4, "lr": 0.5},
        {"params": [("mix", model.mix.weight)], "granularity": "row"},
        {"params": model.attention.named_parameters(), "normalize": False},
        {"params": [("head", model.head.weight)], "granularity": "tensor"},
    ]
    optimizer = EndToEnd(groups, 0.1, depth=2)
    rows = {row["parameter"]: row for row in optimizer.routing()}
    assert rows["weight"]["depth"] == "4"
    assert rows["in_proj_weight"]["matrices"] == "3 x (6, 6)"
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.1, 0.1, 0.1]
    before = mixed_loss(model)
    assert run(model, optimizer, 10) < before


@pytest.mark.parametrize("names", [True, False])
def test_modules_go_with_groups_with_and_without_names(names: bool) -> None:
    model = mixed()
    rest = [(n, p) for n, p in model.named_parameters() if not n.startswith(("conv", "words"))]
    others = iter(rest) if names else (p for _, p in rest)
    optimizer = EndToEnd([{"params": model.conv, "depth": 3}, {"params": others}], 0.1)
    optimizer.add_param_group({"params": model.words, "depth": 1})
    first, *middle, last = optimizer.routing()
    assert (first["matrices"], first["depth"]) == ("2 x (2, 6)", "3")
    assert len(middle) == 1 + len(rest)
    assert (last["rule"], last["depth"]) == ("plain", "")
    assert first["parameter"] == ("weight" if names else "group 0, parameter 0")
    run(model, optimizer, 2)


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [("depth", 1, 3), ("granularity", "row", "matrix"), ("momentum", 0, 0.9)],
)
@pytest.mark.parametrize("basis", ["exact", "tracked"])
def test_options_may_change_during_a_run(option: str, before, after, basis: str) -> None:
    p, twin = drawn(3, 4), drawn(3, 4)
    start = {"basis": basis, "normalize": False, "depth": 2, option: before}
    optimizer = EndToEnd([p], 0.1, **start)
    optimizer.step()
    with torch.no_grad():
        twin.copy_(p)
    optimizer.param_groups[0][option] = after
    optimizer.step()
    EndToEnd([twin], 0.1, **{**start, option: after}).step()
    close = 1e-12 if basis == "exact" else 1e-5
    torch.testing.assert_close(p, twin, atol=close, rtol=close)


def test_routing_says_for_each_parameter_which_rule_and_why() -> None:
    model = mixed()
    report = EndToEnd(model).routing()
    assert len(report) == len(list(model.parameters()))
    rules = {row["parameter"]: (row["rule"], row["matrices"]) for row in report}
    assert rules["words.weight"] == ("plain", "")
    assert rules["conv.weight"] == ("matrix", "2 x (2, 6)")
    assert rules["attention.in_proj_weight"] == ("matrix", "3 x (6, 6)")
    assert rules["norm.weight"] == ("plain", "")
    assert rules["head.weight"] == ("matrix", "1 x (3, 6)")
    text = str(report)
    assert "embedding: not among the targets" in text
    assert "acts entry by entry" in text
    assert all(row["reason"] in text for row in report)
    words = next(iter(EndToEnd(model, targets="all").routing()))
    assert (words["rule"], words["matrices"]) == ("row", "11 x (4,)")
    assert "rows without gradient stay" in words["reason"]
    tall = EndToEnd(nn.Linear(2, 9)).routing()
    assert next(iter(tall))["matrices"] == "1 x (9, 2)"


def test_bare_parameters_are_read_by_shape_and_name() -> None:
    model = mixed()
    rules = [row["reason"] for row in EndToEnd(model.parameters()).routing()]
    assert rules[0] == "read by its shape"
    named = EndToEnd(model.named_parameters()).routing()
    assert [row["matrices"] for row in named if "in_proj_weight" in row["parameter"]] == [
        "3 x (6, 6)"
    ]


@pytest.mark.parametrize("foreach", [None, False])
def test_stacking_changes_nothing(foreach: bool | None) -> None:
    """Same-shape parameters, one of them without a gradient, are independent of each other."""
    params = [drawn(4, 4, seed=seed) for seed in range(4)] + [drawn(8, 4, seed=9)]
    params[2].grad = None
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer = EndToEnd(params, 0.1, depth=3, momentum=0.5, foreach=foreach)
    for one, p in zip(alone, params, strict=True):
        one.grad = None if p.grad is None else p.grad.clone()
    separate = [EndToEnd([p], 0.1, depth=3, momentum=0.5) for p in alone]
    for _ in range(3):
        optimizer.step()
        for each in separate:
            each.step()
    for one, p in zip(alone, params, strict=True):
        torch.testing.assert_close(one, p)


@pytest.mark.parametrize("basis", ["exact", "tracked"])
def test_parameters_of_one_shape_take_one_batched_call(basis: str) -> None:
    products = {}
    for count, foreach in ((1, None), (5, None), (5, False)):
        params = [drawn(3, 4, seed=seed) for seed in range(count)]
        optimizer = EndToEnd(params, 1e-3, basis=basis, foreach=foreach)
        with Count(torch.ops.aten.bmm.default) as counted:
            optimizer.step()
        products[count, foreach] = counted.calls
    assert products[5, None] == products[1, None] > 0
    assert products[5, False] == 5 * products[1, None]


def test_zero_weights_warn_and_a_floor_lets_them_move() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    with pytest.warns(UserWarning, match="parameter 0.*singular_value_floor"):
        EndToEnd([p])
    p.grad = torch.ones(3, 4)
    EndToEnd([p], 0.1, depth=3, singular_value_floor=1e-3).step()
    torch.testing.assert_close(p.detach(), torch.full((3, 4), -0.1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ({"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
        ({"nesterov": True}, ValueError, "requires a momentum"),
        ({"weight_decay": -1.0}, ValueError, "Invalid weight_decay"),
        ({"inner": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, TypeError, "is an instance"),
        ({"inner": "adamn"}, ValueError, "Did you mean 'adam"),
        ({"inner": 0.9}, TypeError, "inner is 0.9"),
        ({"inner": torch.optim.LBFGS}, TypeError, "calls the model by itself"),
        ({"inner": EndToEnd}, TypeError, "inner optimizer of its own"),
        ({"fallback_options": {"lr": 1}}, ValueError, "no meaning without fallback"),
        ({"depth": 0.5}, ValueError, "depth is 0.5"),
        ({"depth": torch.tensor(2.0)}, TypeError, "depth is a tensor"),
        ({"granularity": "column"}, ValueError, "auto, matrix, row, tensor"),
        ({"basis": "qr"}, ValueError, "auto, exact, tracked"),
        ({"singular_value_floor": -1}, ValueError, "singular_value_floor"),
        ({"singular_value_floor": math.inf}, ValueError, "singular_value_floor is inf"),
        ({"differentiable": True, "singular_value_floor": 1.0}, ValueError, "set only one"),
    ],
)
def test_errors_name_the_value(options, error, words) -> None:
    with pytest.raises(error, match=words):
        EndToEnd([nn.Parameter(torch.randn(3, 4))], **options)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"params": [nn.Parameter(torch.randn(2, 3))], "depth": 0}, "depth is 0"),
        ({"params": [nn.Parameter(torch.randn(2, 3))], "views": []}, "0 entries for 1"),
        (
            {
                "params": [nn.Parameter(torch.randn(2, 3))],
                "views": [("named", "x", (3, 2), 1, 3, 2)],
            },
            "is for",
        ),
        ({"params": nn.ReLU()}, "ReLU has no parameters"),
    ],
)
def test_a_bad_group_is_refused_and_leaves_the_optimizer_as_it_was(group, words: str) -> None:
    p = drawn(3, 4)
    optimizer = EndToEnd([p])
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    optimizer.step()


def test_the_jump_from_a_huge_depth_to_its_limit_is_warned_about() -> None:
    layer = nn.Linear(3, 2)
    with pytest.warns(UserWarning, match=r"depth is 1e\+06: the update grows in proportion"):
        EndToEnd(layer, lr=0.1, depth=1e6, normalize=False)
    with pytest.warns(UserWarning, match="grows in proportion"):
        EndToEnd([{"params": [layer.weight], "depth": 1001}], lr=0.1, normalize=False)
    EndToEnd(layer, lr=0.1, depth=1e6, normalize=True)  # which takes the growth out
    EndToEnd(layer, lr=0.1, depth=1000, normalize=False)
    EndToEnd([layer.bias], lr=0.1, depth=1e6, normalize=False)  # no weight is under the rule
