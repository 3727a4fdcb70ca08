"""Half precision, gradient scaling, clipping, accumulation, and autograd through a step."""

import copy

import pytest
import torch
from support.optim_cases import TARGETS, TOKENS, assert_same_bits, mixed, mixed_loss, parameters_of
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam.optim import EndToEnd, Factored, Radial

both = pytest.mark.parametrize("kind", [EndToEnd, Factored])
half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@half
@both
def test_a_half_precision_step_is_the_float32_step_rounded_once(kind, dtype) -> None:
    p = drawn(6, 8, dtype=dtype)
    wide = nn.Parameter(p.detach().float())
    wide.grad = p.grad.float()
    # Factors in float32 of the same numbers: construction of Factored rounds the weight.
    first, second = kind([p], lr=0.1), kind([wide], lr=0.1)
    first.step()
    second.step()
    assert p.dtype == dtype
    torch.testing.assert_close(p.float(), wide.to(dtype).float(), rtol=0, atol=0)


@half
def test_momentum_of_half_precision_parameters_is_float32(dtype) -> None:
    p = drawn(3, 4, dtype=dtype)
    optimizer = EndToEnd([p], 0.0, momentum=0.999)
    p.grad.fill_(1.0)
    first = torch.empty(0)
    for number in range(600):
        optimizer.step()
        first = optimizer.state[p]["momentum_buffer"].clone() if number == 0 else first
    sums = (1 - 0.999**600) / (1 - 0.999)  # bfloat16 would stop at 256
    buffer = optimizer.state[p]["momentum_buffer"]
    torch.testing.assert_close(buffer, first * sums, rtol=1e-4, atol=0)


@both
def test_a_half_precision_model_trains(kind) -> None:
    model = mixed(torch.bfloat16)
    optimizer = kind(model, lr=0.05 if kind is EndToEnd else 0.01)
    before = mixed_loss(model)
    for _ in range(30):
        optimizer.zero_grad()
        mixed_loss(model).backward()
        optimizer.step()
    assert mixed_loss(model) < 0.8 * before


@both
def test_a_gradient_scaler_changes_nothing_and_skips_overflow(kind) -> None:
    plain, scaled = mixed(), mixed()
    one, other = kind(plain, lr=0.05), kind(scaled, lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        for model, optimizer in ((plain, one), (scaled, other)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(TOKENS), TARGETS)
            (loss if model is plain else scaler.scale(loss)).backward()
        one.step()
        scaler.step(other)
        scaler.update()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    before = parameters_of(scaled)
    scaled.head.weight.grad[0, 0] = torch.inf
    scaler.scale(torch.ones(()))
    scaler.step(other)
    scaler.update()
    assert_same_bits(parameters_of(scaled), before)
    assert scaler.get_scale() == 512.0


@both
@pytest.mark.parametrize("options", [{}, {"depth": 3}])
def test_a_step_within_autocast_is_the_step(kind, options: dict) -> None:
    results = []
    for enabled in (False, True):
        model = mixed(torch.float32)
        optimizer = kind(model, lr=0.01, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            mixed_loss(model).backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(3):
                optimizer.step()
        results.append(parameters_of(model))
    assert_same_bits(*results)


@both
def test_accumulation_and_clipping_act_on_the_gradient_alone(kind) -> None:
    whole, parts = mixed(), mixed()
    for model in (whole, parts):
        optimizer = kind(model, lr=0.1)
        chunks = [slice(None)] if model is whole else [slice(0, 4), slice(4, 8)]
        for _ in range(2):
            optimizer.zero_grad()
            for chunk in chunks:
                loss = nn.functional.cross_entropy(model(TOKENS[chunk]), TARGETS[chunk])
                (loss / len(chunks)).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            assert norm > 0.1
            optimizer.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("set_to_none", [True, False])
@both
def test_both_ways_to_clear_gradients(kind, set_to_none: bool) -> None:
    p = drawn(3, 4)
    optimizer = kind([p], lr=0.1, weight_decay=0)
    optimizer.zero_grad(set_to_none=set_to_none)
    assert (p.grad is None) == set_to_none
    before = p.detach().clone()
    optimizer.step()
    torch.testing.assert_close(p.detach(), before, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 3},
        {"depth": 2, "normalize": False, "weight_decay": 0.5},
        {"granularity": "row", "weight_decay": 0.1},
        {"granularity": "tensor", "depth": 1.5},
        {"depth": 1, "weight_decay": 0.1},
    ],
)
def test_gradients_flow_through_steps(options: dict) -> None:
    """Two steps as a function of weight, gradient and learning rate, by finite differences."""

    def two_steps(weight: Tensor, gradient: Tensor, lr: Tensor) -> Tensor:
        p = weight.clone()
        optimizer = EndToEnd([p], lr, differentiable=True, **options)
        for scale in (1.0, 2.0):
            p.grad = scale * gradient
            optimizer.step()
        return p

    p = drawn(3, 4)
    inputs = (p.detach().requires_grad_(), p.grad.requires_grad_(),
              torch.tensor(0.1, dtype=torch.float64, requires_grad=True))  # fmt: skip
    assert torch.autograd.gradcheck(two_steps, inputs)


def test_the_differentiable_step_is_the_step() -> None:
    first, second = drawn(3, 4), drawn(3, 4)
    EndToEnd([first], 0.1, depth=2.5).step()
    tracked = second.clone()
    tracked.grad = second.grad
    EndToEnd([tracked], 0.1, depth=2.5, differentiable=True).step()
    torch.testing.assert_close(tracked, first)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.filterwarnings("ignore:.*changed since the last step")
@pytest.mark.parametrize("kind", [EndToEnd, Factored, Radial])
@pytest.mark.parametrize("there", DTYPES)
@pytest.mark.parametrize("here", DTYPES)
def test_a_checkpoint_goes_on_in_another_dtype(kind, there, here) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(8, 4, dtype=torch.float64)

    def go_on(model, optimizer) -> list[Tensor]:
        for _ in range(3):
            optimizer.zero_grad()
            model(x.to(model[0].weight.dtype)).square().mean().backward()
            optimizer.step()
        return [p.detach().double() for p in model.parameters()]

    model.to(there)
    optimizer = kind(model, lr=0.01, inner="adam", eps=1e-3)
    go_on(model, optimizer)
    twin = copy.deepcopy(model).to(here)
    its_optimizer = kind(twin, lr=0.01, inner="adam", eps=1e-3)
    its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, other in zip(go_on(model, optimizer), go_on(twin, its_optimizer), strict=True):
        assert other.isfinite().all()
        # Factors that are made again are others than those that the state is of, as a warning says.
        if kind is not Factored or here is there:
            torch.testing.assert_close(one, other, atol=0.01, rtol=0)


def test_factors_and_their_state_follow_a_weight_to_another_dtype() -> None:
    p = nn.Parameter(torch.eye(3))
    optimizer = Factored([p], lr=0.01, inner="adam")
    for dtype in (torch.float32, torch.float64, torch.float32):
        p.data = p.data.to(dtype)
        p.grad = torch.ones_like(p)
        if "factor1" in optimizer.state[p]:
            with pytest.warns(UserWarning, match="changed since the last step"):
                optimizer.step()
        else:
            optimizer.step()
        state = optimizer.state[p]
        assert {state[name].dtype for name in ("factor1", "factor2_exp_avg")} == {dtype}
        assert state["factor1_step"].dtype is torch.float32
