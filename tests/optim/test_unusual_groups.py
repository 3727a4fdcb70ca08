"""Groups, gradients and checkpoints that few have, and what must not be lost by them."""

import pytest
import torch
from torch import nn

from overparam import EndToEnd, Factored, Radial
from overparam.rule.fast import update_of_rows

WRAPPERS = {"rule": EndToEnd, "factors": Factored, "radial": Radial}
every_wrapper = pytest.mark.parametrize("kind", WRAPPERS.values(), ids=WRAPPERS)


@every_wrapper
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_gradients_of_plain_parameters_train_them(kind, dtype):
    embedding, head = nn.Embedding(4, 3, sparse=True).to(dtype), nn.Linear(3, 2).to(dtype)
    model = nn.Sequential(embedding, head)
    optimizer = kind(model, lr=0.1, inner="sgd", overrides={"0": {kind_option(kind): 1}})
    before = embedding.weight.detach().clone()
    model(torch.tensor([0, 1])).sum().backward()
    optimizer.step()
    moved = (embedding.weight != before).any(dim=1)
    assert moved.tolist() == [True, True, False, False]


def kind_option(kind) -> str:
    return "radial" if kind is Radial else "depth"


@every_wrapper
def test_a_checkpoint_with_a_fallback_needs_one(kind):
    model = nn.Linear(3, 2)
    saved = kind(model, lr=0.1, inner="sgd", fallback="adamw").state_dict()
    params = list(model.parameters())
    other = kind([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, inner="sgd")
    with pytest.raises(ValueError, match="group 1 was the fallback's"):
        other.load_state_dict(saved)
    other.param_groups[0]["fallback"] = True
    with pytest.raises(ValueError, match="group 0 asks for the fallback, and there is none"):
        other.step()


@every_wrapper
@pytest.mark.parametrize("what", ["no groups", "one more", "one less"])
def test_groups_that_are_changed_by_hand_step_as_in_torch(kind, what):
    model, extra = nn.Linear(3, 2), nn.Parameter(torch.ones(2))
    optimizer = kind(model, lr=0.1, inner="adamw")
    params = optimizer.param_groups[0]["params"]
    if what == "no groups":
        optimizer.param_groups.clear()
    elif what == "one more":
        params.append(extra)
    else:
        params.pop()
    (model(torch.ones(1, 3)) * extra).sum().backward()
    before = [p.detach().clone() for p in (model.weight, model.bias, extra)]
    optimizer.step()
    moved = [not torch.equal(p, b) for p, b in zip((*model.parameters(), extra), before)]  # noqa: B905
    expected = {"no groups": [False] * 3, "one more": [True] * 3, "one less": [True, False, False]}
    assert moved == expected[what]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (EndToEnd, "depth", 0.5),
        (EndToEnd, "granularity", "rows"),
        (EndToEnd, "normalize", "bad"),
        (EndToEnd, "basis_every", 0),
        (Radial, "radial", None),
        (Radial, "radial", -1),
        (Factored, "weight_decay_on", "both"),
    ],
)
def test_an_option_changed_to_nonsense_is_refused_before_anything_moves(kind, name, value):
    model = nn.Linear(3, 2)
    optimizer = kind(model, lr=0.1)
    optimizer.param_groups[0][name] = value
    before = model.weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises((ValueError, TypeError), match=f"{name}[ =]"):
        optimizer.step()
    assert torch.equal(model.weight, before)
    assert not optimizer.state


def test_a_refused_group_leaves_nothing_behind():
    def pair(size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, size), nn.Linear(size, size))

    optimizer = Factored(pair(4), lr=0.1, overrides={"1": {"width": 4}})
    refused = pair(6)
    before = refused[0].weight.detach().clone()
    with pytest.raises(ValueError, match="width 4 is below 6"):
        optimizer.add_param_group({"params": refused})
    optimizer.add_param_group({"params": pair(3)})
    assert torch.equal(refused[0].weight, before)
    assert not optimizer.factors(refused[0].weight)


def test_a_model_cast_before_the_first_step_is_factored_again():
    model = nn.Linear(5, 3)
    optimizer = Factored(model.parameters(), lr=0.1)
    model.double()
    model(torch.ones(1, 5).double()).sum().backward()
    optimizer.step()
    assert model.weight.dtype == torch.float64


@pytest.mark.parametrize("kind", [EndToEnd, Radial])
def test_factors_are_refused_by_optimizers_without(kind):
    model = nn.Linear(3, 2)
    saved = Factored(model, lr=0.1).state_dict()
    with pytest.raises(ValueError, match="it was saved by Factored"):
        kind(model, lr=0.1, inner="adamw").load_state_dict(saved)


def test_an_expanded_gradient_does_not_hide_the_error_of_the_inner_optimizer():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("the inner error")

    p = nn.Parameter(torch.ones(3))
    optimizer = Radial([p], lr=0.1, inner=Fails)
    p.grad = torch.ones(1).expand(3)
    with pytest.raises(RuntimeError, match="the inner error"):
        optimizer.step()


def test_parameters_on_two_devices_step():
    here = nn.Parameter(torch.ones(3, 3))
    there = nn.Parameter(torch.ones(3, 3, device="meta"))
    optimizer = EndToEnd([here, there], lr=0.1, capturable=True)
    for p in (here, there):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert not torch.equal(here, torch.ones(3, 3))


def test_rows_at_the_end_of_the_range_have_a_direction():
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    found = [
        update_of_rows(torch.full((1, 4), size), gradient, 2.0, normalize=True)
        for size in (1e38, 1.8e38, 3e38)
    ]
    assert torch.allclose(found[1], found[0])
    assert torch.allclose(found[2], found[0])
