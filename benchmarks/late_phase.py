"""The law of the late phase beside what is measured, on the small problems of the atlas.

    python benchmarks/late_phase.py                # writes its part of docs/atlas.md; some minutes

``overparam.theory.predict_speedup`` says how much faster gradient descent converges with depth than
without, near a minimum where the Hessian and the preconditioner have full rank. It is asked on the
problems of the atlas that are quadratic, and on small relatives of them whose minimum is as it
demands. What it predicts is measured: steps of gradient descent at a constant learning rate, late,
at the best rate of each, on two balanced factors and on the weight itself. Then it is asked for the
weights of perceptrons at the end of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from atlas_tables import PAGE
from torch import Tensor, nn

from overparam import balanced_factors
from overparam.lab.comparison.generators import seed_all
from overparam.lab.comparison.problem import Problem, load_problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import TrialRun, judged_batches
from overparam.rule.reference import preconditioner_spectrum
from overparam.theory import predict_speedup

DEPTH = 2
QUADRATIC = (
    "sparse-regression(features=20, rows=100)",
    "sparse-regression(features=20, rows=100, active=20)",
    "matrix-sensing(size=8, rank=8, share=2.0)",
    "matrix-sensing(size=8, rank=2, share=2.0)",
    "sparse-regression",
    "matrix-sensing",
    "matrix-sensing(share=0.25)",
    "matrix-completion",
    "matrix-completion(share=0.25)",
)
PERCEPTRONS = ('tabular-mlp(data="diabetes", width=16)', "mnist1d-mlp(width=16)")
LATE = (1e-3, 1e-8)  # of the loss at the start
SAME = 1.05  # speed-ups nearer to 1 have no side
BEGIN, END = "<!-- written by benchmarks/late_phase.py -->", "<!-- end of the late phase -->"
_STEPS, _TRAINING = 5000, 2000
_FLOOR = 1e-6  # of the largest eigenvalue: directions below it are left out


@dataclass(frozen=True)
class Quadratic:
    """``loss = c - <b, w> + <w, H w> / 2`` in the entries of one matrix.

    Attributes:
        hessian: ``H``.
        slope: ``b``.
        constant: ``c``.
        start: of the weight, ``(m, n)``.
    """

    hessian: Tensor
    slope: Tensor
    constant: Tensor
    start: Tensor

    def gradient(self, weights: Tensor) -> Tensor:
        """Of weights ``(..., m, n)``."""
        return (weights.flatten(-2) @ self.hessian - self.slope).view_as(weights)

    def loss(self, weights: Tensor) -> Tensor:
        """Of weights ``(..., m, n)``."""
        flat = weights.flatten(-2)
        return self.constant + ((flat @ self.hessian / 2 - self.slope) * flat).sum(-1)


class _Linear:
    """What the loss of a linear problem needs of its model."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def get_parameter(self, _: str) -> Tensor:
        return self.weight

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.mT


def quadratic(problem: Problem) -> Quadratic:
    """The loss of a problem whose model is one matrix, in double precision."""
    seed_all(0)
    start = problem.build().get_parameter("weight").detach().double()
    batch = _double(next(problem.stream(0)))
    zero = torch.zeros_like(start)

    def loss(weight: Tensor) -> Tensor:
        assert problem.loss is not None
        return problem.loss(_Linear(weight), batch)  # pyright: ignore[reportArgumentType]

    slope = torch.autograd.functional.jacobian(loss, zero)
    hessian = torch.autograd.functional.hessian(loss, zero)
    return Quadratic(hessian.reshape(zero.numel(), -1), -slope.flatten(), loss(zero), start)


def _double(batch):
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    return tuple(_double(part) for part in batch)


def late_steps(problem: Quadratic, depth: int) -> tuple[float, Tensor]:
    """Steps between the two late losses at the best constant rate, and the weight at the end.

    Rates a factor sqrt(2) apart, all at once; then eight times as fine around the best one.
    """
    top = 2 / torch.linalg.eigvalsh(problem.hessian)[-1].item()
    steps, weights, rates = _descend(problem, depth, [top * 2 ** (-k / 2) for k in range(20)])
    best = rates[int(steps.argmin())]
    steps, weights, _ = _descend(problem, depth, [best * 2 ** (k / 16) for k in range(-7, 8)])
    return steps.min().item(), weights[int(steps.argmin())]


def _descend(
    problem: Quadratic, depth: int, rates: Sequence[float]
) -> tuple[Tensor, Tensor, Sequence[float]]:
    """Late steps and last weights for each rate; more than 1e8 where the end is not reached."""
    lr = torch.tensor(rates, dtype=torch.float64)[:, None, None]
    factors = [
        factor.expand(len(rates), -1, -1).clone()
        for factor in balanced_factors(problem.start, depth)
    ]  # the first one meets the input
    begin = problem.loss(problem.start)
    reached = torch.full((len(LATE), len(rates)), math.inf, dtype=torch.float64)
    ends = problem.start.expand(len(rates), -1, -1).clone()
    open_ = torch.ones(len(rates), dtype=torch.bool)
    for step in range(_STEPS):
        product = factors[0]
        for factor in factors[1:]:
            product = factor @ product
        share = problem.loss(product) / begin
        for level, limit in zip(reached, LATE, strict=True):
            level[(share <= limit) & level.isinf()] = step
        here = reached[-1] == step
        ends[open_] = product[open_]
        # Diverged, or beaten by another rate already.
        open_ &= share.isfinite() & ~(step - reached[0] > _late(reached).min()) & ~here
        if not open_.any():
            break
        gradient = problem.gradient(product)
        factors = [
            factor - lr * moved
            for factor, moved in zip(factors, _pulled(factors, gradient), strict=True)
        ]
    share = problem.loss(ends) / begin  # the lowest loss is the best where none gets there
    missing = torch.where(share.isfinite(), 1e9 + share, math.inf)
    return torch.where(reached[1].isfinite(), _late(reached), missing), ends, rates


def _late(reached: Tensor) -> Tensor:
    """Steps between the losses; infinite where the last one is not reached."""
    return torch.where(reached[1].isfinite(), (reached[1] - reached[0]).clamp(min=1), math.inf)


def _pulled(factors: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
    """Gradients of one or two factors: ``G``, or ``W_2^T G`` and ``G W_1^T``."""
    if len(factors) == 1:
        return [gradient]
    first, second = factors
    return [second.mT @ gradient, gradient @ first.mT]


def where_it_moves(hessian: Tensor, weight: Tensor, depth: int) -> float:
    """The law with condition numbers over the directions that descent moves along.

    Eigenvalues below a floor are left out, of the Hessian and of ``P^(1/2) H P^(1/2)``. This is no
    theorem: along directions where P vanishes, an error shrinks slower than any exponential.
    """
    eigenvalues, left, right = preconditioner_spectrum(weight, depth)

    def root(matrices: Tensor) -> Tensor:
        return left @ (eigenvalues.sqrt() * (left.mT @ matrices @ right)) @ right.mT

    half = root(hessian.view(-1, *weight.shape)).flatten(1)
    both = root(half.mT.reshape(-1, *weight.shape)).flatten(1)
    plain, deep = (_rate(torch.linalg.eigvalsh((h + h.mT) / 2)) for h in (hessian, both))
    return deep / plain


def _rate(values: Tensor) -> float:
    kept = values[values > _FLOOR * values[-1]]
    spread = ((kept[-1] - kept[0]) / (kept[-1] + kept[0])).item()
    return -math.log(max(spread, 1e-16))


def said(function: Callable[[], float]) -> tuple[float | None, str]:
    """What the law says, or why it says nothing."""
    try:
        value = function()
    except (ValueError, RuntimeError) as error:
        degenerate = isinstance(error, ValueError)
        return None, "degenerate" if degenerate else "smallest eigenvalue not found"
    return value, f"{value:.2g}"


def quadratic_rows() -> tuple[list[list[str]], list[tuple[float | None, float, float]]]:
    """A row for each quadratic problem, and what is predicted and measured."""
    rows, pairs = [], []
    for name in QUADRATIC:
        problem = quadratic(load_problem(name))
        plain, _ = late_steps(problem, 1)
        deep, end = late_steps(problem, DEPTH)
        measured = plain / deep
        law, text = said(lambda p=problem, w=end: predict_speedup(p.hessian, w, DEPTH).speedup)
        loose = where_it_moves(problem.hessian, end, DEPTH)
        shown = [f"{n:.0f}" if n <= _STEPS else f"more than {_STEPS}" for n in (plain, deep)]
        bound = f"{measured:.2g}" if deep <= _STEPS else f"below {plain / _STEPS:.2g}"
        rows.append([f"`{name}`", text, f"{loose:.2g}", " and ".join(shown), bound])
        pairs.append((law, measured, loose))
        print(rows[-1], flush=True)
    return rows, pairs


class _Loss(nn.Module):
    """The training loss of a model as a function of one of its weights."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.problem, self.model = problem, model

    def forward(self) -> Tensor:
        """Mean over the batches on which runs are judged."""
        assert self.problem.loss is not None
        losses = [
            self.problem.loss(self.model, _double(batch)) for batch in judged_batches(self.problem)
        ]
        return torch.stack(losses).mean()


def perceptron_rows() -> list[list[str]]:
    """What the law says of each weight of a perceptron after training by AdamW."""
    rows = []
    for name in PERCEPTRONS:
        problem = load_problem(name)
        run = TrialRun(problem, Trial("adamw", 3e-3, _TRAINING, seed=0))
        run.advance(_TRAINING)
        whole = _Loss(problem, run.model.double())
        for key, weight in run.model.named_parameters():
            if weight.ndim == 2:

                def loss(at: Tensor, key: str = key, whole: nn.Module = whole) -> Tensor:
                    return torch.func.functional_call(whole, {f"model.{key}": at}, ())

                _, text = said(lambda f=loss, w=weight: predict_speedup(f, w, DEPTH).speedup)
                rows.append([f"`{name}`", f"`{key}` {tuple(weight.shape)}", text])
                print(rows[-1], flush=True)
    return rows


def sides(pairs: Sequence[tuple[float, float]]) -> str:
    """How often a prediction is on the right side of 1."""
    decided = [(p, m) for p, m in pairs if max(m, 1 / m) > SAME]
    right = sum((p > 1) == (m > 1) for p, m in decided)
    return f"{right} of {len(decided)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, and write the part of the page."""
    torch.set_num_threads(1)
    rows, found = quadratic_rows()
    networks = perceptron_rows()
    strict = [(law, measured) for law, measured, _ in found if law is not None]
    loose = [(each, measured) for _, measured, each in found if math.isfinite(each)]
    answered = sum(row[-1][0].isdigit() for row in networks)
    header = ("problem", "predicted", "where it moves", "steps without and with", "measured")
    body = "\n\n".join([
        f"The law applies to {len(strict)} of {len(found)} problems. Where depth changes the speed "
        f"by more than 5 %, it says correctly whether depth is faster in {sides(strict)}. With "
        "condition numbers over the directions that descent moves along (no theorem), it does so "
        f"in {sides(loose)}. It applies to {answered} of {len(networks)} weights of trained "
        "perceptrons. Predicted and measured are speed-ups by depth.",
        table(header, rows),
        table(("perceptron", "weight", "predicted"), networks),
    ])  # fmt: skip
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
