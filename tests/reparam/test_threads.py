"""What is kept for one call is seen by that call alone, whatever other threads and calls do."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.unusual_layers import SelfAttention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overparam.reparam import overparameterize

PASSES = 500


def _output(model: nn.Module, x: Tensor) -> Tensor:
    result = model(x)
    return result[0] if isinstance(result, tuple) else result


def _gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    parameters = list(model.parameters())
    return list(torch.autograd.grad(_output(model, x).square().sum(), parameters))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(4, 4, batch_first=True),
    "gru": lambda: nn.GRU(4, 4, 2, batch_first=True),
    "attention": lambda: SelfAttention(4, 2, batch_first=True),
    "linear": lambda: nn.Linear(4, 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_one_thread_trains_while_others_evaluate(name: str) -> None:
    torch.manual_seed(0)
    model, x = overparameterize(LAYERS[name](), targets="all"), torch.randn(2, 3, 4)
    expected, value = _gradients(model, x), _output(model, x).detach()
    done = threading.Event()

    def evaluate() -> int:
        count = 0
        while not done.is_set() or count < PASSES // 10:
            with torch.no_grad():
                output = _output(model, x)
            assert not output.requires_grad
            torch.testing.assert_close(output, value)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        evaluations = [pool.submit(evaluate)]
        try:
            for _ in range(PASSES if name in ("lstm", "attention") else PASSES // 5):
                for first, second in zip(expected, _gradients(model, x), strict=True):
                    torch.testing.assert_close(second, first)
        finally:
            done.set()
        assert all(evaluation.result() for evaluation in evaluations)


class Checkpointed(nn.MultiheadAttention):
    """Recomputes its own forward pass in the backward pass, reading its weight before it."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        penalty = self.in_proj_weight.square().sum() * 1e-3

        def run(y: Tensor) -> Tensor:
            return super(Checkpointed, self).forward(y, y, y, need_weights=False)[0]

        return checkpoint(run, x, use_reentrant=self.reentrant) + penalty


class Stacked(nn.LSTM):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(
            lambda y: super(Stacked, self).forward(y)[0], x, use_reentrant=self.reentrant
        )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", [Checkpointed, Stacked])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_layer_that_checkpoints_itself(kind: type, reentrant: bool, narrow: bool) -> None:
    torch.manual_seed(0)
    settings = {"embed_dim": 8, "num_heads": 2} if kind is Checkpointed else {}
    model = kind(**settings, batch_first=True) if settings else kind(8, 8, batch_first=True)
    plain_forward = nn.MultiheadAttention.forward if kind is Checkpointed else nn.LSTM.forward
    overparameterize(model, targets="all")
    model.reentrant = reentrant
    x = torch.randn(2, 3, 8, requires_grad=True)

    def gradients(output: Callable[[], Tensor]) -> dict[str, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            result = output()
        result.float().square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def without() -> Tensor:
        if kind is Checkpointed:
            output = plain_forward(model, x, x, x, need_weights=False)[0]
            return output + model.in_proj_weight.square().sum() * 1e-3
        return plain_forward(model, x)[0]

    expected, found = gradients(without), gradients(lambda: model(x))
    assert sorted(expected) == sorted(found) == sorted(n for n, _ in model.named_parameters())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_checkpointing_from_outside(name: str, reentrant: bool) -> None:
    torch.manual_seed(0)
    model, x = overparameterize(LAYERS[name](), targets="all"), torch.randn(2, 3, 4)
    expected = _gradients(model, x)
    model.zero_grad()
    x.requires_grad_()
    checkpoint(lambda y: _output(model, y), x, use_reentrant=reentrant).square().sum().backward()
    for gradient, parameter in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_grad_mode_and_autocast_inside_one_pass() -> None:
    """A pass that looks at its weight without a graph first, as a logger would."""

    class Looking(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.norm = float(self.in_proj_weight.norm())
            with torch.inference_mode():
                self.norm += float(self.in_proj_weight.norm())
            return super().forward(x, x, x)[0]

    model = overparameterize(Looking(4, 2, batch_first=True))
    model(torch.randn(2, 3, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_tensor_given_for_one_call_is_given_in_that_thread_alone() -> None:
    torch.manual_seed(0)
    model, x = overparameterize(nn.Linear(3, 2, bias=False)), torch.randn(4, 3)
    expected, inside, checked = model(x).detach(), threading.Event(), threading.Event()

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            assert checked.wait(10)
            return self.layer(x)

    def call() -> Tensor:
        given = {"layer.weight": torch.zeros(2, 3)}
        return torch.func.functional_call(Waiting(), given, (x,))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        assert inside.wait(10)
        torch.testing.assert_close(model(x).detach(), expected)
        checked.set()
        assert not running.result().any()
    torch.testing.assert_close(model(x).detach(), expected)
    assert model.parametrizations.weight.stand_ins == 0


def test_the_cache_of_torch_loses_no_gradient() -> None:
    model = overparameterize(nn.Linear(3, 2))
    with torch.nn.utils.parametrize.cached():
        with torch.no_grad():
            model(torch.ones(1, 3))
        model(torch.ones(1, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_replicas_of_data_parallel_compute_on_their_own_factors() -> None:
    """As ``replicate`` makes them, without devices: modules that share class and attributes."""
    model = overparameterize(nn.LSTM(3, 3), targets="all")
    copied = {path: each._replicate_for_data_parallel() for path, each in model.named_modules()}
    for path, each in copied.items():
        original = model.get_submodule(path)
        for name, _ in original.named_children():
            setattr(each, name, copied[f"{path}.{name}" if path else name])
        for name, parameter in original._parameters.items():
            setattr(each, name, 2 * parameter)
    replica = copied[""]
    assert replica.weight_ih_l0.requires_grad
    torch.testing.assert_close(replica.weight_ih_l0, 4 * model.weight_ih_l0)
    x = torch.randn(2, 1, 3)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda m: m(x)[0], [model, replica])
    assert not torch.allclose(first, second)
    second.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
