"""The tracked basis: accuracy while the weight moves, and steps that a compiler can take whole."""

import pytest
import torch
from optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from overparam import end_to_end_update
from overparam.optim import EndToEnd


def moving(m: int, n: int, move: float, steps: int, depth: float) -> tuple[float, float, Tensor]:
    """Error of the update and of the basis while the weight takes random steps, and the basis."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(m, n, generator=generator) / n**0.5)
    optimizer = EndToEnd([p], 0.0, depth, basis="tracked", normalize=False)
    for _ in range(steps):
        noise = torch.randn(m, n, generator=generator)
        with torch.no_grad():
            p.add_(noise * (move * p.norm() / noise.norm()))
        p.grad = torch.randn(m, n, generator=generator)
        optimizer.step()
    state, before = optimizer.state[p], p.detach().clone()
    optimizer.param_groups[0]["lr"] = 1e-3
    optimizer.step()
    update = (before.double() - p.detach().double()) / 1e-3
    truth = end_to_end_update(before.double(), p.grad.double(), depth)
    return (
        ((update - truth).norm() / truth.norm()).item(),
        state["basis_error"].item(),
        state["basis"],
    )


# Twice what was seen; benchmarks/optim.md has the sizes of real layers.
@pytest.mark.parametrize(("move", "error"), [(1e-3, 5e-4), (1e-2, 3e-3)])
@pytest.mark.parametrize(("m", "n"), [(128, 128), (96, 384), (384, 96)])
@pytest.mark.parametrize("depth", [2, 3])
def test_accuracy_while_the_weight_moves(m: int, n: int, move: float, error: float, depth) -> None:
    relative, seen, basis = moving(m, n, move, 12, depth)
    assert relative < error
    assert seen < move
    gap = torch.linalg.matrix_norm(basis.mT @ basis - torch.eye(min(m, n)))
    assert gap.max() < 2e-5


def test_a_large_move_is_met_by_more_sweeps_or_a_new_decomposition() -> None:
    for move in (0.1, 1.0):
        relative, seen, _ = moving(64, 96, move, 3, 2)
        assert relative < 0.03
        assert seen < 0.3


def test_tracked_and_exact_runs_end_at_the_same_place() -> None:
    ends = []
    for basis in ("exact", "tracked"):
        p = drawn(8, 12)
        optimizer = EndToEnd([p], 0.05, depth=3, momentum=0.9, basis=basis)
        for _ in range(100):
            p.grad = p.detach() - 1.0
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, atol=1e-3, rtol=0)


def capturable(params: list[nn.Parameter], lr: float | Tensor) -> EndToEnd:
    return EndToEnd(params, lr, 2, momentum=0.9, basis="tracked", capturable=True)


def test_a_capturable_step_compiles_once_and_sees_a_changed_lr() -> None:
    """One graph for all steps of a run: no graph break, no value baked in."""
    params = [drawn(6, 8), drawn(6, 8, seed=1), drawn(8, 6, seed=2), drawn(8, seed=3)]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    for p, twin in zip(params, twins, strict=True):
        twin.grad = p.grad.clone()
    lr = torch.tensor(0.1, dtype=torch.float64)
    compiled, eager = capturable(params, lr), capturable(twins, lr)
    counter = CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(compiled.step, backend=counter, fullgraph=False)
    for value in (0.1, 0.1, 0.05, 0.0):
        lr.fill_(value)
        before = [p.detach().clone() for p in params]
        step()
        eager.step()
        for p, twin in zip(params, twins, strict=True):
            torch.testing.assert_close(p, twin)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert 1 <= counter.frame_count <= 2


class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
    """Fails where the host reads a value from a tensor, as a CUDA graph would."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"the host reads a value in {func}")
        return func(*args, **(kwargs or {}))


def test_a_capturable_step_never_reads_a_value() -> None:
    params = [drawn(6, 8), drawn(5, 3, 2, seed=1), drawn(8, seed=2), drawn(1, 4, seed=3)]
    optimizer = capturable(params, torch.tensor(0.1))
    optimizer.step()
    before = [p.detach().clone() for p in params]
    with NoReading():
        optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(params, before, strict=True))
    reading = EndToEnd(params, 0.1, basis="tracked")
    with pytest.raises(AssertionError, match="reads a value"), NoReading():
        reading.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA graphs")
def test_a_step_replays_as_a_cuda_graph() -> None:
    params = [nn.Parameter(drawn(64, 96, dtype=torch.float32).detach().cuda()) for _ in range(3)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = capturable(params, torch.tensor(0.1, device="cuda"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = params[0].detach().clone()
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(params[0], before)
