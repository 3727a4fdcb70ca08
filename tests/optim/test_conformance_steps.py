"""The checks of torch's TestOptimRenewed that are about steps, rewritten for these optimizers.

Configurations come from torch's OptimizerInfo table; see tests/optim_infos.py.
"""

import copy

import pytest
import torch
from support.optim_infos import (
    SCHEDULERS,
    every_case,
    every_info,
    same,
    sample,
    state_tensors,
    values,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from overparam.optim import EndToEnd


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [False, True])
@every_case
def test_goes_in_the_right_direction(info, case, scheduled: bool, contiguous: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    if contiguous:
        weight = nn.Parameter(torch.randn(10, 5, generator=generator))
        bias = nn.Parameter(torch.randn(10, generator=generator))
    else:
        weight = nn.Parameter(torch.randn(10, 5, 2, generator=generator)[..., 0])
        bias = nn.Parameter(torch.randn(10, 2, generator=generator)[..., 0])
        assert not weight.is_contiguous()
    x = torch.randn(5, generator=generator)
    optimizer = info.optim_cls([weight, bias], **case.kwargs)
    schedulers = [make(optimizer) for make in info.scheduler_inputs[0]] if scheduled else []

    def loss() -> Tensor:
        return (weight.mv(x) + bias).pow(2).sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    before = loss().item()
    for _ in range(20):
        value = optimizer.step(closure)
        assert isinstance(value, Tensor)
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(value.detach())
            else:
                assert isinstance(scheduler, LRScheduler)
                scheduler.step()
    if case.kwargs.get("maximize"):
        assert loss().item() > before
    else:
        assert loss().item() < before


@pytest.mark.parametrize("schedulers", SCHEDULERS)
@every_info
def test_scheduled_groups_go_in_the_right_direction(info, schedulers) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 5, generator=generator))
    bias = nn.Parameter(torch.randn(10, generator=generator))
    x = torch.randn(5, generator=generator)
    optimizer = info.optim_cls([{"params": [weight]}, {"params": [bias], "lr": 0.01}], lr=1e-3)
    made = [make(optimizer) for make in schedulers]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for each in made:
            if isinstance(each, ReduceLROnPlateau):
                each.step(loss.detach())
            else:
                each.step()
    assert losses[-1] < losses[0]


@every_case
def test_a_group_with_hardly_any_lr_stays(info, case) -> None:
    moving, still = sample(), sample()
    kwargs = {"lr": 1e-3, **case.kwargs}
    groups = [{"params": moving, **kwargs}, {"params": still}]
    optimizer = info.optim_cls(groups, **{**kwargs, "lr": 1e-28})
    before = values(still)
    for _ in range(5):
        optimizer.step()
    for old, p, moved in zip(before, still, moving, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-14, atol=1e-15)
        assert not torch.equal(moved, p)


@every_case
def test_weight_decay_of_one_group_alone_goes_in_the_right_direction(info, case) -> None:
    params = sample()
    start = values(params)
    kwargs = {"lr": 1e-3, **case.kwargs}
    groups = [
        {"params": params[:4], **kwargs, "weight_decay": 0.1},
        {"params": params[4:], **kwargs, "weight_decay": 0.0},
    ]
    optimizer = info.optim_cls(groups, **kwargs)
    for p in params:
        p.grad.copy_(p.detach())
    optimizer.step()
    for old, p in zip(start, params, strict=True):
        assert (p.norm() > old.norm()) == bool(case.kwargs.get("maximize"))


@every_case
def test_contiguity_does_not_matter(info, case) -> None:
    plain, strided = sample(), sample()
    for p in strided:
        for tensor in (p, p.grad):
            tensor.data = torch.stack((tensor.data, tensor.data), -1)[..., 0]
    for params in (plain, strided):
        optimizer = info.optim_cls(params, **case.kwargs)
        optimizer.step()
        optimizer.step()
    for one, other in zip(plain, strided, strict=True):
        torch.testing.assert_close(one, other)


@every_case
def test_param_groups_equal_separate_optimizers(info, case) -> None:
    together, apart = sample(), sample()
    lr = {"lr": 3e-3}
    groups = [{"params": together[:3]}, {"params": together[3:], **lr}]
    optimizers = [
        [info.optim_cls(groups, **case.kwargs)],
        [
            info.optim_cls(apart[:3], **case.kwargs),
            info.optim_cls(apart[3:], **{**case.kwargs, **lr}),
        ],
    ]
    for each in optimizers:
        for optimizer in each:
            for _ in range(3):
                optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


@every_info
def test_weight_decay_of_a_group(info) -> None:
    params = sample()
    for p in params:
        p.grad.zero_()
    before = values(params)
    groups = [{"params": params[:3], "weight_decay": 0.1}, {"params": params[3:]}]
    on = {"weight_decay_on": "product"} if info.name == "Factored" else {}
    optimizer = info.optim_cls(groups, lr=0.1, weight_decay=0, **on)
    optimizer.step()
    for index, (old, p) in enumerate(zip(before, params, strict=True)):
        torch.testing.assert_close(p.detach(), old * (0.99 if index < 3 else 1))


@every_case
def test_foreach_matches_forloop(info, case) -> None:
    """Also while one parameter is frozen, and after a step without any gradient."""
    results, states = [], []
    for foreach in (True, False):
        params, kwargs = sample(), {**case.kwargs, "foreach": foreach}
        if info.name == "Factored" and foreach and isinstance(kwargs.get("lr"), Tensor):
            with pytest.raises(ValueError, match="lr as a Tensor is not supported"):
                info.optim_cls(params, **kwargs)
            return
        optimizer = info.optim_cls(params, **kwargs)
        gradients = [p.grad.clone() for p in params]
        for number in range(7):
            # torch's foreach SGD with Nesterov momentum writes into the gradients of vectors.
            for index, (p, gradient) in enumerate(zip(params, gradients, strict=True)):
                absent = number == 2 or (number in (3, 4) and index in (0, 4))
                p.grad = None if absent else gradient.clone()
            optimizer.step()
        results.append(params)
        states.append(state_tensors(optimizer))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


@every_case
def test_dtypes_in_one_group_are_updated_as_if_alone(info, case) -> None:
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    together, apart = ([sample(dtype=dtype)[0] for dtype in dtypes] for _ in range(2))
    for p, twin in zip(together, apart, strict=True):
        twin.grad = p.grad.clone()
    for params in [together, *([p] for p in apart)]:
        optimizer = info.optim_cls(params, **case.kwargs)
        for _ in range(3):
            optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
        assert one.isfinite().all()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@every_case
def test_tensor_lr_is_that_number(info, case, shape: tuple[int, ...]) -> None:
    number, tensor = sample(), sample()
    lr = torch.full(shape, 0.02, dtype=torch.float64)
    kwargs = {key: value for key, value in case.kwargs.items() if key != "lr"}
    first, second = (
        info.optim_cls(number, lr=0.02, **kwargs),
        info.optim_cls(tensor, lr=lr, **kwargs),
    )
    for _ in range(3):
        first.step()
        second.step()
    assert torch.equal(lr, torch.full(shape, 0.02, dtype=torch.float64))
    for one, other in zip(number, tensor, strict=True):
        torch.testing.assert_close(one, other)


@every_case
def test_no_gradient_is_no_step(info, case) -> None:
    params = sample()
    for p in params:
        p.grad = None
    optimizer = info.optim_cls(params, **case.kwargs)
    before, state = values(params), [t.clone() for t in state_tensors(optimizer)]
    optimizer.step()
    assert same(values(params), before)
    assert same(state_tensors(optimizer), state)


@every_case
def test_zero_gradient_moves_nothing_but_by_weight_decay(info, case) -> None:
    params = sample()
    for p in params:
        p.grad.zero_()
    optimizer = info.optim_cls(params, **{**case.kwargs, "weight_decay": 0})
    before = values(params)
    optimizer.step()
    for old, p in zip(before, params, strict=True):
        torch.testing.assert_close(p.detach(), old, atol=1e-14, rtol=0)


@every_case
def test_empty_parameters(info, case) -> None:
    params = [nn.Parameter(torch.randn(shape)) for shape in [(0,), (0, 3), (3, 0), (2, 3)]]
    optimizer = info.optim_cls(params, **case.kwargs)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert params[-1].isfinite().all()


@every_case
def test_gradients_are_read_only(info, case) -> None:
    params = sample()
    before = [p.grad.clone() for p in params]
    optimizer = info.optim_cls(params, **case.kwargs)
    for _ in range(2):
        optimizer.step()
    assert same([p.grad for p in params], before)


def words(*, sparse: bool) -> nn.Embedding:
    """An embedding with a gradient in two of its rows."""
    table = nn.Embedding(7, 4, sparse=sparse, _weight=torch.ones(7, 4).cumsum(0).cumsum(1))
    table(torch.tensor([1, 3, 3])).sin().sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse == sparse
    return table


@pytest.mark.parametrize("options", [{"granularity": "row"}, {"granularity": "tensor"}])
def test_rows_take_sparse_gradients_as_dense_ones(options) -> None:
    tables = [words(sparse=sparse) for sparse in (False, True)]
    for table in tables:
        EndToEnd(table.parameters(), lr=0.1, **options).step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight)


@every_info
def test_a_matrix_needs_all_of_its_gradient(info) -> None:
    table = words(sparse=True)
    optimizer = info.optim_cls(table.parameters(), lr=0.1, depth=2)
    before = table.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(table.weight, before)
    # Read with its layer, a table of sparse gradients is not chosen at all.
    reasons = [row["reason"] for row in info.optim_cls(table, lr=0.1, targets="all").routing()]
    assert "sparse gradients" in reasons[0]


@pytest.mark.parametrize("schedulers", SCHEDULERS[:2])
def test_uncoalesced_sparse_gradients_on_the_rosenbrock_function(schedulers) -> None:
    """Descent along one coordinate at a time, its slope given in two parts."""

    def slope(p: Tensor, coordinate: int) -> Tensor:
        x, y = p.detach()
        return (-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2))[coordinate]

    results = []
    for sparse in (False, True):
        p = nn.Parameter(torch.tensor([1.5, 1.5], dtype=torch.float64))
        optimizer = EndToEnd([p], lr=1e-3)
        made = [make(optimizer) for make in schedulers]
        for number in range(400):
            coordinate = number % 2
            value = slope(p, coordinate)
            if sparse:
                parts = torch.stack([value / 4, value - value / 4])
                with torch.sparse.check_sparse_tensor_invariants():
                    p.grad = torch.sparse_coo_tensor([[coordinate] * 2], parts, (2,))
            else:
                p.grad = torch.zeros_like(p)
                p.grad[coordinate] = value
            optimizer.step()
            for scheduler in made:
                scheduler.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)
    assert (results[0] - 1).norm() < 2**0.5 / 2


@every_case
def test_maximize_is_descent_on_the_negative(info, case) -> None:
    up, down = sample(), sample()
    for p in down:
        p.grad.neg_()
    kwargs = {key: value for key, value in case.kwargs.items() if key != "maximize"}
    for _ in range(3):
        info.optim_cls(up, maximize=True, **kwargs).step()
        info.optim_cls(down, **kwargs).step()
    for one, other in zip(up, down, strict=True):
        torch.testing.assert_close(one, other)


@every_info
def test_closure_runs_with_gradients_even_under_no_grad(info) -> None:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = info.optim_cls([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert loss.item() == 6
    assert p.grad is not None
    assert p.square().sum() < 6


@every_info
def test_a_late_group_is_trained(info) -> None:
    params = sample()
    optimizer = info.optim_cls(params[:2], lr=0.1)
    optimizer.step()
    before = values(params)
    optimizer.add_param_group({"params": params[2:], "lr": 0.2})
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, values(params), strict=True))


@every_info
def test_default_dtype_does_not_matter(info) -> None:
    results = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            params = sample(dtype=torch.float32)
            info.optim_cls(params, lr=0.1).step()
            results.append(values(params))
        finally:
            torch.set_default_dtype(torch.float32)
    assert same(*results)


def test_schedulers_cycle_momentum() -> None:
    """OneCycleLR sets momentum, also where there was none at construction."""
    params = sample()
    optimizer = EndToEnd(params, lr=0.1, momentum=0.8)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["momentum"] != 0.8
    late = EndToEnd(params, lr=0.1)
    late.param_groups[0]["momentum"] = 0.9
    late.step()
    assert "momentum_buffer" in late.state[params[0]]
