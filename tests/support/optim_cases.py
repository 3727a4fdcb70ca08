"""Models and runs shared by the tests of the optimizers."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Mixed(nn.Module):
    """Grouped and plain convolution, packed attention, embedding, normalization, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1, groups=2)
        self.mix = nn.Conv1d(4, 6, 1)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.mix(self.conv(self.words(tokens).mT).relu()).mT
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return self.head(self.norm(hidden)).mean(1)


TOKENS = torch.randint(0, 11, (8, 5), generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (8,), generator=torch.Generator().manual_seed(1))


def mixed(dtype: torch.dtype = torch.float64, seed: int = 0) -> Mixed:
    torch.manual_seed(seed)
    return Mixed().to(dtype)


def mixed_loss(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(TOKENS).float(), TARGETS)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, loss=mixed_loss) -> Tensor:
    value = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
    return value


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other), (one - other).abs().max()


def weight_with_gradient(*shape: int, dtype=torch.float64, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
    p.grad = torch.randn(shape, generator=generator, dtype=dtype)
    return p


class Forbid(TorchDispatchMode):
    """Fails where one of some operations is called."""

    def __init__(self, *operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.operations:
            raise AssertionError(f"a step calls {func}")
        return func(*args, **(kwargs or {}))


class Count(TorchDispatchMode):
    """Counts the calls of one operation."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation, self.calls = operation, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is self.operation
        return func(*args, **(kwargs or {}))
