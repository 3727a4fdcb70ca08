"""Optimizers and models on a GPU against the CPU; skipped where there is none."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from overparam import EndToEnd, Factored, Radial, collapse, overparameterize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
STEPS = 20
Make = Callable[..., torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "rule": lambda model, **more: EndToEnd(model, 0.1, basis="exact", momentum=0.9, **more),
    "rule of the paper": lambda model, **more: EndToEnd(
        model, 0.01, 3, basis="exact", normalize=False, **more
    ),
    "rule, AdamW": lambda model, **more: EndToEnd(
        model, 1e-3, inner="adamw", basis="exact", **more
    ),
    "rows": lambda model, **more: EndToEnd(model, 0.1, granularity="row", **more),
    "tensors": lambda model, **more: EndToEnd(model, 0.1, granularity="tensor", **more),
    "unbalanced, metric": lambda model, **more: EndToEnd(
        model, 0.1, basis="exact", imbalance=0.5, normalize="metric", **more
    ),
    "entries": lambda model, **more: EndToEnd(
        model, 0.1, 3, granularity="entry", imbalance=(0.1, 0.0, 0.2), **more
    ),
    "both sides": lambda model, **more: EndToEnd(
        model, 0.1, basis="exact", imbalance=0.5, both_sides=True, momentum=0.9, **more
    ),
    "factors, AdamW": lambda model, **more: Factored(model, 1e-3, **more),
    "factors, SGD, depth 3": lambda model, **more: Factored(
        model, 0.05, "sgd", 3, momentum=0.9, weight_decay=1e-2, weight_decay_on="product", **more
    ),
    "factors, Muon": lambda model, **more: Factored(
        model, 1e-2, inner="muon", targets=["linear"], fallback="adamw", **more
    ),
    "radial, AdamW": lambda model, **more: Radial(model, 1e-3, radial=4, **more),
    "radial, SGD": lambda model, **more: Radial(model, 0.1, "sgd", radial=0, **more),
}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        # Without biases: that of the keys has no gradient, and Adam blows up its rounding.
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, bias=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(x).relu().flatten(2)
        return self.head(self.norm(hidden + self.attention(hidden, hidden, hidden)[0])).mean(1)


def network(dtype: torch.dtype, device: str) -> nn.Module:
    torch.manual_seed(0)
    model = Network().to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # no vector is zero, where depth would keep it
    return model.to(device)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    generator = torch.Generator().manual_seed(1)
    p = next(model.parameters())
    inputs = torch.randn(8, 2, 4, 4, generator=generator, dtype=torch.float64).to(p)
    labels = torch.randint(0, 3, (8,), generator=generator).to(p.device)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def difference(model: nn.Module, other: nn.Module) -> float:
    """The largest relative difference between two models, parameter by parameter."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(
        float((p.detach().cpu() - q.detach().cpu()).norm() / q.detach().cpu().norm())
        for p, q in pairs
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_the_cpu(name: str, dtype: torch.dtype, bound: float) -> None:
    if name == "factors, Muon":  # it multiplies in bfloat16, which devices round differently
        bound = 0.05
    models = [network(dtype, device) for device in ("cuda", "cpu")]
    for model in models:
        train(model, OPTIMIZERS[name](model))
    found = difference(*models)
    print(f"{name}, {dtype}: {found:.1e}")
    assert found <= bound


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"capturable": True}])
@pytest.mark.parametrize("name", ["rule, AdamW", "factors, AdamW", "radial, AdamW"])
def test_the_ways_of_the_inner_optimizer_agree(name: str, options: dict[str, bool]) -> None:
    models = [network(torch.float64, "cuda") for _ in range(2)]
    train(models[0], OPTIMIZERS[name](models[0], **options))
    train(models[1], OPTIMIZERS[name](models[1], foreach=False))
    assert difference(*models) <= 1e-11


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_of_the_gpu_goes_on_there_and_loads_on_the_cpu(name: str, tmp_path) -> None:
    whole, first = (network(torch.float64, "cuda") for _ in range(2))
    train(whole, (straight := OPTIMIZERS[name](whole)), STEPS // 2)
    train(whole, straight, STEPS // 2)
    train(first, (before := OPTIMIZERS[name](first)), STEPS // 2)
    file = tmp_path / "checkpoint.pt"
    torch.save({"model": first.state_dict(), "optimizer": before.state_dict()}, file)
    second = network(torch.float64, "cuda")
    after = OPTIMIZERS[name](second)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(second, after, STEPS // 2)
    assert difference(second, whole) == 0
    on_cpu = network(torch.float64, "cpu")
    there = OPTIMIZERS[name](on_cpu)
    saved = torch.load(file, map_location="cpu", weights_only=True)
    on_cpu.load_state_dict(saved["model"])
    there.load_state_dict(saved["optimizer"])
    train(on_cpu, there, STEPS // 2)
    assert difference(on_cpu, whole) <= (0.05 if "Muon" in name else 1e-11)


@pytest.mark.parametrize("name", ["rule", "rule, AdamW", "rows"])
def test_a_gradient_that_is_not_finite_leaves_the_weights(name: str) -> None:
    model = network(torch.float32, "cuda")
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, 2)
    before = copy.deepcopy(list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        if old.dim() > 1:
            assert torch.equal(p, old)


def test_a_model_with_factors_trains_and_collapses() -> None:
    models = [network(torch.float64, device) for device in ("cuda", "cpu")]
    for model in models:
        overparameterize(model, 2)
        fused = model.conv.bias.is_cuda
        train(model, torch.optim.AdamW(model.parameters(), 1e-3, fused=fused))
        collapse(model)
    assert difference(*models) <= 1e-11


def test_a_compiled_model_with_factors_computes_the_same() -> None:
    model = overparameterize(network(torch.float32, "cuda"), 2)
    inputs = torch.randn(8, 2, 4, 4, device="cuda")
    torch.testing.assert_close(torch.compile(model)(inputs), model(inputs), rtol=1e-4, atol=1e-5)
