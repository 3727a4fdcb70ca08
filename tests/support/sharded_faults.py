"""What goes wrong on one process of several, and what is sent between them."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, distribute_tensor

from overparam import EndToEnd, Factored, Radial, factor_product
from overparam.optim.direction import directions
from overparam.sharded import rule
from overparam.sharded.exchange import measured
from overparam.sharded.plan import entries_of_end_to_end, entries_of_factored
from support.optim_cases import mixed
from support.sharded_cases import assert_equal, loss_of, train, whole
from support.sharded_layouts import by_layer


def backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()


def spoil(model: nn.Module, name: str) -> None:
    """Make the last entry of a gradient NaN, on the process that holds it."""
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    spoilt = whole(gradient).clone()
    spoilt.view(-1)[-1] = torch.nan
    if isinstance(gradient, DTensor):
        spoilt = distribute_tensor(spoilt, gradient.device_mesh, gradient.placements)
    gradient.copy_(spoilt)


def a_spoilt_shard_keeps_its_weight() -> None:
    """One process has a NaN: no process takes the step of that weight, all take the others."""
    for options in ({"basis_every": 2}, {"capturable": True, "basis": "tracked"}):
        model, alone = mixed(), mixed()
        by_layer(model)
        for each in (model, alone):
            optimizer = EndToEnd(each, lr=0.05, momentum=0.9, **options)
            train(each, optimizer, 1)
            backward(each, optimizer)
            for name in ("conv.weight", "norm.bias"):
                spoil(each, name)
            optimizer.step()
            train(each, optimizer, 2)
            skipped = [int(optimizer.state[p]["skipped"]) for p in each.parameters()]
            assert sum(skipped) == 2
        assert_equal(model, alone)


def a_spoilt_shard_spoils_its_factors_alone() -> None:
    """As with any optimizer of torch: that weight is lost, whole, and no other."""
    model, alone = mixed(), mixed()
    by_layer(model)
    for each in (model, alone):
        optimizer = Factored(each, lr=0.05, inner="sgd")
        backward(each, optimizer)
        spoil(each, "conv.weight")
        optimizer.step()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        found = whole(p.detach())
        assert bool(found.isfinite().all()) == (name != "conv.weight")
        torch.testing.assert_close(found, q.detach(), equal_nan=True, rtol=0, atol=1e-12)


def both_sides_are_for_one_process() -> None:
    model = mixed()
    by_layer(model)
    with pytest.raises(NotImplementedError, match="both_sides=True is for one process"):
        EndToEnd(model, lr=0.05, both_sides=True)
    with pytest.raises(NotImplementedError, match="both_sides=True is for one process"):
        EndToEnd(mixed(), lr=0.05, both_sides=True, divide_among=dist.group.WORLD)


def a_gradient_that_others_lack() -> None:
    """All processes refuse the step, by name, and nothing has changed."""
    for make in (
        lambda model: EndToEnd(model, lr=0.05),
        lambda model: Factored(model, lr=0.05, inner="sgd"),
    ):
        model = mixed()
        by_layer(model)
        optimizer = make(model)
        backward(model, optimizer)
        before = [whole(p.detach()).clone() for p in model.parameters()]
        if dist.get_rank() == 0:
            model.head.weight.grad = None
        with pytest.raises(RuntimeError, match=r"head\.weight, and others none"):
            optimizer.step()
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(whole(p.detach()), old)


def weights_that_others_change() -> None:
    """Shards that are written to are gathered and factored again."""
    model, alone = mixed(), mixed()
    by_layer(model)
    for each in (model, alone):
        optimizer = Factored(each, lr=0.05, inner="sgd", momentum=0.9)
        train(each, optimizer, 1)
        with torch.no_grad():
            each.conv.weight.mul_(0.5)
        with warnings.catch_warnings(action="ignore"):  # by the owner
            train(each, optimizer, 2)
    assert_equal(model, alone)


def a_weight_without_balanced_factors() -> None:
    """The owner meets it, and all processes raise; nothing has changed."""
    model = mixed()
    by_layer(model)
    optimizer = Factored(model, lr=0.05, inner="sgd")
    train(model, optimizer, 1)
    backward(model, optimizer)
    with torch.no_grad():
        model.conv.weight.fill_(torch.inf)
    with pytest.raises((ValueError, RuntimeError), match="conv"):
        optimizer.step()
    narrow = mixed()
    by_layer(narrow)
    with pytest.raises((ValueError, RuntimeError), match="width"):
        Factored(narrow, lr=0.05, width=1)


class Failing(torch.optim.SGD):
    """Raises where it is asked to step on the factors of one weight."""

    shape: tuple[int, ...] | None = None

    def step(self, closure=None):
        super().step(closure)
        if any(tuple(p.shape) == self.shape for g in self.param_groups for p in g["params"]):
            raise ArithmeticError("this one does not work")


def an_error_of_one_owner() -> None:
    """All processes raise it, none waits, and nothing has changed: the next step is the first."""
    for kind in (EndToEnd, Factored):
        model, alone = mixed(), mixed()
        by_layer(model)
        optimizer = kind(model, lr=0.05, inner=Failing, momentum=0.9)
        train(model, optimizer, 1)
        train(alone, kind(alone, lr=0.05, inner="sgd", momentum=0.9), 2)
        backward(model, optimizer)
        before = [whole(p.detach()).clone() for p in model.parameters()]
        with pytest.MonkeyPatch.context() as patch:
            if kind is EndToEnd:
                patch.setattr(rule, "directions", failing_directions)
            patch.setattr(Failing, "shape", (6, 4))  # of a factor of one convolution
            with pytest.raises((ArithmeticError, RuntimeError), match="this one does not work"):
                optimizer.step()
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(whole(p.detach()), old)
        optimizer.step()
        assert_equal(model, alone)


def failing_directions(items):
    if any(tuple(item.p.shape) == (6, 4, 1) for item in items):
        raise ArithmeticError("this one does not work")
    return directions(items)


def factors_are_with_their_owner() -> None:
    """One process has the factors of a weight; what needs all of them in one place is refused."""
    model = mixed()
    by_layer(model)
    optimizer = Factored(model, lr=0.05, inner="sgd")
    train(model, optimizer, 1)
    weights = [row["parameter"] for row in optimizer.routing() if row["rule"] == "factors"]
    assert weights
    for name in weights:
        p = model.get_parameter(name)
        factors, product = optimizer.factors(p), whole(p.detach())
        holders = torch.tensor(float(bool(factors)))
        dist.all_reduce(holders)
        assert holders == 1
        if factors:
            expected = factor_product(factors).reshape(product.shape)
            torch.testing.assert_close(expected, product, rtol=0, atol=1e-12)
    with pytest.raises(NotImplementedError, match=r"collapse\(\) is for one process"):
        optimizer.collapse()
    with pytest.raises(NotImplementedError, match=r"expand\(\) is for one process"):
        Factored.expand(torch.optim.SGD(model.parameters(), lr=0.05))


def parameters_that_are_exchanged() -> None:
    """Some trainers shard the model after its optimizer is made, and exchange the parameters."""
    for kind, options in ((EndToEnd, {"momentum": 0.9}), (Factored, {"inner": "sgd"})):
        model, alone = mixed(), mixed()
        optimizer = kind(model, lr=0.05, **options)
        names = {p: name for name, p in model.named_parameters()}
        by_layer(model)
        for group in optimizer.param_groups:
            group["params"] = [model.get_parameter(names[p]) for p in group["params"]]
        train(model, optimizer, 3)
        train(alone, kind(alone, lr=0.05, **options), 3)
        assert_equal(model, alone)


def layouts_that_are_refused() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    pending = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()], run_check=False)
    for kind in (EndToEnd, Factored, Radial):
        with pytest.raises(ValueError, match=r"parameter 0 is a DTensor .* Partial\(sum\)"):
            kind([nn.Parameter(pending)], lr=0.05)


def bytes_of_a_step() -> None:
    """What is sent is what the formulas say, and some numbers for each matrix."""
    world, shapes = dist.get_world_size(), ((8, 32), (64, 16), (32, 32))
    for kind, entries in ((EndToEnd, entries_of_end_to_end), (Factored, entries_of_factored)):
        layers = [nn.Linear(n, m, bias=False) for m, n in shapes]
        model = nn.Sequential(*layers).double()
        fully_shard(model)
        optimizer = kind(model, lr=0.05, inner="sgd")
        for _ in range(2):  # the second step has a basis
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            with measured() as traffic:
                optimizer.step()
        sent = torch.tensor(float(traffic.sent))
        dist.all_reduce(sent)
        expected = sum(entries(min(shape), max(shape), world) for shape in shapes) * 8
        extra = 2 * 8 * len(shapes) if kind is EndToEnd else 0
        assert expected <= sent / world <= expected + extra


CASES = (
    bytes_of_a_step,
    a_spoilt_shard_keeps_its_weight,
    a_spoilt_shard_spoils_its_factors_alone,
    both_sides_are_for_one_process,
    a_gradient_that_others_lack,
    weights_that_others_change,
    a_weight_without_balanced_factors,
    an_error_of_one_owner,
    factors_are_with_their_owner,
    parameters_that_are_exchanged,
    layouts_that_are_refused,
)
