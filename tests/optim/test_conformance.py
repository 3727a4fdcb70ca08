"""The checks of torch's TestOptimRenewed, rewritten to run against these optimizers.

Configurations come from torch's OptimizerInfo table; see tests/optim_infos.py.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
from optim_infos import INFOS, case_name, cases
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

every_case = pytest.mark.parametrize(("info", "case"), cases(skip=("foreach",)), ids=case_name)
every_info = pytest.mark.parametrize("info", INFOS, ids=case_name)


def sample(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Matrices, a kernel, a vector, a scalar, one row and one column."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 6), (6, 4), (4, 6), (5, 2, 3), (7,), (), (1, 5), (5, 1)]
    params = [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
    return params


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(first: list, second: list) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    def flatten(value: object) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        if isinstance(value, dict):
            return [t for each in value.values() for t in flatten(each)]
        return [t for each in value for t in flatten(each)] if isinstance(value, list) else []

    return flatten(optimizer.state_dict()["state"])


@pytest.mark.parametrize(
    ("info", "error"),
    [
        (info, error)
        for info in INFOS
        for error in info.optim_error_inputs_func("cpu", torch.float64)
    ],
    ids=lambda value: value.name if value in INFOS else value.optimizer_error_input.desc,
)
def test_errors(info, error) -> None:
    case = error.optimizer_error_input
    params = case.params if case.params is not None else sample()
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            info.optim_cls(params, **case.kwargs)
    else:
        with pytest.raises(error.error_type, match=error.error_regex):
            info.optim_cls(params, **case.kwargs)


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
    optimizer = info.optim_cls(groups, lr=0.1, weight_decay=0)
    optimizer.step()
    for index, (old, p) in enumerate(zip(before, params, strict=True)):
        torch.testing.assert_close(p.detach(), old * (0.99 if index < 3 else 1))


@every_case
def test_foreach_matches_forloop(info, case) -> None:
    results = []
    for foreach in (True, False):
        params, kwargs = sample(), {**case.kwargs, "foreach": foreach}
        if info.name == "Factored" and foreach and isinstance(kwargs.get("lr"), Tensor):
            with pytest.raises(ValueError, match="lr as a Tensor is not supported"):
                info.optim_cls(params, **kwargs)
            return
        optimizer = info.optim_cls(params, **kwargs)
        gradients = [p.grad.clone() for p in params]
        for _ in range(4):
            # torch's foreach SGD with Nesterov momentum writes into the gradients of vectors.
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        results.append(params)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(), (1,)])
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


@every_info
def test_sparse_gradients_are_the_dense_ones(info) -> None:
    torch.manual_seed(0)
    results = []
    for sparse in (False, True):
        words = nn.Embedding(7, 4, sparse=sparse, _weight=torch.ones(7, 4).cumsum(0).cumsum(1))
        optimizer = info.optim_cls(words.parameters(), lr=0.1, depth=2)
        for _ in range(3):
            optimizer.zero_grad()
            words(torch.tensor([1, 3, 3])).sin().sum().backward()
            assert words.weight.grad.is_sparse == sparse
            optimizer.step()
        results.append(words.weight.detach())
    torch.testing.assert_close(*results)


@every_case
def test_state_dict_resumes_bit_for_bit(info, case) -> None:
    params = sample()
    optimizer = info.optim_cls(params, **case.kwargs)
    for _ in range(3):
        optimizer.step()
    buffer = io.BytesIO()
    torch.save({"params": values(params), "optimizer": optimizer.state_dict()}, buffer)
    for _ in range(3):
        optimizer.step()
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = sample()
    for p, value in zip(resumed, saved["params"], strict=True):
        p.data.copy_(value)
    other = info.optim_cls(resumed, **case.kwargs)
    other.load_state_dict(saved["optimizer"])
    assert same(values(resumed), saved["params"])
    for _ in range(3):
        other.step()
    assert same(values(params), values(resumed))
    assert same(state_tensors(optimizer), state_tensors(other))


@every_case
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alone(info, case, how: str) -> None:
    params = sample()
    optimizer = info.optim_cls(params, **case.kwargs)
    optimizer.step()
    duplicate = copy.deepcopy if how == "deepcopy" else lambda it: pickle.loads(pickle.dumps(it))
    twin = duplicate(optimizer)
    copies = [p for group in twin.param_groups for p in group["params"]]
    for p, original in zip(copies, params, strict=True):
        p.grad = original.grad.clone()
    before = values(params)
    twin.step()
    assert same(values(params), before)
    optimizer.step()
    assert same(values(params), values(copies))


@every_case
def test_state_dict_is_deterministic_and_printable(info, case) -> None:
    states = []
    for _ in range(2):
        params = sample()
        optimizer = info.optim_cls(params, **case.kwargs)
        for _ in range(2):
            optimizer.step()
        states.append(state_tensors(optimizer))
        assert info.name in repr(optimizer)
    assert same(*states)


@every_info
def test_older_state_loads(info) -> None:
    """A state_dict from before most options and state tensors existed."""
    params = sample()
    optimizer = info.optim_cls(params, lr=0.01)
    optimizer.step()
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for key in set(group) - {"params", "lr"}:
            del group[key]
    for state in old["state"].values():
        for key in list(state)[1:]:
            del state[key]
    fresh = info.optim_cls(params, lr=0.5)
    fresh.load_state_dict(old)
    assert fresh.param_groups[0]["lr"] == 0.01
    before = values(params)
    fresh.step()
    assert not same(values(params), before)
    old = pickle.loads(pickle.dumps(optimizer))
    del old.param_groups[0]["depth"], old.param_groups[0]["views"]
    pickle.loads(pickle.dumps(old)).step()


@every_info
def test_state_of_another_optimizer_loads(info) -> None:
    params = sample()
    sgd = torch.optim.SGD(params, lr=0.03, momentum=0.9)
    sgd.step()
    optimizer = info.optim_cls(params, lr=0.01)
    optimizer.load_state_dict(sgd.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.03
    optimizer.step()
    assert all(p.isfinite().all() for p in params)


@every_info
def test_names_go_to_and_from_state_dicts(info) -> None:
    params = sample()
    named = [(f"p{i}", p) for i, p in enumerate(params)]
    with_names, without = info.optim_cls(named), info.optim_cls(params)
    with_names.step()
    without.load_state_dict(with_names.state_dict())
    with_names.load_state_dict(without.state_dict())
    assert with_names.param_groups[0]["param_names"][0] == "p0"
    with_names.step()


@every_info
def test_hooks(info) -> None:
    events: list[str] = []

    def note(name: str):
        return lambda *args: events.append(name)

    optimizer = info.optim_cls(sample())
    optimizer.register_step_pre_hook(note("before step"))
    optimizer.register_step_post_hook(note("after step"))
    optimizer.register_state_dict_pre_hook(note("before save"))
    optimizer.register_state_dict_post_hook(note("after save"))
    optimizer.register_load_state_dict_pre_hook(note("before load"))
    optimizer.register_load_state_dict_post_hook(note("after load"))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert events == [
        "before step", "after step", "before save", "after save", "before load", "after load",
    ]  # fmt: skip


@every_info
def test_load_hooks_may_change_what_is_loaded(info) -> None:
    optimizer = info.optim_cls(sample(), lr=0.1)

    def larger(_: Optimizer, state_dict: dict) -> dict:
        groups = [{**group, "lr": 0.5} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    def smaller(optimizer: Optimizer) -> None:
        assert optimizer.param_groups[0]["lr"] == 0.5
        optimizer.param_groups[0]["lr"] = 0.25

    optimizer.register_load_state_dict_pre_hook(larger)
    optimizer.register_load_state_dict_post_hook(smaller)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.25


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
    [info] = [info for info in INFOS if info.name == "EndToEnd"]
    params = sample()
    optimizer = info.optim_cls(params, lr=0.1, momentum=0.8)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["momentum"] != 0.8
    late = info.optim_cls(params, lr=0.1)
    late.param_groups[0]["momentum"] = 0.9
    late.step()
    assert "momentum_buffer" in late.state[params[0]]


def test_torch_table_is_not_changed_by_warnings() -> None:
    """Constructing every configuration is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for info, case in cases():
            info.optim_cls(sample(), **case.kwargs)
