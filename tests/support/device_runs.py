"""What runs on the device of :mod:`pretend_device`, each compared with the CPU.

Models with factors are tested on a real one alone (``test_cuda.py``): they refuse subclasses of
tensors, which the tensors of this device are.

Each in a process of its own; it raises where something is wrong.
"""

import contextlib
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
import torch
from torch import nn

from overparam import EndToEnd, Factored
from overparam.data import load, standardize
from overparam.lab.comparison.problem import load_problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import TrialRun
from overparam.lab.jobs import StudyJob
from overparam.lab.methods import parse_method
from overparam.lab.paper.network_study import SCALES
from overparam.lab.paper.studies import map_studies, regression_studies
from overparam.lab.paper.timing import seconds_per_iteration
from overparam.lab.store import StudyDirectory, read_state, read_table
from overparam.lab.study import DTYPES, Run, Study, cut_into_jobs
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss
from support.pretend_device import NAME, set_up
from support.reproduce_cases import TINY, rerun

STEPS = 12


def the_device_is_strict() -> None:
    """The check can fail: mixing devices raises, scalars and copies do not."""
    here = torch.ones(2, 3, device=NAME)
    assert here.device.type == NAME
    assert (here * torch.tensor(2.0)).cpu().sum().item() == 12
    for mix in (
        lambda: here + torch.ones(2, 3),
        lambda: here @ torch.ones(3, 1),
        lambda: torch.randn(3, device=NAME, generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match="of the CPU and of the device"):
            mix()


def a_first_step_that_is_skipped_is_not_counted() -> None:
    """With a gradient that is not finite, of which the host does not know."""

    def after(*gradients: float) -> torch.Tensor:
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(3, 3).to(NAME))
        optimizer = EndToEnd([p], lr=0.1, inner="nadam", foreach=False)
        for gradient in gradients:
            p.grad = torch.full((3, 3), gradient).to(NAME)
            optimizer.step()
        return p.detach().cpu()

    assert torch.allclose(after(torch.nan, 1.0), after(1.0), atol=1e-6)


def sweep() -> None:
    """Every method of every study of `overparam reproduce`, with rates that diverge."""
    data = standardize(load("diabetes"))
    studies = [
        *regression_studies(TINY, "diabetes", data.features.shape[1], NAME).values(),
        map_studies(TINY, NAME)["map-diabetes-p2"],
        map_studies(TINY, NAME)["map-diabetes-p6"],
    ]
    diverged = finished = 0
    for study in (dataclasses.replace(study, iterations=STEPS) for study in studies):
        runs = [
            Run(parse_method(name), rate, 0)
            for name, rate in itertools.product(study.methods, (1e-4, 1e30))
        ]
        there = _swept(study, runs)
        here = _swept(dataclasses.replace(study, device="cpu"), runs)
        diverged += int((here.diverged_at >= 0).sum())
        finished += int((here.diverged_at < 0).sum())
        assert torch.equal(here.diverged_at, there.diverged_at), study.methods
        torch.testing.assert_close(there.losses, here.losses, equal_nan=True)
    assert diverged > 30
    assert finished > 30
    seconds = seconds_per_iteration(studies[0], data, ["gd", "rule:2"])
    assert min(seconds.values()) > 0


def _swept(study: Study, runs: list[Run]) -> Sweep:
    """A sweep to its end, saved half way and gone on with by another."""
    data = standardize(load(study.data))
    dtype = DTYPES[study.dtype]
    objective = PowerLoss(data.features, data.targets, study.power, dtype, study.device)
    first, second = (Sweep(objective, study, runs) for _ in range(2))
    first.advance(STEPS // 2)
    second.load_state_dict(first.state_dict())
    second.advance(STEPS)
    assert second.finished
    assert second.weights().device.type == study.device
    return second


def reproduce() -> None:
    """The command: a chapter of regression, from training to the verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for device in ("cpu", NAME):
            output = Path(folder) / device
            with _watched() as used:
                assert rerun(output, device=device, only=("adam",)) == 0
            assert used == {device}
            results = output / "reproduce-tiny"
            verdicts = json.loads((results / "verdicts.json").read_text())["claims"]
            curves = [pl.read_parquet(file) for file in sorted(results.rglob("jobs/*.parquet"))]
            found.append((verdicts, curves))
        here, there = found
        assert {claim["experiment"] for claim in here[0]} == {"adam"}
        assert here[0] == there[0]
        assert all(a.equals(b) for a, b in zip(here[1], there[1], strict=True))


def network() -> None:
    """The paper's network with plain weights: the same curve, and the same masks of dropout."""
    found = []
    for device in ("cpu", NAME):
        # The random state of this device cannot be kept, as evaluating does.
        study = dataclasses.replace(SCALES["tiny"], device=device, evaluate_every=1000)
        problem = load_problem(study.named_problem("plain", "digits"))
        run = TrialRun(problem, Trial("plain", 0.01, study.steps, 0), study)
        run.advance(study.steps)
        assert not run.failure, run.failure
        assert {weight.device.type for weight in run.model.parameters()} == {device}
        found.append([loss for _, loss in run.curve] + [seen["penalty"] for seen in run.seen])
    torch.testing.assert_close(*map(torch.tensor, found))


@contextlib.contextmanager
def _watched() -> Iterator[set[str]]:
    """The devices on which the weights of sweeps are."""
    used, advance = set(), Sweep.advance

    def watched(sweep: Sweep, steps: int) -> None:
        advance(sweep, steps)
        used.add(sweep.weights().device.type)

    with mock.patch.object(Sweep, "advance", watched):
        yield used


def interruption() -> None:
    """A study that is stopped and goes on from its checkpoint."""
    data = standardize(load("diabetes"))
    names = ("momentum", "rule:2", "adam+factors:3", "adagrad")
    study = Study("diabetes", methods=names, iterations=120, rates_per_decade=1, seeds=(0,))
    tables = []
    for device in ("cpu", NAME):
        with tempfile.TemporaryDirectory() as folder:
            there = dataclasses.replace(study, device=device)
            [work] = cut_into_jobs(there)
            job = StudyJob(there, "identity", data, work, Path(folder))
            StudyDirectory(job.path).write_manifest({})
            assert not job.train(lambda: True, lambda cost: None)
            saved = read_state(StudyDirectory(job.path).checkpoint_file(work), {"sweep"})
            assert saved is not None
            assert 0 < saved["sweep"]["step"] < study.iterations
            costs: list[float] = []
            assert job.train(lambda: False, costs.append)
            assert costs[0] == saved["sweep"]["step"]  # not trained once more
            tables.append(read_table(StudyDirectory(job.path).curves_file(work)))
    assert tables[0].equals(tables[1])


def optimizers() -> None:
    """The rule and the held factors, over a saved and loaded state."""
    makes: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "rule": lambda model: EndToEnd(
            model, lr=0.1, depth=2, basis="exact", momentum=0.9, weight_decay=0.01
        ),
        "rule of the paper": lambda model: EndToEnd(
            model, lr=0.01, depth=3, basis="exact", normalize=False
        ),
        "limit": lambda model: EndToEnd(model, lr=0.1, depth=float("inf"), basis="exact"),
        "factors": lambda model: Factored(
            model, inner=torch.optim.SGD, depth=2, lr=0.05, momentum=0.9
        ),
        "decay of the product": lambda model: Factored(
            model, inner=torch.optim.AdamW, lr=torch.tensor([0.01]), weight_decay=0.1
        ),
        "factors with Adam": lambda model: Factored(
            model, inner=torch.optim.AdamW, depth=3, lr=0.01
        ),
    }
    for make in makes.values():
        torch.testing.assert_close(_trained(make, NAME), _trained(make, "cpu"))
    # Off the CPU the basis is tracked, and looked at less often: close, not equal.
    by_default = _trained(lambda model: EndToEnd(model, lr=0.1, depth=2), NAME)
    exact = _trained(lambda model: EndToEnd(model, lr=0.1, depth=2, basis="exact"), "cpu")
    torch.testing.assert_close(by_default, exact, rtol=0, atol=1e-4)
    assert not torch.equal(by_default[2], exact[2])


def _trained(make: Callable[[nn.Module], torch.optim.Optimizer], device: str) -> list[torch.Tensor]:
    model = _model().to(device)
    optimizer = make(model)
    _train(model, optimizer, 3)
    optimizer.load_state_dict(optimizer.state_dict())
    _train(model, optimizer, 2)
    return [p.detach().cpu() for p in model.parameters()]


def _model() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    dense = [nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), *dense).double()


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    device = next(model.parameters()).device
    inputs = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64).to(device)
    labels = torch.randint(0, 3, (8,), generator=generator).to(device)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


RUNS = {
    run.__name__: run
    for run in (
        the_device_is_strict,
        a_first_step_that_is_skipped_is_not_counted,
        sweep,
        interruption,
        reproduce,
        network,
        optimizers,
    )
}


def run(_: int, name: str) -> None:
    """One of them, in a process of its own."""
    torch.set_num_threads(1)
    set_up()
    RUNS[name]()
