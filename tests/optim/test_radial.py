"""Radial against optimizers written out by hand, one step after another."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.optim_cases import assert_same_bits, mixed, parameters_of, run
from torch import Tensor, nn

from overparam import Radial
from overparam.layers import convolution_view

LR, STEPS, RADIALS = 0.05, 5, (0.0, 0.5, 3.0)


@dataclass
class Moved:
    """One step: what is stretched, what is not, and the metric of the stretch."""

    step: Tensor
    decay: Tensor | float = 0.0
    metric: Tensor | None = None


@dataclass
class Hand:
    """An optimizer for one tensor; the state is whatever it keeps."""

    options: dict[str, Any]
    state: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.options.get(name, 0)

    def gradient(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """With coupled decay."""
        gradient = -gradient if self["maximize"] else gradient
        return gradient + self["weight_decay"] * weight


class HandSGD(Hand):
    def moved(self, weight: Tensor, gradient: Tensor) -> Moved:
        g = self.gradient(weight, gradient)
        if self["momentum"]:
            old = self.state.get("buffer")
            buffer = g if old is None else self["momentum"] * old + (1 - self["dampening"]) * g
            self.state["buffer"] = buffer
            g = g + self["momentum"] * buffer if self["nesterov"] else buffer
        return Moved(-LR * g)


class HandAdam(Hand):
    decoupled = False

    def moved(self, weight: Tensor, gradient: Tensor) -> Moved:
        decay = -LR * self["weight_decay"] * weight
        if self.decoupled:
            gradient = -gradient if self["maximize"] else gradient
        else:
            gradient, decay = self.gradient(weight, gradient), torch.zeros(())
        first, second = self["betas"] or (0.9, 0.999)
        zero = torch.zeros_like(weight)
        m = self.state["m"] = first * self.state.get("m", zero) + (1 - first) * gradient
        v = self.state["v"] = second * self.state.get("v", zero) + (1 - second) * gradient**2
        self.state["largest"] = torch.maximum(self.state.get("largest", zero), v)
        v = self.state["largest"] if self["amsgrad"] else v
        s = (v / (1 - second**self.count)).sqrt() + (self["eps"] or 1e-8)
        return Moved(-LR * m / (1 - first**self.count) / s, decay, s)


class HandAdamW(HandAdam):
    decoupled = True


class HandRMSprop(Hand):
    def moved(self, weight: Tensor, gradient: Tensor) -> Moved:
        g = self.gradient(weight, gradient)
        v = 0.01 * g**2 + 0.99 * self.state.get("v", torch.zeros_like(g))
        self.state["v"] = v
        return Moved(-LR * g / (v.sqrt() + 1e-8))


class HandMuon(Hand):
    """The orthogonal step itself is torch's: from a weight of zeros without decay."""

    def moved(self, weight: Tensor, gradient: Tensor) -> Moved:
        decay = -LR * self["weight_decay"] * weight
        zero = self.state.setdefault("zero", nn.Parameter(torch.zeros_like(weight)))
        options = {**self.options, "weight_decay": 0.0}
        inner = self.state.setdefault("inner", torch.optim.Muon([zero], lr=LR, **options))
        zero.grad = gradient
        with torch.no_grad():
            zero.zero_()
        inner.step()
        return Moved(zero.detach().clone(), decay)


def _stretched(weight: Tensor, moved: Moved, radial: float) -> Tensor:
    """The weight after a step, for a weight that counts as one vector."""
    s = torch.ones_like(weight) if moved.metric is None else moved.metric
    size = (weight * s * weight).sum()
    along = (weight * s * moved.step).sum() / size * weight if size > 0 else 0 * weight
    return weight + (moved.step - along) + radial * along + moved.decay


def _by_hand(
    hand: Hand, weight: Tensor, gradients: list[Tensor], radial: float
) -> Iterator[Tensor]:
    for gradient in gradients:
        hand.count += 1
        weight = _stretched(weight, hand.moved(weight, gradient), radial)
        yield weight


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-12 * expected.norm())


INNERS: dict[str, tuple[type[torch.optim.Optimizer], type[Hand], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, HandSGD, {}),
    "sgd, decay": (torch.optim.SGD, HandSGD, {"weight_decay": 0.3}),
    "momentum": (torch.optim.SGD, HandSGD, {"momentum": 0.9, "dampening": 0.2}),
    "nesterov": (
        torch.optim.SGD,
        HandSGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ),
    "adam": (torch.optim.Adam, HandAdam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "adam, decay": (torch.optim.Adam, HandAdam, {"weight_decay": 0.3}),
    "adam, amsgrad": (torch.optim.Adam, HandAdam, {"amsgrad": True, "betas": (0.5, 0.6)}),
    "adam, maximize": (torch.optim.Adam, HandAdam, {"maximize": True, "weight_decay": 0.2}),
    "adam, decoupled": (
        torch.optim.Adam,
        HandAdamW,
        {"decoupled_weight_decay": True, "weight_decay": 0.5},
    ),
    "adam, fused": (torch.optim.Adam, HandAdam, {"fused": True, "maximize": True}),
    "adamw": (torch.optim.AdamW, HandAdamW, {"weight_decay": 0.5}),
    "adamw, all": (
        torch.optim.AdamW,
        HandAdamW,
        {"weight_decay": 0.5, "amsgrad": True, "maximize": True, "betas": (0.7, 0.9), "eps": 0.1},
    ),
    "adamw, foreach": (torch.optim.AdamW, HandAdamW, {"foreach": True, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, HandRMSprop, {"weight_decay": 0.2}),
    "muon": (torch.optim.Muon, HandMuon, {"weight_decay": 0.4, "momentum": 0.9}),
}


@pytest.mark.parametrize("radial", RADIALS)
@pytest.mark.parametrize("case", INNERS)
def test_every_step_is_that_of_the_formula(case: str, radial: float) -> None:
    inner, hand, options = INNERS[case]
    p = nn.Parameter(_normal(3, 4, seed=1))
    gradients = [_normal(3, 4, seed=10 + number) for number in range(STEPS)]
    optimizer = Radial([p], lr=LR, inner=inner, radial=radial, **options)
    expected = _by_hand(hand(options), p.detach().clone(), gradients, radial)
    for gradient, weight in zip(gradients, expected, strict=True):
        p.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(p.grad, gradient)
        assert _close(p, weight)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("case", ["sgd", "adam", "adamw", "adamw, all"])
def test_lr_may_be_a_tensor(case: str, shape: tuple[int, ...]) -> None:
    inner, hand, options = INNERS[case]
    p = nn.Parameter(_normal(3, 4, seed=1))
    gradients = [_normal(3, 4, seed=10 + number) for number in range(STEPS)]
    rate = torch.full(shape, LR, dtype=torch.float64)
    optimizer = Radial([p], lr=rate, inner=inner, radial=3, metric="auto", **options)
    *_, expected = _by_hand(hand(options), p.detach().clone(), gradients, 3)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    assert _close(p, expected)


@pytest.mark.parametrize("radial", RADIALS)
def test_adam_may_be_stretched_without_its_metric(radial: float) -> None:
    options = {"weight_decay": 0.5}
    p = nn.Parameter(_normal(3, 4, seed=1))
    optimizer = Radial([p], lr=LR, radial=radial, metric="euclidean", **options)
    hand, weight = HandAdamW(options), p.detach().clone()
    for number in range(STEPS):
        p.grad = _normal(3, 4, seed=10 + number)
        hand.count += 1
        moved = hand.moved(weight, p.grad)
        weight = _stretched(weight, Moved(moved.step, moved.decay), radial)
        optimizer.step()
        assert _close(p, weight)


@pytest.mark.parametrize("case", [name for name in INNERS if name != "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_radial_one_is_the_inner_optimizer_bit_for_bit(case: str, dtype: torch.dtype) -> None:
    inner, _, options = INNERS[case]
    model = mixed(dtype)
    other = copy.deepcopy(model)
    run(model, Radial(model, lr=0.01, inner=inner, radial=1, **options), STEPS)
    run(other, inner(other.parameters(), lr=0.01, **options), STEPS)
    assert_same_bits(parameters_of(model), parameters_of(other))


def _network() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    x, y = _normal(8, 4, seed=1), _normal(8, 3, seed=2)
    return model, lambda module: (module(x) - y).square().mean()


def test_radial_one_is_muon_and_its_fallback_bit_for_bit() -> None:
    model, loss = _network()
    other = copy.deepcopy(model)
    rates = {"fallback": "adamw", "fallback_options": {"lr": 0.02}}
    optimizer = Radial(model, 0.01, torch.optim.Muon, radial=1, **rates)
    run(model, optimizer, STEPS, loss)
    matrices = [p for p in other.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(matrices, lr=0.01)
    adamw = torch.optim.AdamW([p for p in other.parameters() if p.ndim < 2], lr=0.02)
    for _ in range(STEPS):
        other.zero_grad()
        loss(other).backward()
        muon.step()
        adamw.step()
    assert_same_bits(parameters_of(model), parameters_of(other))


def test_muon_is_stretched_and_its_fallback_is_not() -> None:
    model, loss = _network()
    options = {"weight_decay": 0.4}
    optimizer = Radial(
        model, LR, torch.optim.Muon, 3, fallback="adamw", fallback_options={"lr": LR}, **options
    )
    rows = {row["parameter"]: row["rule"] for row in optimizer.routing()}
    assert [name for name, rule in rows.items() if rule == "radial"] == ["0.weight", "2.weight"]
    hands = {
        n: HandMuon(options) if p.ndim == 2 else HandAdamW({"weight_decay": 0.01})
        for n, p in model.named_parameters()
    }
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model).backward()
        expected = {}
        for name, p in model.named_parameters():
            hand = hands[name]
            hand.count += 1
            assert p.grad is not None
            moved = hand.moved(p.detach(), p.grad.clone())
            expected[name] = _stretched(p.detach(), moved, 3 if p.ndim == 2 else 1)
        optimizer.step()
        for name, p in model.named_parameters():
            assert _close(p, expected[name]), name


def _pieces(weight: Tensor, layer: str, granularity: str) -> list[Tensor]:
    """The vectors that are stretched by themselves, as views of a weight, by indices."""
    if granularity == "tensor":
        return [weight.view(-1)]
    if layer == "transposed":  # (in, out / g, k), 4 inputs in 2 groups
        groups = [weight[:2], weight[2:]]
        if granularity == "matrix":
            return groups
        return [group[:, o, k] for group in groups for o in range(3) for k in range(3)]
    if granularity == "row":
        return list(weight)
    size = {"grouped": 3, "attention": 4}[layer]
    return [weight[start : start + size] for start in range(0, len(weight), size)]


GRANULAR = {
    "grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2), "weight"),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), "weight"),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight"),
}


@pytest.mark.parametrize("granularity", ["tensor", "row", "matrix"])
@pytest.mark.parametrize("layer", GRANULAR)
@pytest.mark.parametrize("case", ["momentum", "adamw"])
def test_what_counts_as_one_weight(case: str, layer: str, granularity: str) -> None:
    make, name = GRANULAR[layer]
    inner, hand_type, options = INNERS[case]
    module = make().double()
    p = getattr(module, name)
    p.data.copy_(_normal(*p.shape, seed=1))
    hand, weight = hand_type(options), p.detach().clone()
    optimizer = Radial(module, LR, inner, 3, granularity=granularity, **options)
    for number in range(3):
        p.grad = _normal(*p.shape, seed=10 + number)
        hand.count += 1
        moved = hand.moved(weight, p.grad)
        given = {"step": moved.step, "decay": moved.decay + torch.zeros_like(weight)}
        if moved.metric is not None:
            given["metric"] = moved.metric
        old = _pieces(weight, layer, granularity)
        parts = {key: _pieces(value, layer, granularity) for key, value in given.items()}
        new = torch.full_like(weight, torch.nan)
        for place, piece in enumerate(_pieces(new, layer, granularity)):
            part = Moved(**{key: value[place] for key, value in parts.items()})
            piece.copy_(_stretched(old[place], part, 3))
        weight = new
        optimizer.step()
        assert _close(p, weight)


@pytest.mark.parametrize("metric", ["auto", "euclidean"])
@pytest.mark.parametrize(
    ("inner", "options"),
    [
        ("adamw", {}),
        ("adamw", {"amsgrad": True, "maximize": True}),
        ("adam", {"decoupled_weight_decay": True}),
        ("nadam", {"decoupled_weight_decay": True}),
        ("radam", {"decoupled_weight_decay": True}),
        ("muon", {}),
    ],
)
def test_decoupled_decay_is_not_stretched(inner: str, options: dict[str, Any], metric: str) -> None:
    p = nn.Parameter(_normal(3, 4, seed=1))
    start = p.detach().clone()
    p.grad = torch.zeros_like(p)
    optimizer = Radial([p], 0.1, inner, 10, metric=metric, weight_decay=0.5, **options)
    for _ in range(3):
        optimizer.step()
    assert _close(p, 0.95**3 * start)


@pytest.mark.parametrize("inner", ["sgd", "rmsprop"])
def test_coupled_decay_is_a_part_of_the_gradient(inner: str) -> None:
    p = nn.Parameter(_normal(3, 4, seed=1))
    start, other = p.detach().clone(), nn.Parameter(p.detach().clone())
    p.grad = other.grad = torch.zeros_like(p)
    Radial([p], 0.1, inner, 3, weight_decay=0.5).step()
    {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[inner](
        [other], lr=0.1, weight_decay=0.5
    ).step()
    assert _close(p, _stretched(start, Moved(other.detach() - start), 3))
    if inner == "sgd":
        assert _close(p, (1 - 3 * 0.05) * start)


def test_options_of_groups_schedules_and_overrides() -> None:
    p, q = (nn.Parameter(_normal(3, 4, seed=1)) for _ in range(2))
    optimizer = Radial([{"params": [p], "radial": 5.0}, {"params": [q], "lr": 0.2}], LR, "sgd", 0.0)
    p.grad = q.grad = _normal(3, 4, seed=2)
    expected = [_stretched(p.detach(), Moved(-LR * p.grad), 5.0)]
    expected.append(_stretched(q.detach(), Moved(-0.2 * p.grad), 0.0))
    optimizer.step()
    assert _close(p, expected[0])
    assert _close(q, expected[1])
    optimizer.param_groups[0].update(radial=0.5, lr=0.01)
    after = _stretched(p.detach(), Moved(-0.01 * p.grad), 0.5)
    optimizer.step()
    assert _close(p, after)
    model, _ = _network()
    optimizer = Radial(model, overrides={"0": {"radial": 1}, "2": {"granularity": "row"}})
    rows = {row["parameter"]: (row["rule"], row["reason"]) for row in optimizer.routing()}
    assert rows["0.weight"] == ("plain", "chosen by kind; radial 1 is the inner optimizer")
    assert rows["2.weight"] == ("radial", "chosen by kind; 2 times along each row")
    assert rows["0.bias"] == ("plain", "it acts entry by entry")


def test_weights_of_zeros_and_weights_without_gradient() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.ones(2, 3))
    zero.grad = torch.ones(2, 3)
    for inner in ("sgd", "adamw"):
        zero.data.zero_()
        Radial([zero, still], 0.1, inner, 4, weight_decay=0.0).step()
        assert torch.allclose(zero, torch.full((2, 3), -0.1))
        assert torch.equal(still, torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["sgd", "momentum", "adamw", "rmsprop"])
def test_half_precision_steps_in_float32_and_rounds_once(case: str, dtype: torch.dtype) -> None:
    inner, hand_type, options = INNERS[case]
    # Its squares sum up to more than float16 holds, and a step is less than its last digit.
    p = nn.Parameter((20 * _normal(20, 30, seed=1)).to(dtype))
    hand = hand_type(options)
    optimizer = Radial([p], LR, inner, 40.0, **options)
    for number in range(3):
        p.grad = (0.01 * _normal(20, 30, seed=10 + number)).to(dtype)
        hand.count += 1
        weight = p.detach().double()
        expected = _stretched(weight, hand.moved(weight, p.grad.double()), 40.0)
        optimizer.step()
        rounding = torch.finfo(dtype).eps / 2 * expected.abs() + 1e-5 * expected.abs().max()
        assert ((p.double() - expected).abs() <= rounding).all()
    assert all(
        value.dtype == torch.float32
        for value in optimizer.state[p].values()
        if isinstance(value, Tensor)
    )
    q = nn.Parameter(p.detach().clone())
    again = Radial([q], LR, inner, 40.0, **options)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    p.grad = q.grad = _normal(20, 30, seed=20).to(dtype)
    optimizer.step()
    again.step()
    assert torch.equal(p, q)


def test_an_error_within_a_step_changes_nothing() -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            raise RuntimeError("no")

    for dtype in (torch.float32, torch.bfloat16):
        p = nn.Parameter(torch.ones(2, 3, dtype=dtype))
        p.grad = torch.ones_like(p)
        optimizer = Radial([p], 0.1, Failing, 3)
        with pytest.raises(RuntimeError, match="no"):
            optimizer.step()
        assert torch.equal(p, torch.ones_like(p))
        assert torch.equal(p.grad, torch.ones_like(p))


def test_the_loss_of_a_closure_is_returned() -> None:
    p = nn.Parameter(_normal(2, 3, seed=1))
    optimizer = Radial([p], LR, "sgd", 2.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum() / 2
        loss.backward()
        return loss

    before = p.detach().clone()
    assert float(optimizer.step(closure).detach()) == pytest.approx(
        float(before.square().sum() / 2)
    )
    assert _close(p, (1 - 2 * LR) * before)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"radial": -0.1}, ValueError, "radial is -0.1; use a finite number of at least 0"),
        ({"radial": float("inf")}, ValueError, "radial is inf"),
        ({"radial": float("nan")}, ValueError, "radial is nan"),
        ({"radial": True}, TypeError, "radial is True"),
        ({"radial": "2"}, TypeError, "radial is '2'"),
        ({"granularity": "column"}, ValueError, "granularity is 'column'; use one of tensor, row"),
        ({"metric": "l1"}, ValueError, "metric is 'l1'; use one of auto, adam, euclidean"),
        ({"metric": "adam", "inner": "sgd"}, ValueError, "metric='adam' is for.*inner is SGD"),
        ({"inner": "adam", "differentiable": True}, ValueError, "gradients do not flow"),
        ({"inner": "adamv"}, ValueError, "not an optimizer of torch.optim.*[aA]dam"),
        ({"inner": Radial}, TypeError, "has an inner optimizer of its own"),
        ({"lr": "0.1"}, TypeError, "lr is '0.1'"),
        ({"fallback_options": {"lr": 0.1}}, ValueError, "no meaning without fallback"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Radial([nn.Parameter(torch.ones(2, 3))], **options)
    group_options = {n: v for n, v in options.items() if n in ("radial", "granularity", "metric")}
    if group_options:
        inner = {n: v for n, v in options.items() if n == "inner"}
        optimizer = Radial([nn.Parameter(torch.ones(2, 3))], **inner)
        with pytest.raises(error, match=words):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 2))], **group_options})
        assert len(optimizer.param_groups) == 1


def test_muon_refuses_kernels_by_name_and_views_can_be_given() -> None:
    model = nn.ModuleDict({"conv": nn.Conv1d(4, 6, 3), "out": nn.Linear(6, 2)})
    words = r"Muon does not take conv\.weight: .* Name them in exclude=, so that AdamW takes them"
    with pytest.raises(ValueError, match=words):
        Radial(model, inner="muon", fallback="adamw")
    Radial(model, inner="muon", fallback="adamw", exclude=["conv"])
    view = convolution_view((6, 4, 3), groups=2)
    optimizer = Radial(model, overrides={"conv": {"view": view}}, granularity="matrix")
    rows = {row["parameter"]: row["matrices"] for row in optimizer.routing()}
    assert rows["conv.weight"] == "2 x (3, 12)"
