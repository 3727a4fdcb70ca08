"""The metric step and the rule on both sides of the inner optimizer, Muon among them."""

import copy
import math

import pytest
import torch
from support.family_cases import LAYERS, largest_eigenvalues, layer, moved
from support.optim_cases import assert_same_bits
from support.optim_cases import weight_with_gradient as drawn
from torch import nn

from overparam import EndToEnd, end_to_end_update
from overparam.rule.sign import preconditioned_sign

# The metric step


@pytest.mark.parametrize("basis", ["exact", "tracked"])
@pytest.mark.parametrize("imbalance", [0.0, 0.7])
@pytest.mark.parametrize("name", LAYERS)
def test_the_metric_step_has_length_one_for_each_matrix(name: str, imbalance, basis: str) -> None:
    moves = []
    for scale in (1.0, 1e-3):
        module, p, view = layer(name)
        p.grad *= scale
        gradient = view.split(p.grad)
        expected = end_to_end_update(view.split(p.detach()), gradient, 2, imbalance=imbalance)
        length = (gradient * expected).sum((-2, -1), keepdim=True).sqrt()
        options = {"imbalance": imbalance, "normalize": "metric", "basis": basis}
        moves.append(moved(p, module, **options))
        torch.testing.assert_close(moves[-1], view.join(expected / length), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*moves)


@pytest.mark.parametrize("granularity", ["row", "tensor", "entry"])
def test_rows_and_entries_of_a_matrix_share_one_length(granularity: str) -> None:
    p = drawn(4, 6)
    raw = moved(p, depth=3, granularity=granularity, normalize=False)
    p = drawn(4, 6)
    update = moved(p, depth=3, granularity=granularity, normalize="metric")
    torch.testing.assert_close(update, raw / (p.grad * raw).sum().sqrt())


def test_the_metric_step_is_differentiable_and_leaves_a_zero_gradient_alone() -> None:
    steps = []
    for differentiable in (False, True):
        p = drawn(4, 6)
        p = p.detach().clone().requires_grad_() + 0 if differentiable else p
        p.grad = drawn(4, 6).grad
        options = {"differentiable": True} if differentiable else {}
        start = p.detach().clone()
        EndToEnd([p], 1.0, normalize="metric", **options).step()
        steps.append(start - p.detach())
    torch.testing.assert_close(*steps)
    p = drawn(4, 6)
    p.grad.zero_()
    assert not moved(p, normalize="metric").any()


# Both sides


class ExactMuon(torch.optim.Optimizer):
    """``msign`` by a decomposition, with momentum and decoupled decay."""

    def __init__(self, params, lr=1.0, momentum=0.0, weight_decay=0.0) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "decoupled_weight_decay": True})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.mul_(group["momentum"]).add_(p.grad)
                u, _, v = torch.linalg.svd(average, full_matrices=False)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * (u @ v))


@pytest.mark.parametrize("basis", ["exact", "tracked"])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_muon_on_both_sides_is_the_sign_between_two_roots(shape: tuple[int, int], basis) -> None:
    for depth, imbalance in ((2, 0.7), (3, (0.4, 0.0, 1.3)), (2.5, 0.0)):
        p = drawn(*shape)
        weight = p.detach().clone()
        expected = preconditioned_sign(weight, p.grad, depth, imbalance=imbalance)
        options = {"imbalance": imbalance, "inner": ExactMuon, "basis": basis, "both_sides": True}
        update = moved(p, depth=depth, normalize=False, **options)
        torch.testing.assert_close(update, expected, rtol=1e-9, atol=1e-9)
        p = drawn(*shape)
        largest = largest_eigenvalues(weight, depth, imbalance)
        update = moved(p, depth=depth, **options)
        torch.testing.assert_close(update, expected / largest.sqrt(), rtol=1e-9, atol=1e-9)


def test_decay_on_both_sides_is_that_of_the_weight() -> None:
    steps = []
    for weight_decay in (0.0, 0.5):
        p = drawn(4, 6)
        start = p.detach().clone()
        options = {"imbalance": 0.7, "inner": ExactMuon, "both_sides": True}
        EndToEnd([p], 0.1, weight_decay=weight_decay, **options).step()
        steps.append(p.detach() - start * (1 - 0.1 * weight_decay))
    torch.testing.assert_close(*steps)


@pytest.mark.parametrize("granularity", ["matrix", "row", "tensor", "entry"])
@pytest.mark.parametrize("basis", ["exact", "tracked"])
def test_sgd_on_both_sides_is_the_rule(granularity: str, basis: str) -> None:
    for depth, imbalance in ((2, 0.0), (1.5, 0.0), (3, (0.4, 0.0, 1.3)), (math.inf, 0.0)):
        moves = []
        for both_sides in (False, True):
            p = drawn(4, 6)
            options = {"imbalance": imbalance, "granularity": granularity, "basis": basis}
            moves.append(moved(p, depth=depth, both_sides=both_sides, **options))
        torch.testing.assert_close(*moves, rtol=1e-9, atol=1e-9)


def test_large_imbalance_on_both_sides_is_muon() -> None:
    ends = []
    for make in (
        lambda p: torch.optim.Muon([p], lr=0.1, momentum=0.9),
        lambda p: EndToEnd([p], 0.1, inner="muon", imbalance=1e9, both_sides=True, momentum=0.9),
    ):
        p = drawn(8, 12)
        optimizer = make(p)
        for seed in range(5):
            p.grad = drawn(8, 12, seed=seed).grad
            optimizer.step()
        ends.append(p.detach())
    # Muon's sign is found in bfloat16.
    torch.testing.assert_close(*ends, rtol=0, atol=0.01)


def test_a_stack_of_weights_of_half_precision_is_halved_in_single_precision() -> None:
    single = [drawn(4, 6, dtype=torch.bfloat16, seed=seed) for seed in range(3)]
    wide = [nn.Parameter(p.detach().float()) for p in single]
    for narrow, p in zip(single, wide, strict=True):
        p.grad = narrow.grad.float()
    for params in (single, wide):
        EndToEnd(params, 0.1, inner=ExactMuon, imbalance=0.5, both_sides=True).step()
    for narrow, p in zip(single, wide, strict=True):
        assert torch.equal(narrow, p.bfloat16())


def test_runs_on_both_sides_are_saved_and_skip_what_is_not_finite() -> None:
    options = {"inner": ExactMuon, "imbalance": 0.5, "both_sides": True, "momentum": 0.9}
    p, other = drawn(4, 6), drawn(4, 6, seed=1)
    optimizer = EndToEnd([p, other], 0.1, basis="tracked", basis_every=2, **options)
    for _ in range(3):
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    q, second = nn.Parameter(p.detach().clone()), nn.Parameter(other.detach().clone())
    q.grad, second.grad = p.grad.clone(), other.grad.clone()
    again = EndToEnd([q, second], 0.2, inner=ExactMuon)
    again.load_state_dict(saved)
    for _ in range(3):
        optimizer.step()
        again.step()
    assert_same_bits([p.detach(), other.detach()], [q.detach(), second.detach()])
    before = p.detach().clone(), other.detach().clone()
    p.grad[0, 0] = math.nan
    optimizer.step()
    assert torch.equal(p, before[0])
    assert not torch.equal(other, before[1])
    assert optimizer.state[p]["skipped"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "length"}, "normalize is 'length'; use True, False or \"metric\""),
        ({"normalize": None}, "normalize is None; use True"),
        ({"normalize": "metric", "both_sides": True}, "both_sides is True.*set only one"),
        ({"differentiable": True, "both_sides": True}, "both_sides is True.*set only one"),
        ({"weight_decay": 0.1, "both_sides": True}, "weight_decay is 0.1 and SGD is not known to"),
        ({"inner": "adam", "weight_decay": 0.1, "both_sides": True}, "Use AdamW, Adafactor or"),
    ],
)
def test_bad_words_name_value_and_remedy(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndToEnd([drawn(4, 6)], 0.1, **options)
